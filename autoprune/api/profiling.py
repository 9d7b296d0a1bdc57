"""What `layers: auto` measures of the unpruned model, for the worker and for the driver."""

from __future__ import annotations

from autoprune.check import Checked
from autoprune.ports import MeasureRequest
from autoprune.search.placement import RECORDS, Profiling

SIGNALS = ("similarity", "attention")


def profiled(checked: Checked, depth: int) -> dict[str, tuple[MeasureRequest, ...]]:
    """The measures of each signal, one of each decoder layer; none without `layers: auto`."""
    if checked.loaded.spec.search.layers == "all":
        return {}
    return {signal: tuple(_request(signal, layer) for layer in range(depth)) for signal in SIGNALS}


def _request(signal: str, layer: int) -> MeasureRequest:
    return MeasureRequest("layer_profile", {"layer": layer, "signal": signal}, f"{signal} at layer {layer}")


def profiling(checked: Checked, depth: int) -> Profiling | None:
    """What the driver asks for before anything is proposed; None without `layers: auto`."""
    labels = {signal: tuple(r.label for r in found) for signal, found in profiled(checked, depth).items()}
    return Profiling(min(RECORDS, checked.loaded.spec.calibration.search), **labels) if labels else None
