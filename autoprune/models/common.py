"""What the families built like LLaVA (tower, projector, decoder) share: reading their configurations and finding their
parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.models import defaults, limits
from autoprune.models.family import ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry, VisionGeometry

if TYPE_CHECKING:
    from torch import nn

TOWERS_WITH_CLS = ("clip_vision_model", "internvl_vision")
DERIVED = ("num_key_value_heads", "head_dim")  # null means: from the other values
SIDES = ("image_size", "patch_size")  # a number, or height and width


@dataclass(frozen=True)
class Assumed:
    """What a family's configuration class takes a config.json to mean, and which parts we know.

    `texts` and `towers` are the supported model types, first the one that stands where none is written; `tower` are
    the values that stand where there is no vision_config at all.
    """

    texts: tuple[str, ...]
    towers: tuple[str, ...]
    tower: Mapping[str, Any]
    strategy: str = "default"
    image_token: int = 32000


LLAVA = Assumed(("llama", "mistral", "qwen2"), ("clip_vision_model", "siglip_vision_model"), defaults.LLAVA_TOWER)


def text_config(config: Mapping[str, Any], assumed: Assumed = LLAVA) -> dict[str, Any]:
    """The decoder's configuration with the library's defaults filled in."""
    given = config.get("text_config") or {}
    return filled(given, assumed.texts, defaults.TEXT, "text_config")


def vision_config(config: Mapping[str, Any], assumed: Assumed = LLAVA) -> dict[str, Any]:
    """The vision tower's configuration with the library's defaults filled in."""
    given = config.get("vision_config") or assumed.tower
    return filled(given, assumed.towers, defaults.VISION, "vision_config")


def filled(
    given: Mapping[str, Any], supported: tuple[str, ...], table: Mapping[str, Mapping[str, Any]], key: str
) -> dict[str, Any]:
    """A part's configuration over the defaults of its type. Raises BadInput for other types and unusable numbers."""
    kind = given.get("model_type", supported[0])
    if kind not in supported:
        raise BadInput(
            f"{key}.model_type {kind!r} is not supported; supported: {', '.join(sorted(supported))}",
            code="unsupported-model",
        )
    filled = {**table[kind], **{k: v for k, v in given.items() if v is not None or k in DERIVED}, "model_type": kind}
    filled.update({k: _side(filled[k], f"{key}.{k}") for k in SIDES if k in filled})
    wrong = [k for k in table[kind] if filled[k] is not None and not _is_count(filled[k])]
    if wrong:
        raise BadInput(
            f"{key}.{wrong[0]}: expected a positive integer, found {filled[wrong[0]]!r}", code="unsupported-model"
        )
    return filled


def _side(value: Any, key: str) -> Any:
    """One number where height and width are equal."""
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise BadInput(f"{key}: only squares are supported, found {list(value)}", code="unsupported-model")
    return value[0]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def strategy(config: Mapping[str, Any], processor: Mapping[str, Any] | None, assumed: Assumed = LLAVA) -> str:
    """`default` leaves the CLS feature out, `full` keeps it."""
    value = (processor or {}).get("vision_feature_select_strategy")
    value = value or config.get("vision_feature_select_strategy") or assumed.strategy
    if value not in ("default", "full"):
        raise BadInput(
            f"vision_feature_select_strategy: expected 'default' or 'full', found {value!r}", code="unsupported-model"
        )
    return str(value)


def image_settings(processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The image processor's settings, wherever they are written."""
    return (processor or {}).get("image_processor") or processor or {}


def tile_size(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, assumed: Assumed = LLAVA
) -> tuple[int, int]:
    """Height and width in pixels of what the tower is given."""
    image = image_settings(processor)
    side = int(vision_config(config, assumed)["image_size"])
    crop = image.get("crop_size") if image.get("do_center_crop", True) else image.get("size")
    if isinstance(crop, int):
        return crop, crop
    if isinstance(crop, Mapping) and "height" in crop and "width" in crop:
        return int(crop["height"]), int(crop["width"])
    return side, side


def tile_tokens(config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> int:
    """Placeholder tokens the processor writes for one tower input."""
    vision = vision_config(config)
    patch = int((processor or {}).get("patch_size") or vision["patch_size"])
    height, width = tile_size(config, processor)
    own_extra = 1 if vision["model_type"] in TOWERS_WITH_CLS else 0
    extra = (processor or {}).get("num_additional_image_tokens")
    count = (height // patch) * (width // patch) + (own_extra if extra is None else int(extra))
    return count - 1 if strategy(config, processor) == "default" else count


def geometry(
    family: str,
    config: Mapping[str, Any],
    tokens_per_image: int | None,
    assumed: Assumed = LLAVA,
    *,
    unit: int = 1,
    projector_width: int | None = None,
    projector_hidden: int | None = None,
    projector_norms: int = 0,
    lacks: Mapping[str, str] | None = None,
) -> Geometry:
    """`unit` as in `Places`; `projector_width` defaults to the tower's width times the layers that are taken;
    `projector_norms` and `lacks` as in `Geometry`, beside what follows from the decoder's windows and `unit`."""
    text, vision = text_config(config, assumed), vision_config(config, assumed)
    heads = int(text["num_attention_heads"])
    layers = config.get("vision_feature_layer", -2)
    taken = 1 if isinstance(layers, int) else len(layers)
    return Geometry(
        family=family,
        depth=int(text["num_hidden_layers"]),
        width=int(text["hidden_size"]),
        heads=heads,
        kv_heads=int(text["num_key_value_heads"] or heads),
        head_dim=int(text["head_dim"] or text["hidden_size"] // heads),
        mlp=int(text["intermediate_size"]),
        vocabulary=int(text["vocab_size"]),
        vision=VisionGeometry(
            depth=int(vision["num_hidden_layers"]),
            width=int(vision["hidden_size"]),
            heads=int(vision["num_attention_heads"]),
            mlp=int(vision["intermediate_size"]),
            image_size=int(vision["image_size"]),
            patch_size=int(vision["patch_size"]),
            channels=int(vision["num_channels"]),
            has_cls=vision["model_type"] in TOWERS_WITH_CLS,
            executed=int(vision["num_hidden_layers"]),
        ),
        tokens_per_image=tokens_per_image,
        projector_width=projector_width or taken * int(vision["hidden_size"]),
        projector_hidden=projector_hidden,
        projector_norms=projector_norms,
        merge_unit=unit * unit,
        lacks={
            **limits.flash(text["model_type"], config.get("text_config") or {}, int(text["num_hidden_layers"])),
            **({} if unit == 1 else {"encoder_rows": limits.MIXED}),
            **(lacks or {}),
        },
    )


def image_token(config: Mapping[str, Any], assumed: Assumed = LLAVA) -> int:
    for key in ("image_token_id", "image_token_index"):
        if config.get(key) is not None:
            return int(config[key])
    return assumed.image_token


def watch_projector(places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
    """Report every row of the projector's output [inputs, R, D] as a visual token, each tower input as an image."""

    def projected(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inputs, rows = output.shape[:2]
        report([raster(i * rows, rows, math.isqrt(rows)) for i in range(inputs)])

    return places.projector.register_forward_hook(projected).remove


def raster(start: int, tokens: int, side: int) -> ImageLayout:
    """One tower input in raster order; a leading CLS token (strategy `full`) sits at row and column 0."""
    import torch

    extra = max(tokens - side * side, 0)
    patch = (torch.arange(tokens) - extra).clamp(min=0)
    return ImageLayout(
        source=torch.arange(start, start + tokens),
        segment=torch.zeros(tokens, dtype=torch.long),
        row=patch // side,
        column=patch % side,
        tiles=1,
    )


def places(model: nn.Module, blocks: str = "layers", attention: str = "self_attn", unit: int = 1) -> Places:
    """Find the parts of a LLaVA-shaped model. Adapters (PEFT) are looked through. `blocks` is the encoder's list."""
    unwrap: Any = getattr(model, "get_base_model", None)
    whole: Any = model if unwrap is None else unwrap()
    base = getattr(whole, "model", whole)
    missing = [n for n in ("vision_tower", "multi_modal_projector", "language_model") if not hasattr(base, n)]
    if missing:
        raise PolicyMismatch(f"{type(model).__name__} has no {missing[0]!r}: it is not a model of this family")
    tower, language_model = base.vision_tower, base.language_model
    inner = getattr(tower, "vision_model", tower)
    return Places(
        base=base,
        tower=tower,
        blocks=getattr(inner.encoder, blocks),
        projector=base.multi_modal_projector,
        language_model=language_model,
        layers=language_model.layers,
        attention=attention,
        unit=unit,
    )
