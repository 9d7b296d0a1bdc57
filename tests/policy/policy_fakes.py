"""A small registry of parts, and geometries, for the tests of documents."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from autoprune.policy.geometry import Geometry, VisionGeometry


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Encoder(_Config):
    layer: int | str | None = -2
    layers: tuple[int | str, int | str] | None = None
    source: Literal["cls"] = Field("cls", alias="from")


class _Decoder(_Config):
    layer: int | str | None = "prev"
    layers: tuple[int | str, int | str] | None = None
    source: Literal["last", "text"] = Field("last", alias="from")


class _Norm(_Config):
    space: Literal["projected", "encoder", "hidden", "keys"] = "projected"


class _Random(_Config):
    seed: int = 0


class _Nms(_Config):
    tau: float = Field(0.9, ge=0, le=1)


class _Far(_Config):
    space: Literal["projected", "hidden"] = "projected"


class _Group(_Config):
    split: Literal["equal", "size", "proportional", "whole", "pooled"] = "equal"


def _side(value: Any) -> str:
    if not isinstance(value, float | str | int) or not 0 < Fraction(str(value)) <= 1:
        raise ValueError("a window's side is a part of the grid's, such as 1/4")
    return str(Fraction(str(value)))


class _Window(_Group):
    side: Annotated[str, BeforeValidator(_side)] = "1/4"


_PARTS: dict[str, dict[str, tuple[type[_Config], tuple[str, ...], str]]] = {
    "criterion": {
        "encoder_attention": (_Encoder, ("projector", "llm"), "value"),
        "feature_norm": (_Norm, ("projector", "llm"), "value"),
        "llm_attention": (_Decoder, ("llm",), "value"),
        "random": (_Random, ("projector", "llm"), "value"),
    },
    "selector": {
        "far": (_Far, ("projector", "llm"), "order"),
        "nms": (_Nms, ("projector", "llm"), "order"),
        "stride": (_Config, ("projector", "llm"), "no"),
        "top": (_Config, ("projector", "llm"), "order"),
    },
    "group": {
        "image": (_Group, ("projector", "llm"), "no"),
        "row": (_Group, ("projector", "llm"), "no"),
        "tile": (_Group, ("projector", "llm"), "no"),
        "window": (_Window, ("projector", "llm"), "no"),
    },
    "merger": {
        "drop": (_Config, ("projector", "llm"), "no"),
        "nearest": (_Far, ("projector", "llm"), "no"),
        "soft": (_Config, ("projector", "llm"), "value"),
    },
}


class FakeParts:
    """A `PartLookup`."""

    def names(self, kind: str) -> tuple[str, ...]:
        return tuple(sorted(_PARTS.get(kind, {})))

    def fill(self, kind: str, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return _PARTS[kind][name][0].model_validate(dict(params)).model_dump(mode="json", by_alias=True)

    def sites(self, kind: str, name: str) -> tuple[str, ...]:
        return _PARTS[kind][name][1]

    def needs_score(self, kind: str, name: str) -> bool:
        return name in ("top", "nms")

    def shares_layers(self, rule: str) -> bool:
        return False

    def reads_score(self, kind: str, name: str) -> Any:
        return _PARTS[kind][name][2]


PARTS = FakeParts()


def geometry(depth: int = 8, tokens: int | None = 64, vision_depth: int = 6) -> Geometry:
    vision = VisionGeometry(vision_depth, 32, 2, 64, 28, 7)
    return Geometry("llava", depth, 64, 4, 4, 16, 128, 100, vision, tokens)
