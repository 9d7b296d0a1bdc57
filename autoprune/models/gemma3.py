"""Gemma 3: SigLIP tower, patches averaged in blocks to a fixed number of visual tokens, one projecting matrix.

Pan and scan (crops of large images) is off whatever the image processor's settings say, unless the caller turns it on:
then every crop is an image of its own here, as it is for the model.

The decoder alternates sliding-window and full layers, and the tokens of an image see each other in both directions.
Both live in the masks the library makes from the unpruned sequence, and the engine gathers rows and columns of those: a
token that stays sees exactly those of its old neighbours that stay. FlashAttention ignores such masks and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.models import common, limits
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn

TOWER = "siglip_vision_model"
ASSUMED = common.Assumed(("gemma3_text",), (TOWER,), {"model_type": TOWER}, image_token=262144)
TOKENS = 256


class Gemma3:
    name = "gemma3"
    model_types: tuple[str, ...] = ("gemma3",)
    protects_newlines = True  # there are none

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        if (config.get("text_config") or {}).get("use_bidirectional_attention"):
            raise BadInput(
                "text_config.use_bidirectional_attention: a model that reads text both ways does not answer",
                code="unsupported-model",
            )
        width = int(common.vision_config(config, ASSUMED)["hidden_size"])
        return common.geometry(
            self.name,
            config,
            _tokens(config),
            ASSUMED,
            unit=_unit(config),
            projector_width=width,
            projector_hidden=0,
            projector_norms=1,
            lacks={"compact": limits.LAYERED, "rope": limits.TURNS, "encoder_rows": limits.MIXED},
        )

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        written = int((processor or {}).get("image_seq_length") or _tokens(config))
        return {"tokens_per_image": written, "tile": common.tile_size(config, processor, ASSUMED)}

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config, ASSUMED)

    def places(self, model: nn.Module) -> Places:
        config: Any = model.config
        return common.places(model, unit=_unit(config.to_dict()))

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        return common.watch_projector(places, report)


def _tokens(config: Mapping[str, Any]) -> int:
    return int(config.get("mm_tokens_per_image") or TOKENS)


def _unit(config: Mapping[str, Any]) -> int:
    """Patches along a side of the block that is averaged. Raises BadInput unless blocks tile the image."""
    vision = common.vision_config(config, ASSUMED)
    side, blocks = vision["image_size"] // vision["patch_size"], math.isqrt(_tokens(config))
    if blocks * blocks != _tokens(config) or side % blocks:
        raise BadInput(
            f"mm_tokens_per_image: {side} x {side} patches cannot be averaged to {_tokens(config)} tokens",
            code="unsupported-model",
        )
    return int(side // blocks)


FAMILY: Family = Gemma3()
