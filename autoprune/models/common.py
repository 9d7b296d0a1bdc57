"""What the LLaVA families share: reading their configurations and finding their parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.models import defaults
from autoprune.models.family import Places
from autoprune.policy.geometry import Geometry, VisionGeometry

if TYPE_CHECKING:
    from torch import nn

TOWERS_WITH_CLS = ("clip_vision_model",)
DERIVED = ("num_key_value_heads", "head_dim")  # null means: from the other values


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's configuration with the library's defaults filled in."""
    return _filled(config.get("text_config") or {"model_type": "llama"}, "llama", defaults.TEXT, "text_config")


def vision_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The vision tower's configuration with the library's defaults filled in."""
    given = config.get("vision_config") or defaults.LLAVA_TOWER
    return _filled(given, "clip_vision_model", defaults.VISION, "vision_config")


def _filled(
    given: Mapping[str, Any], default_type: str, table: Mapping[str, Mapping[str, Any]], key: str
) -> dict[str, Any]:
    kind = given.get("model_type", default_type)
    if kind not in table:
        raise BadInput(f"{key}.model_type {kind!r} is not supported; supported: {', '.join(sorted(table))}")
    filled = {**table[kind], **{k: v for k, v in given.items() if v is not None or k in DERIVED}, "model_type": kind}
    wrong = [k for k in table[kind] if filled[k] is not None and not _is_count(filled[k])]
    if wrong:
        raise BadInput(f"{key}.{wrong[0]}: expected a positive integer, found {filled[wrong[0]]!r}")
    return filled


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def strategy(config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> str:
    """`default` leaves the CLS feature out, `full` keeps it."""
    value = (processor or {}).get("vision_feature_select_strategy")
    value = value or config.get("vision_feature_select_strategy") or "default"
    if value not in ("default", "full"):
        raise BadInput(f"vision_feature_select_strategy: expected 'default' or 'full', found {value!r}")
    return str(value)


def tile_size(config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> tuple[int, int]:
    """Height and width in pixels of what the tower is given."""
    image = (processor or {}).get("image_processor") or processor or {}
    side = int(vision_config(config)["image_size"])
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
    family: str, config: Mapping[str, Any], tokens_per_image: int | None, protects_newlines: bool = True
) -> Geometry:
    text, vision = text_config(config), vision_config(config)
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
        projector_width=taken * int(vision["hidden_size"]),
        protects_newlines=protects_newlines,
    )


def image_token(config: Mapping[str, Any]) -> int:
    for key in ("image_token_id", "image_token_index"):
        if config.get(key) is not None:
            return int(config[key])
    return 32000


def places(model: nn.Module) -> Places:
    """Find the parts of a LLaVA-shaped model. Adapters (PEFT) are looked through."""
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
        blocks=inner.encoder.layers,
        projector=base.multi_modal_projector,
        language_model=language_model,
        layers=language_model.layers,
    )
