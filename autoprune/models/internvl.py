"""InternVL (the library's own port): a tower with a class token; blocks of 2 x 2 patches become one visual token each.

The processor cuts an image into tiles, the thumbnail last, and tells the model neither which tiles belong together nor
how they lie. So every tile counts as an image of its own here, and video frames do too: they use the same placeholder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.models import common, defaults
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn

TOWER = "internvl_vision"
ASSUMED = common.Assumed(("qwen2", "llama", "qwen3"), (TOWER,), defaults.VISION[TOWER], image_token=151667)
TILES = (1, 12)  # fewest and most, as the image processor has them


class InternVL:
    name = "internvl"
    model_types: tuple[str, ...] = ("internvl",)
    protects_newlines = True  # there are none

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        if not isinstance(config.get("vision_feature_layer", -1), int):
            raise BadInput(
                "vision_feature_layer: InternVL takes one layer's features, found several", code="unsupported-model"
            )
        if common.strategy(config, None, ASSUMED) != "default":
            raise BadInput(
                "vision_feature_select_strategy 'full': a class token has no place in blocks of patches",
                code="unsupported-model",
            )
        unit = _unit(config)
        width = int(common.vision_config(config, ASSUMED)["hidden_size"]) * unit * unit
        tokens = _tile_tokens(config, processor) if _tiles(processor)[1] == 1 else None
        return common.geometry(self.name, config, tokens, ASSUMED, unit=unit, projector_width=width, projector_norms=1)

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return {
            "tile_tokens": _tile_tokens(config, processor),
            "tile": common.tile_size(config, processor, ASSUMED),
            "tiles": _tiles(processor),
        }

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config, ASSUMED)

    def places(self, model: nn.Module) -> Places:
        config: Any = model.config
        return common.places(model, blocks="layer", attention="attention", unit=_unit(config.to_dict()))

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        return common.watch_projector(places, report)


def _unit(config: Mapping[str, Any]) -> int:
    """Patches along a side of the block that becomes one token. Raises BadInput unless they fill the tile."""
    ratio = float(config.get("downsample_ratio") or 0.5)
    vision = common.vision_config(config, ASSUMED)
    side, unit = vision["image_size"] // vision["patch_size"], round(1 / ratio)
    if unit < 1 or abs(unit * ratio - 1) > 1e-6 or side % unit:
        raise BadInput(
            f"downsample_ratio: {ratio} does not divide {side} x {side} patches into blocks", code="unsupported-model"
        )
    return unit


def _tile_tokens(config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> int:
    """Placeholders for one tile."""
    vision = common.vision_config(config, ASSUMED)
    own = (vision["image_size"] // vision["patch_size"] // _unit(config)) ** 2
    return int((processor or {}).get("image_seq_length") or config.get("image_seq_length") or own)


def _tiles(processor: Mapping[str, Any] | None) -> tuple[int, int]:
    """Fewest and most tiles of an image (without the thumbnail). The processor cuts whatever `crop_to_patches` says."""
    image = common.image_settings(processor)
    fewest, most = image.get("min_patches") or TILES[0], image.get("max_patches") or TILES[1]
    return int(fewest), int(most)


FAMILY: Family = InternVL()
