"""One evaluation attempted, and what its failure means. Shared by every executor, so they all say the same."""

from __future__ import annotations

import logging
import math
import sys
import traceback
from collections.abc import Iterable

from autoprune.errors import BadInput
from autoprune.ports import EvalRequest, Evaluator, Failed, FailureKind, Measured, Measurement

log = logging.getLogger(__name__)

_TRACE_CHARACTERS = 4000


def attempt(evaluator: Evaluator, request: EvalRequest) -> Measured | Failed:
    """Evaluate once. BadInput goes through: no other trial would fare better, so the search has to stop."""
    try:
        measurement = evaluator.evaluate(request)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - an evaluation runs other people's models; every failure is classified
        return failed(request, error)
    broken = _not_finite(measurement)
    return Failed(request, "non_finite", broken) if broken else Measured(request, measurement)


def failed(request: EvalRequest, error: BaseException) -> Failed:
    """The outcome for an exception: what happened in the first line, the end of the traceback below it."""
    summary = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    trace = "".join(traceback.format_exception(error))
    log.info("evaluation %s failed: %s\n%s", request.tag, summary, trace)
    return Failed(request, kind_of(error), f"{summary}\n\n{trace[-_TRACE_CHARACTERS:]}")


def kind_of(error: BaseException) -> FailureKind:
    """`oom` for memory of the device or the host, `non_finite` where a measure found NaN or infinity, else `error`.

    Classes are told by name: torch and the measures need not be importable where an outcome is read.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"OutOfMemoryError", "MemoryError"} or _says_out_of_memory(error):
        return "oom"
    return "non_finite" if "NonFinite" in names else "error"


def _says_out_of_memory(error: BaseException) -> bool:
    """Libraries below torch (cuBLAS, the CPU allocator) report it as a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _not_finite(measurement: Measurement) -> str:
    """Which measures hold NaN or infinities; '' if none does."""
    labels = {label: (value,) for label, value in measurement.values.items()}
    found = [_broken(label, "", values) for label, values in labels.items()]
    found += [_broken(label, "records of ", values) for label, values in measurement.samples.items()]
    return "; ".join(filter(None, found))


def _broken(label: str, what: str, values: Iterable[float]) -> str:
    bad = [value for value in values if not math.isfinite(value)]
    if not bad:
        return ""
    return f"{len(bad)} {what}{label} not finite" if what else f"{label} is {bad[0]}"


def free_device_memory() -> None:
    """Give torch's cached blocks back after an out-of-memory, if torch and a GPU are in use at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
