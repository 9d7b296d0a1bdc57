"""How strongly the projector answers to a small change of the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.encoder_signals import Sensitivity
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class SensitivityConfig(PartConfig):
    """No parameters. Refused for a projector that is not two linear layers around a GELU or SiLU."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Sensitivity(),)


def flops(config: SensitivityConfig, sizes: Sizes) -> int:
    """2·R·m² per picture: R rows enter the projector, m is the width between its layers."""
    geometry = sizes.geometry
    inner = geometry.width if geometry.projector_hidden is None else geometry.projector_hidden
    rows = (sizes.tower_tokens - int(geometry.vision.has_cls)) // geometry.merge_unit
    return sizes.pictures * 2 * rows * inner**2


@part(
    "criterion",
    "sensitivity",
    SensitivityConfig,
    flops=flops,
    paper="ZOO-Prune: Training-Free Token Pruning via Zeroth-Order Gradient Estimation (2025)",
)
def sensitivity(view: StageView, config: SensitivityConfig) -> Tensor:
    """Norm of the projector's Jacobian at the token's encoder features, exactly."""
    return view.provide(Sensitivity())
