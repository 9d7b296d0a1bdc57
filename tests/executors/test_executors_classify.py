from __future__ import annotations

import pytest
import torch
from executors_fakes import ask

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.executors.classify import attempt, failed
from autoprune.ports import EvalRequest, Measurement


class NonFiniteThing(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "oom"),
        (MemoryError(), "oom"),
        (RuntimeError("shape mismatch"), "error"),
        (ValueError("the word is out of memory"), "error"),
        (NonFiniteThing(), "error"),
        (ZeroDivisionError("division by zero"), "error"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert failed(ask("a"), error).kind == kind


def test_the_first_line_is_the_summary_and_the_tail_is_bounded() -> None:
    outcome = failed(ask("a"), MemoryError())
    assert outcome.message.splitlines()[0] == "MemoryError"
    assert len(failed(ask("a"), ValueError("x" * 9000)).message) < 14000


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def evaluate(self, request: EvalRequest) -> Measurement:
        raise self.error


@pytest.mark.parametrize("error", [BadInput("no"), PolicyMismatch("no"), KeyboardInterrupt(), SystemExit(3)])
def test_what_is_not_the_evaluations_failure_goes_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        attempt(Raising(error), ask("a"))
