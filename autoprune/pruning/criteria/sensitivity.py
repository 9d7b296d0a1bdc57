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
    """No parameters. Refused for a projector that is not made of two linear layers around a GELU or SiLU, or of one
    linear layer after a norm; a norm may also stand before the two."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Sensitivity(),)


def flops(config: SensitivityConfig, sizes: Sizes) -> int:
    """2·R·m² per picture: R rows of width w enter the projector, m is the width between its layers, d the width after.
    With p norms in a row 2·R·(p·m² + w·m + p·m·d), with a norm and a single layer 2·R·d."""
    geometry = sizes.geometry
    norms, after = geometry.projector_norms, geometry.width
    inner = after if geometry.projector_hidden is None else geometry.projector_hidden
    rows = (sizes.tower_tokens - int(geometry.vision.has_cls)) // geometry.merge_unit
    if not inner:
        return sizes.pictures * 2 * rows * after
    each = max(norms, 1) * inner**2
    if norms:
        each += geometry.projector_width * inner + norms * inner * after
    return sizes.pictures * 2 * rows * each


@part(
    "criterion",
    "sensitivity",
    SensitivityConfig,
    flops=flops,
    paper="ZOO-Prune: Training-Free Token Pruning via Zeroth-Order Gradient Estimation (2025)",
)
def sensitivity(view: StageView, config: SensitivityConfig) -> Tensor:
    """Norm of the projector's Jacobian at the token's encoder features (all its patches'), exactly."""
    return view.provide(Sensitivity())
