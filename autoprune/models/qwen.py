"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share.

The tower takes the patches of all images as one sequence in which an image (or a window of it) only sees itself. They
are ordered by merge unit: `unit` x `unit` neighbours stand together, and the merger makes one visual token of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.models import common, limits
from autoprune.models.defaults import QWEN_PIXELS, QWEN_TEXT, QWEN_VISION
from autoprune.models.family import ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry, VisionGeometry

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE_TOKEN = 151655
LACKS = {"compact": limits.AXES, "patch_entropy": limits.PIXELS, "encoder_rows": limits.MIXED}
Order = Callable[["Tensor", Mapping[str, Any]], "Tensor"]


def text_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The decoder's configuration with defaults. The hub's older files have its keys beside `vision_config`."""
    kind = f"{name}_text"
    given = config.get("text_config")
    if given is None:
        given = {k: config[k] for k in QWEN_TEXT[kind] if k in config}
    return common.filled(given, (kind,), QWEN_TEXT, "text_config")


def lacks(config: Mapping[str, Any], name: str, depth: int) -> dict[str, str]:
    """As in `Geometry`."""
    given = config.get("text_config")
    return {**LACKS, **limits.flash(f"{name}_text", config if given is None else given, depth)}


def vision_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The tower's configuration with defaults. Older files give it the model's own type."""
    kind = f"{name}_vision"
    given = dict(config.get("vision_config") or {})
    if given.get("model_type") == name:
        given["model_type"] = kind
    return common.filled(given, (kind,), QWEN_VISION, "vision_config")


def blocks(vision: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of tower blocks that a configuration lists."""
    found = vision.get(key, default)
    if not isinstance(found, list | tuple) or not all(isinstance(block, int) for block in found):
        raise BadInput(f"vision_config.{key}: expected block numbers, found {found!r}", code="unsupported-model")
    return tuple(found)


def geometry(
    name: str,
    config: Mapping[str, Any],
    *,
    width: int,
    mlp: int,
    gated: bool,
    windowed: tuple[int, ...] = (),
    window: int = 0,
    deepstack: tuple[int, ...] = (),
) -> Geometry:
    """`width` and `mlp` are the tower's; its `windowed` blocks attend within windows of `window` patches a side."""
    text, vision = text_config(config, name), vision_config(config, name)
    heads = int(text["num_attention_heads"])
    unit = int(vision["spatial_merge_size"]) ** 2
    return Geometry(
        family=name,
        depth=int(text["num_hidden_layers"]),
        width=int(text["hidden_size"]),
        heads=heads,
        kv_heads=int(text["num_key_value_heads"] or heads),
        head_dim=int(text["head_dim"] if "head_dim" in QWEN_TEXT[f"{name}_text"] else text["hidden_size"] // heads),
        mlp=int(text["intermediate_size"]),
        vocabulary=int(text["vocab_size"]),
        vision=VisionGeometry(
            depth=int(vision["depth"]),
            width=width,
            heads=int(vision["num_heads"]),
            mlp=mlp,
            image_size=0,
            patch_size=int(vision["patch_size"]),
            channels=int(vision["in_channels"]) * int(vision["temporal_patch_size"]),
            executed=int(vision["depth"]),
            gated_mlp=gated,
            windowed=windowed,
            window=window,
            deepstack=deepstack,
        ),
        tokens_per_image=None,
        projector_width=unit * width,
        projector_hidden=unit * width,
        projector_norms=unit,
        merge_unit=unit,
        protects_newlines=False,
        lacks=lacks(config, name, int(text["num_hidden_layers"])),
    )


def token_settings(name: str, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Patch and merge sides, and the bounds between which the processor resizes images (in pixels)."""
    image, vision = common.image_settings(processor), vision_config(config, name)
    size = image.get("size") or {}
    least, most = QWEN_PIXELS
    return {
        "pixels": [
            image.get("min_pixels") or size.get("shortest_edge") or least,
            image.get("max_pixels") or size.get("longest_edge") or most,
        ],
        "patch": image.get("patch_size") or vision["patch_size"],
        "merge": image.get("merge_size") or vision["spatial_merge_size"],
    }


def image_token(config: Mapping[str, Any]) -> int:
    value = config.get("image_token_id")
    return IMAGE_TOKEN if value is None else int(value)


def places(model: nn.Module) -> Places:
    """Find the parts of a Qwen-VL model. Adapters (PEFT) are looked through."""
    unwrap: Any = getattr(model, "get_base_model", None)
    whole: Any = model if unwrap is None else unwrap()
    base = getattr(whole, "model", whole)
    missing = [n for n in ("visual", "language_model") if not hasattr(base, n)]
    if missing:
        raise PolicyMismatch(f"{type(model).__name__} has no {missing[0]!r}: it is not a model of this family")
    return Places(
        base=base,
        tower=base.visual,
        blocks=base.visual.blocks,
        projector=base.visual.merger,
        language_model=base.language_model,
        layers=base.language_model.layers,
        attention="attn",
        unit=int(base.visual.spatial_merge_size),
        packed=True,
    )


def watch(places: Places, report: Callable[[list[ImageLayout]], None], order: Order | None = None) -> Undo:
    """Report the layout of every image that goes through the tower.

    `order(grid_thw, tower's keywords)` says which visual token each row of the merger's output is, where that is not
    the token's own number.
    """

    def ended(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        report(layouts(grid, places.unit, None if order is None else order(grid, kwargs)))

    handle: Any = places.tower.register_forward_hook(ended, with_kwargs=True)
    undo: Undo = handle.remove
    return undo


def layouts(grid_thw: Tensor, unit: int, order: Tensor | None) -> list[ImageLayout]:
    """Raster order in merged units; the frames of an image follow each other. grid_thw [images, 3] in patches."""
    import torch

    grids = [(int(t), int(h) // unit, int(w) // unit) for t, h, w in grid_thw.tolist()]
    counts = [t * h * w for t, h, w in grids]
    rows = torch.arange(sum(counts)) if order is None else order.cpu().argsort()
    found = []
    for source, (t, h, w) in zip(torch.split(rows, counts), grids, strict=True):
        place = torch.arange(t * h * w)
        patches = t * h * w * unit * unit
        found.append(ImageLayout(source, torch.zeros_like(place), place // w, place % w, tiles=patches))
    return found


class QwenVL:
    """What the families of this line have in common; each adds its names and its geometry."""

    name: str
    protects_newlines = False

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return token_settings(self.name, config, processor)

    def image_token(self, config: Mapping[str, Any]) -> int:
        return image_token(config)

    def places(self, model: nn.Module) -> Places:
        return places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        return watch(places, report)
