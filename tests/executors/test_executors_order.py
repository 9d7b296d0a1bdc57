"""Which idle worker a request goes to: no Ray is needed to see that."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace
from typing import Any

from autoprune.executors.ray_actors import RayExecutor, _Actor
from autoprune.policy.prefix import shared
from autoprune.ports import EvalRequest


def policy(*keeps: int) -> str:
    return json.dumps({"stages": [{"layer": layer, "keep": keep} for layer, keep in enumerate(keeps)]})


def test_policies_with_more_stages_in_common_share_more() -> None:
    one = policy(1, 2, 3)
    amounts = [shared(one, policy(*keeps)) for keeps in ((4, 2, 3), (1, 4, 3), (1, 2, 4), (1, 2, 3))]
    assert amounts == sorted(set(amounts))
    assert shared(None, one) == shared(None, None) == 0
    assert shared("no policy at all", one) == 0, "what is in it is not an executor's business"


def test_a_request_goes_to_the_idle_worker_whose_last_one_begins_most_like_it() -> None:
    executor: Any = object.__new__(RayExecutor)
    executor.capacity, executor._timeout, executor._queue = 3, None, deque()
    handle = SimpleNamespace(evaluate=SimpleNamespace(remote=lambda request: object()))
    lasts = [policy(1, 2), policy(3, 4, 5), policy(3, 6)]
    executor._actors = [_Actor(handle, None, last=last) for last in lasts]

    def given(*policies: str | None) -> list[int]:
        found = []
        for one in policies:
            executor._queue.append(EvalRequest(one, "search", ()))
            executor._dispatch()
            found.append(next(i for i, a in enumerate(executor._actors) if a.request and a.request.policy == one))
        return found

    assert given(policy(3, 4, 9), policy(3, 4, 8)) == [1, 2], "the best one is busy then"
    assert given(policy(7)) == [0]
    executor._queue.append(EvalRequest(None, "search", ()))
    executor._dispatch()
    assert len(executor._queue) == 1, "nobody is idle"
    for actor in executor._actors:
        actor.call = actor.request = None
    executor._dispatch()
    assert executor._actors[0].last is None, "where all share as little, the first one"
