"""What every executor promises (`ports.Executor`), held against each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import executors_fakes
import pytest
from executors_fakes import ask, worker_spec

from autoprune.errors import BadInput
from autoprune.executors import InlineExecutor, RayExecutor
from autoprune.ports import Executor, Failed, Measured, Outcome

Make = Callable[..., Executor]


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A factory of executors on the obedient evaluator, its notes in `tmp_path`; closes what it made."""
    made: list[Executor] = []
    if request.param == "ray":
        request.getfixturevalue("cluster")

    def build(how: str = "build") -> Executor:
        path = f"{executors_fakes.__name__}:{how}"
        spec = worker_spec(tmp_path)
        made.append(InlineExecutor(spec, path) if request.param == "inline" else RayExecutor(spec, 2, build=path))
        return made[-1]

    yield build
    for executor in made:
        executor.close()


def drain(executor: Executor, limit: float = 60) -> list[Outcome]:
    """Wait until nothing is in flight."""
    outcomes: list[Outcome] = []
    until = time.monotonic() + limit
    while got := executor.wait(timeout=limit):
        outcomes += got
        assert time.monotonic() < until
    return outcomes


def builds(folder: Path) -> int:
    return len(list(folder.glob("built-*")))


def test_every_request_is_answered_exactly_once(make: Make, tmp_path: Path) -> None:
    executor = make()
    words = [None, "a", "b", "bug", "c", "a", "oom", "d"]
    for number, word in enumerate(words):
        executor.submit(ask(word, tag=str(number)))
    outcomes = drain(executor)
    assert sorted(int(outcome.request.tag) for outcome in outcomes) == list(range(len(words)))
    for outcome in outcomes:
        assert outcome.request.policy == words[int(outcome.request.tag)]
        assert isinstance(outcome, Failed) == (outcome.request.policy in ("bug", "oom"))
    assert len(list(tmp_path.glob("run-*"))) == len(words)
    assert executor.wait() == []


def test_values_arrive_bit_for_bit(make: Make) -> None:
    executor = make()
    executor.submit(ask("a", tag="x"))
    (outcome,) = drain(executor)
    assert isinstance(outcome, Measured)
    assert outcome.request == ask("a", tag="x")
    assert outcome.measurement.values == {"m": 0.1 + 0.2}
    assert outcome.measurement.samples == {"m": (0.3, 0.3)}
    assert outcome.measurement.images == (0, 1)


@pytest.mark.parametrize(
    ("word", "kind", "says"),
    [
        ("oom", "oom", "OutOfMemoryError: CUDA out of memory"),
        ("cublas", "oom", "RuntimeError: CUDA error: out of memory"),
        ("non_finite", "non_finite", "answer_nll is NaN"),
        ("nan", "non_finite", "m is nan"),
        ("inf_sample", "non_finite", "1 records of m"),
        ("bug", "error", "KeyError: 'no such layer'"),
    ],
)
def test_failures_are_told_apart(make: Make, word: str, kind: str, says: str) -> None:
    executor = make()
    executor.submit(ask(word))
    executor.submit(ask("fine"))
    outcomes = {outcome.request.policy: outcome for outcome in drain(executor)}
    failure = outcomes[word]
    assert isinstance(failure, Failed)
    assert failure.kind == kind
    assert says in failure.message.splitlines()[0]
    assert isinstance(outcomes["fine"], Measured)


def test_an_unexpected_error_keeps_its_traceback(make: Make) -> None:
    executor = make()
    executor.submit(ask("bug"))
    (failure,) = drain(executor)
    assert isinstance(failure, Failed)
    assert "Traceback" in failure.message
    assert "executors_fakes.py" in failure.message


def test_bad_input_is_raised_not_swallowed(make: Make) -> None:
    executor = make()
    executor.submit(ask("bad"))
    with pytest.raises(BadInput, match="beyond the model's 32 layers"):
        drain(executor)


def test_bad_input_of_the_builder_surfaces_as_itself_and_once(make: Make, tmp_path: Path) -> None:
    executor = make("build_refused")
    executor.submit(ask("a"))
    with pytest.raises(BadInput, match=r"records\.jsonl:3"):
        drain(executor)
    assert builds(tmp_path) <= executor.capacity


def test_the_model_is_built_once_per_worker(make: Make, tmp_path: Path) -> None:
    executor = make()
    for number in range(6):
        executor.submit(ask("a", tag=str(number)))
    drain(executor)
    for number in range(6):
        executor.submit(ask("b", tag=str(number)))
    drain(executor)
    assert 1 <= builds(tmp_path) <= executor.capacity


def test_close_is_idempotent_and_drops_what_is_in_flight(make: Make) -> None:
    executor = make()
    executor.submit(ask("a"))
    executor.close()
    executor.close()
    assert executor.wait() == []
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(ask("a"))


def test_nothing_in_flight_returns_at_once(make: Make) -> None:
    executor: Any = make()
    began = time.monotonic()
    assert executor.wait() == []
    assert time.monotonic() - began < 1
    assert executor.capacity >= 1
