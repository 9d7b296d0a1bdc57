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


def test_how_much_two_policies_share() -> None:
    assert shared(policy(1, 2, 3), policy(1, 2, 4)) == 2
    assert shared(policy(1, 2), policy(1, 2, 4)) == 2
    assert shared(policy(1, 2), policy(3, 2)) == shared(None, policy(1)) == shared(None, None) == 0


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
