"""What every executor promises (`ports.Executor`), held against each of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from executors_fakes import ask, word_of

from autoprune.errors import BadInput
from autoprune.ports import Executor, Failed, Measured, Outcome


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


def test_every_request_is_answered_exactly_once(shared: Executor) -> None:
    words = [None, "a", "b", "bug", "c", "a", "nan", "d"]
    for number, word in enumerate(words):
        shared.submit(ask(word, tag=str(number)))
    outcomes = drain(shared)
    assert sorted(int(outcome.request.tag) for outcome in outcomes) == list(range(len(words)))
    for outcome in outcomes:
        word = word_of(outcome.request)
        assert word == words[int(outcome.request.tag)]
        assert isinstance(outcome, Failed) == (word in ("bug", "nan"))
    assert shared.wait() == []


def test_values_arrive_bit_for_bit(shared: Executor) -> None:
    shared.submit(ask("a", tag="x"))
    (outcome,) = drain(shared)
    assert isinstance(outcome, Measured)
    assert outcome.request == ask("a", tag="x")
    assert outcome.measurement.values == {"m": 0.1 + 0.2}
    assert outcome.measurement.samples == {"m": (0.3, 0.3)}
    assert outcome.measurement.images == (0, 1)


@pytest.mark.parametrize(
    ("word", "kind", "says"),
    [
        ("oom", "oom", "RuntimeError: CUDA error: out of memory"),
        ("non_finite", "non_finite", "answer_nll is NaN"),
        ("nan", "non_finite", "m is nan"),
        ("inf_sample", "non_finite", "1 records of m"),
        ("bug", "error", "KeyError: 'no such layer'"),
    ],
)
def test_failures_are_told_apart(shared: Executor, word: str, kind: str, says: str) -> None:
    shared.submit(ask(word))
    shared.submit(ask("fine"))
    outcomes = {word_of(outcome.request): outcome for outcome in drain(shared)}
    failure = outcomes[word]
    assert isinstance(failure, Failed)
    assert failure.kind == kind
    assert says in failure.message.splitlines()[0]
    assert isinstance(outcomes["fine"], Measured)


def test_an_unexpected_error_keeps_its_traceback(shared: Executor) -> None:
    shared.submit(ask("bug"))
    (failure,) = drain(shared)
    assert isinstance(failure, Failed)
    assert "Traceback" in failure.message
    assert "executors_fakes.py" in failure.message


def test_bad_input_is_raised_not_swallowed(make: Callable[..., Executor]) -> None:
    executor = make()
    executor.submit(ask("bad"))
    with pytest.raises(BadInput, match="beyond the model's 32 layers"):
        drain(executor)


def test_bad_input_of_the_builder_surfaces_as_itself_and_once(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make("build_refused")
    executor.submit(ask("a"))
    with pytest.raises(BadInput, match=r"records\.jsonl:3"):
        drain(executor)
    assert builds(tmp_path) <= executor.capacity


def test_the_model_is_built_once_per_worker(make: Callable[..., Executor], tmp_path: Path) -> None:
    executor = make(workers=2)
    for number in range(6):
        executor.submit(ask("a", tag=str(number)))
    drain(executor)
    for number in range(6):
        executor.submit(ask("b", tag=str(number)))
    drain(executor)
    assert 1 <= builds(tmp_path) <= executor.capacity


def test_close_is_idempotent_and_drops_what_is_in_flight(make: Callable[..., Executor]) -> None:
    executor = make()
    executor.submit(ask("a"))
    executor.close()
    executor.close()
    assert executor.wait() == []
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(ask("a"))


def test_nothing_in_flight_returns_at_once(shared: Executor) -> None:
    began = time.monotonic()
    assert shared.wait() == []
    assert time.monotonic() - began < 1
    assert shared.capacity >= 1
