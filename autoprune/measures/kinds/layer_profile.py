"""Where in the unpruned model do visual tokens change, and where does the prompt turn away from them?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.measures.registry import measure
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.measures.profile import Profile


class LayerProfileConfig(Config):
    """`layer`: the decoder layer, 0 is the first. `similarity`: of visual tokens before and after it; `attention`: the
    share of its attention that the last prompt token gives them there."""

    layer: int = Field(0, ge=0)
    signal: Literal["similarity", "attention"] = "similarity"


@measure(
    "layer_profile",
    LayerProfileConfig,
    direction="lower",
    unpruned=True,
    paper="BTP (similarity of adjacent layers), AdaptInfer (shift of cross-modal attention)",
)
def layer_profile(profile: Profile, config: LayerProfileConfig) -> Tensor:
    """One decoder layer of the unpruned model: what it does to visual tokens."""
    numbers = profile.similarity if config.signal == "similarity" else profile.attention
    if config.layer >= numbers.shape[1]:
        raise BadInput(f"layer_profile: the model has decoder layers 0 to {numbers.shape[1] - 1}, not {config.layer}")
    return numbers[:, config.layer]
