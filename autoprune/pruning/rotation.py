"""Queries and keys without their rotary embedding.

A rotation is undone by the one with the opposite angle, exactly, so long as it is a rotation: the model's own function
is called with -sin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.pruning.tensors import take

if TYPE_CHECKING:
    from torch import Tensor

Rotate = Callable[["Tensor", "Tensor", "Tensor", "Tensor"], tuple["Tensor", "Tensor"]]


def rotate_of(attention: Any) -> Rotate | None:
    """The function that turns queries and keys in this attention module's file, if there is one."""
    return getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)


def unrotated(attention: Any, query: Tensor, key: Tensor, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """query [B, H, n, D] and key [B, Hkv, n, D] in float32 as they were before (cos, sin) turned them."""
    rotate = rotate_of(attention)
    if rotate is None:
        raise AutoPruneError("the rotary embedding of this attention cannot be undone")
    cos, sin = embeddings
    return rotate(query.float(), key.float(), cos.float(), -sin.float())


def even(attention: Any, query: Tensor, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, 1, n, D] of ones, turned by (cos, sin): what they attend to, distance alone decides."""
    rotate = rotate_of(attention)
    if rotate is None:
        raise AutoPruneError("this attention has no rotary embedding that can be called")
    ones = query.new_ones((query.shape[0], 1, *query.shape[2:]), dtype=torch.float32)
    cos, sin = embeddings
    return rotate(ones, ones, cos.float(), sin.float())


def from_zero(attention: Any, key: Tensor, embeddings: tuple[Tensor, Tensor], first: Tensor) -> Tensor:
    """key [B, Hkv, n, D] in float32 as (cos, sin) would have turned it if column first [B, 1] of each sample stood at
    position 0. What depends on the angle itself, an L1 norm, then does not depend on the padding in front.
    """
    rotate = rotate_of(attention)
    if rotate is None:
        return key.float()
    cos, sin = (take(part.float(), first, 1) for part in embeddings)
    return rotate(key.float(), key.float(), cos, -sin)[1]


def can_undo(language_model: Any, attention: Any) -> bool:
    """Whether turning back gives what was there, tried on two positions. Waits for the device; not for a prefill."""
    rotate, embed = rotate_of(attention), getattr(language_model, "rotary_emb", None)
    if rotate is None or embed is None or not hasattr(attention, "head_dim"):
        return False
    device = embed.inv_freq.device if hasattr(embed, "inv_freq") else None
    states = torch.linspace(-1, 1, 2 * attention.head_dim, device=device).view(1, 1, 2, attention.head_dim)
    try:
        cos, sin = embed(states[:, 0], position_ids=torch.tensor([[3, 70]], device=device))
        back = rotate(*rotate(states, states, cos, sin), cos, -sin)[0]
    except (AttributeError, TypeError, ValueError, RuntimeError):  # another signature, axes, layer types
        return False
    return bool(torch.allclose(back, states, atol=1e-4))
