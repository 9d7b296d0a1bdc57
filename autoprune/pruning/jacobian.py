"""How strongly a projector answers to small changes of what enters it, in closed form.

The norm of the Jacobian W₂·diag(g)·W₁ of W₂·act(W₁x + b), g = act'(W₁x + b), is sqrt(gᵀGg), where G = (W₂ᵀW₂) ∘ (W₁W₁ᵀ)
depends on the weights alone. ZOO-Prune estimates it, up to a constant, from finite differences along random directions.

A norm before W₁ makes γ∘x̂ + β of n values, x̂ = Px/σ: P takes the mean off (LayerNorm) or is the identity (RMSNorm), and
q = |x̂|²/n is a little below 1, as σ² is the mean square plus ε. The norm's own Jacobian N = (P - x̂x̂ᵀ/n)/σ has
NNᵀ = (P - (2 - q)/n·x̂x̂ᵀ)/σ². So with A = W₁·diag(γ)·P in place of W₁, G of this A and u = Ax̂, the square of the
whole is (gᵀGg - (2 - q)/n·|W₂(g∘u)|²)/σ². Patches that are normed one by one and then laid side by side (Qwen) have
each their own columns of W₁, and their squares add up.

Where one matrix A follows the norm (Gemma 3), g is 1 and Ax̂ is what comes out: (|A|² - (2 - q)/n·|Ax̂|²)/σ².
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

# The norm (if any), the first linear layer, the activation and the second, as the library calls them.
ORDERS: tuple[tuple[str, ...], ...] = (
    ("linear_1", "act", "linear_2"),  # LLaVA and its kin
    ("layer_norm", "linear_1", "act", "linear_2"),  # InternVL
    ("ln_q", "mlp.0", "mlp.1", "mlp.2"),  # Qwen2-VL, Qwen2.5-VL
    ("norm", "linear_fc1", "act_fn", "linear_fc2"),  # Qwen3-VL
)
POOLED = ("avg_pool", "mm_soft_emb_norm")  # Gemma 3: blocks of patches averaged, a norm, one matrix
MATRIX = "mm_input_projection_weight"


@dataclass(frozen=True)
class Kind:
    """A class of norms: its ε attribute, whether it takes the mean off, and what is added to its weight."""

    epsilon: str
    centred: bool = False
    offset: float = 0.0


NORMS: Mapping[str, Kind] = {
    "LayerNorm": Kind("eps", centred=True),
    "Qwen2_5_VLRMSNorm": Kind("variance_epsilon"),
    "Gemma3RMSNorm": Kind("eps", offset=1.0),
}


class Jacobian(ABC):
    """Of one projector, with its weights as they are now. `norms` takes what enters `entry` (None: nothing is needed)
    and what comes out of `inner`."""

    entry: nn.Module | None
    inner: nn.Module

    @abstractmethod
    def norms(self, entered: Tensor | None, left: Tensor) -> Tensor:
        """Frobenius norms [...] in float32 from `left` [..., m], one per row of the projector's output."""


def jacobian_of(projector: Any) -> Jacobian:
    """Raises BadInput as `refuse_projector` does. Makes the product of the weights."""
    layers = _layers(projector)
    if layers is None:
        return Pooled(projector)
    return Plain(*layers) if len(layers) == 3 else Normed(*layers)


class Plain(Jacobian):
    """Two linear layers around an activation."""

    def __init__(self, first: Any, act: Any, second: Any) -> None:
        self.entry, self.inner = None, first
        with torch.no_grad():
            before, after = first.weight.float(), second.weight.float()
            self.gram = (after.T @ after) * (before @ before.T)
        self.slope = SLOPES[_activation(act)]

    def norms(self, entered: Tensor | None, left: Tensor) -> Tensor:
        slope = self.slope(left.float())
        return _root(((slope @ self.gram) * slope).sum(-1))


class Normed(Jacobian):
    """A norm of n values, one or several side by side, before two linear layers around an activation."""

    def __init__(self, norm: Any, first: Any, act: Any, second: Any) -> None:
        self.entry, self.inner, self.norm = norm, first, Norm(norm)
        with torch.no_grad():
            self.after = second.weight.detach().float()
            outer = self.after.T @ self.after
            pieces = first.weight.float().split(self.norm.width, 1)
            self.before = [self.norm.folded(piece) for piece in pieces]
            self.grams = [outer * (piece @ piece.T) for piece in self.before]
        self.slope = SLOPES[_activation(act)]

    def norms(self, entered: Tensor | None, left: Tensor) -> Tensor:
        assert entered is not None
        slope = self.slope(left.float())
        rows, scale, share = self.norm.parts(entered.reshape(*left.shape[:-1], len(self.before), self.norm.width))
        squares = torch.zeros_like(slope[..., 0])
        for j, (before, gram) in enumerate(zip(self.before, self.grams, strict=True)):
            along = (slope * (rows[..., j, :] @ before.T)) @ self.after.T
            own = ((slope @ gram) * slope).sum(-1) - share[..., j] * along.square().sum(-1)
            squares = squares + own * scale[..., j].square()
        return _root(squares)


class Pooled(Jacobian):
    """Means over blocks of patches, a norm, one matrix: of a token's k² patches each counts 1/k²."""

    def __init__(self, projector: Any) -> None:
        self.entry, self.inner = projector.mm_soft_emb_norm, projector
        self.norm, self.side = Norm(self.entry), int(projector.avg_pool.kernel_size)
        with torch.no_grad():
            self.whole = self.norm.folded(getattr(projector, MATRIX).float().T).square().sum()

    def norms(self, entered: Tensor | None, left: Tensor) -> Tensor:
        assert entered is not None
        _, scale, share = self.norm.parts(entered)
        return _root(self.whole - share * left.float().square().sum(-1)) * scale / self.side


class Norm:
    """The numbers of a norm of `width` values."""

    def __init__(self, module: Any) -> None:
        kind = NORMS[type(module).__name__]
        self.width, self.centred = _width(module), kind.centred
        self.epsilon = float(getattr(module, kind.epsilon))
        self.gain = None if module.weight is None else module.weight.detach().float() + kind.offset

    def folded(self, weight: Tensor) -> Tensor:
        """A = W·diag(γ)·P [m, n] of the weights W [m, n] that follow the norm."""
        scaled = weight if self.gain is None else weight * self.gain
        return scaled - scaled.mean(1, keepdim=True) if self.centred else scaled

    def parts(self, entered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x̂ [..., n], 1/σ [...] and (2 - q)/n [...] of rows [..., n], in float32."""
        rows = entered.float()
        if self.centred:
            rows = rows - rows.mean(-1, keepdim=True)
        scale = torch.rsqrt(rows.square().mean(-1) + self.epsilon)
        rows = rows * scale[..., None]
        return rows, scale, (2 - rows.square().mean(-1)) / self.width


def refuse_projector(projector: Any) -> None:
    """Raises BadInput for a projector whose Jacobian is not known: see `ORDERS`, `POOLED`, `NORMS` and `SLOPES`."""
    _layers(projector)


def _layers(projector: Any) -> list[Any] | None:
    """The modules of one of `ORDERS`, None where it is `POOLED`. Raises BadInput for any other projector."""
    names = _names(projector)
    order = next((o for o in ORDERS if sorted(o) == sorted(names)), None)
    if order is None:
        if sorted(names) != sorted(POOLED) or not hasattr(projector, MATRIX):
            raise BadInput(
                f"sensitivity needs a projector of linear layers, with a norm before and an activation between them; "
                f"this model's {type(projector).__name__} is made of {', '.join(names) or 'other parts'}"
            )
        _refuse_norm(projector.mm_soft_emb_norm)
        _refuse_weights(getattr(projector, MATRIX))
        return None
    layers = [projector.get_submodule(name) for name in order]
    *norm, first, act, second = layers
    for module in norm:
        _refuse_norm(module)
    for layer in (first, second):
        _refuse_weights(layer.weight if type(layer) is torch.nn.Linear else None)
    if norm and first.in_features % _width(norm[0]):
        raise BadInput(f"sensitivity: {first.in_features} values are no whole number of rows of {_width(norm[0])}")
    if _activation(act) not in SLOPES:
        raise BadInput(f"sensitivity: the slope of the projector's {type(act).__name__} is not known")
    return layers


def _names(projector: Any) -> list[str]:
    """Of the projector's parts, and of those in a sequence."""
    found: list[str] = []
    for name, child in projector.named_children():
        inside = [f"{name}.{own}" for own, _ in child.named_children()]
        found += inside if type(child) is torch.nn.Sequential else [name]
    return found


def _refuse_norm(module: Any) -> None:
    if type(module).__name__ not in NORMS:
        raise BadInput(f"sensitivity: the Jacobian of the projector's {type(module).__name__} is not known")
    if module.weight is not None:
        _refuse_weights(module.weight)


def _refuse_weights(weight: Any) -> None:
    if weight is None or not weight.is_floating_point() or weight.is_meta:
        raise BadInput(
            "sensitivity needs the projector's plain weights; this model's are adapted, quantised or not in memory"
        )


def _width(norm: Any) -> int:
    """How many values a norm acts on together."""
    return math.prod(norm.normalized_shape) if norm.weight is None else norm.weight.numel()


def _root(squares: Tensor) -> Tensor:
    return squares.clamp(min=0).sqrt()


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
