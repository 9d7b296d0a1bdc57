"""How strongly a projector W₂·act(W₁x + b) answers to small changes of its input, in closed form.

The norm of its Jacobian W₂·diag(g)·W₁ with g = act'(W₁x + b) is sqrt(gᵀGg), where G = (W₂ᵀW₂) ∘ (W₁W₁ᵀ) depends on the
weights alone. ZOO-Prune estimates it, up to a constant, from finite differences along random directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = ["linear_1", "act", "linear_2"]


class Jacobian:
    """Of one projector, with its weights as they are now. Raises BadInput as `refuse_projector` does."""

    def __init__(self, projector: Any) -> None:
        refuse_projector(projector)
        with torch.no_grad():
            first, second = projector.linear_1.weight.float(), projector.linear_2.weight.float()
            self.gram = (second.T @ second) * (first @ first.T)
        self.slope = SLOPES[_activation(projector.act)]

    def norms(self, inner: Tensor) -> Tensor:
        """sqrt(gᵀGg) [...] in float32, from what enters the activation [..., m]."""
        slope = self.slope(inner.float())
        squares: Tensor = ((slope @ self.gram) * slope).sum(-1)
        return squares.clamp(min=0).sqrt()


def refuse_projector(projector: Any) -> None:
    """Raises BadInput for a projector that is not two plain linear layers around a GELU or SiLU."""
    names = [name for name, _ in projector.named_children()]
    if sorted(names) != sorted(LAYERS):
        raise BadInput(
            f"sensitivity needs a projector of two linear layers around an activation; "
            f"this model's {type(projector).__name__} is made of {', '.join(names) or 'other parts'}"
        )
    for layer in (projector.linear_1, projector.linear_2):
        if type(layer) is not torch.nn.Linear or not layer.weight.is_floating_point() or layer.weight.is_meta:
            raise BadInput(
                "sensitivity needs the projector's plain weights; this model's are adapted, quantised or not in memory"
            )
    if _activation(projector.act) not in SLOPES:
        raise BadInput(f"sensitivity: the slope of the projector's {type(projector.act).__name__} is not known")


def _activation(module: Any) -> str:
    """The name of an activation among `SLOPES`, else ''. torch's own GELU has both forms in one class."""
    name = type(module).__name__
    if name == "GELU":
        return "gelu" if module.approximate == "none" else "tanh"
    return CLASSES.get(name, "")


def _gelu(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def _tanh(z: Tensor) -> Tensor:
    scale = math.sqrt(2 / math.pi)
    bent = torch.tanh(scale * (z + 0.044715 * z**3))
    return 0.5 * (1 + bent) + 0.5 * z * (1 - bent.square()) * scale * (1 + 3 * 0.044715 * z.square())


def _sigmoid(z: Tensor, steepness: float) -> Tensor:
    gate = torch.sigmoid(steepness * z)
    return gate * (1 + steepness * z * (1 - gate))


SLOPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu,
    "tanh": _tanh,
    "silu": lambda z: _sigmoid(z, 1.0),
    "quick": lambda z: _sigmoid(z, 1.702),
}
CLASSES: Mapping[str, str] = {
    "GELUActivation": "gelu",
    "GELUTanh": "tanh",
    "NewGELUActivation": "tanh",
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "QuickGELUActivation": "quick",
}
