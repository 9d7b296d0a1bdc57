"""What a part may ask of a model run. The session captures only what a policy asks for. Torch-free.

Every signal is a value per visual token, aligned with the tokens of the stage that asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from autoprune.document.numbers import exact
from autoprune.document.problems import shown, suggest
from autoprune.errors import BadInput, Mistake
from autoprune.pruning.decoder_signals import DecoderSignal, KeyNorm, Order
from autoprune.pruning.encoder_signals import EncoderSignal
from autoprune.pruning.parts import Config

Space = Literal["projected", "encoder", "hidden", "keys"]


@dataclass(frozen=True)
class Site:
    """Where a stage stands: its site name, the decoder layer it takes effect at, and what the model has."""

    name: Literal["projector", "llm"]
    layer: int
    depth: int
    vision_depth: int
    has_cls: bool


Signal = EncoderSignal | DecoderSignal


class PartConfig(Config):
    """Parameters of a part that can say which signals they need and how many extra rows a merger makes."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Signals needed at a site. Raises BadInput where the part cannot work there."""
        return ()

    def extra(self, kept: int, current: int) -> int:
        """Rows a merger makes beside the selected tokens, out of `kept` of `current` tokens."""
        return 0


def _layer(value: Any, words: tuple[str, ...]) -> int | str:
    if isinstance(value, str) and value in words:
        return value
    wrong = f"a layer is {', '.join((*words, 'an integer or a fraction of the depth like 1/2'))}; not {shown(value)}"
    try:
        number = exact(value)
    except ValueError as error:
        raise Mistake("not-a-layer", wrong + suggest(value, words)) from error
    if number.denominator == 1:
        return int(number)
    if not 0 < number < 1:
        raise Mistake("not-a-layer", wrong)
    return str(number)


def _number(value: Any) -> Any:
    return float(exact(value))


def _ends(value: Any, words: tuple[str, ...]) -> tuple[int | str, int | str] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise Mistake("not-a-range", f"layers is the first and the last of a range, like [2, 5]; not {shown(value)}")
    return _layer(value[0], words), _layer(value[1], words)


# A number as documents write it: 1/4 and .25 too.
Number = Annotated[float, BeforeValidator(_number)]
# Layers as documents write them: exact, so fractions are kept as text.
EncoderLayer = Annotated[int | str | None, BeforeValidator(lambda value: None if value is None else _layer(value, ()))]
EncoderLayers = Annotated[tuple[int | str, int | str] | None, BeforeValidator(lambda value: _ends(value, ()))]
ROWS = ("prev", "own")
DecoderLayer = Annotated[
    int | str | None, BeforeValidator(lambda value: None if value is None else _layer(value, ROWS))
]
DecoderLayers = Annotated[tuple[int | str, int | str] | None, BeforeValidator(lambda value: _ends(value, ROWS))]


def _in_order(first: Any, last: Any) -> bool:
    """Whether a range may run from first to last. What cannot be told without the depth is told with it."""
    numbers = type(first) is int and type(last) is int
    return not (numbers and (first < 0) == (last < 0) and first >= last)


def layer_or_layers(given: Any) -> Any:
    """Parameters of a criterion that reads one layer (`layer`) or a range (`layers`, put together by `over`).

    For a validator that runs before the fields: exactly one of the two is set, the other None; `over` is `sum` unless
    said otherwise, and only legal with a range. Raises ValueError.
    """
    if not isinstance(given, Mapping):
        return given
    data = dict(given)
    if data.get("layers") is None:
        if data.get("over") is not None:
            raise Mistake("conflict", "`over` puts several layers together: it needs `layers: [first, last]`")
        if data.get("layer", 0) is None:
            del data["layer"]
        return data
    if data.get("layer") is not None:
        raise Mistake("conflict", "give `layer` or `layers`, not both")
    ends = data["layers"]
    if isinstance(ends, list | tuple) and len(ends) == 2 and not _in_order(*ends):
        raise Mistake("wrong-order", f"layers goes from shallow to deep, not from {ends[0]} to {ends[1]}")
    return {**data, "layer": None, "over": data.get("over") or "sum"}


def encoder_block(layer: int | str, site: Site, name: str = "encoder_attention.layer") -> int:
    """0-based encoder block from an index that may be negative or a fraction of the depth. `name`: for messages."""
    index = _fraction(layer, site.vision_depth)
    absolute = index + site.vision_depth if index < 0 else index
    if not 0 <= absolute < site.vision_depth:
        raise BadInput(f"{name} {layer!r} is outside the encoder's {site.vision_depth} blocks")
    return absolute


def decoder_row_layer(layer: int | str, site: Site, name: str = "llm_attention.layer") -> tuple[int, bool]:
    """Decoder layer that a criterion reads at a site, and whether it is the stage's own. `name`: for messages."""
    if site.name == "projector":
        raise BadInput(f"{name.partition('.')[0]} cannot be used at site 'projector': no layer has run yet")
    if layer == "own":
        return site.layer, True
    if layer == "prev":
        if site.layer == 0:
            raise BadInput(f"{name} 'prev' cannot be used at llm:0: no layer runs before it")
        return site.layer - 1, False
    index = _fraction(layer, site.depth)
    if not 0 <= index <= site.layer:
        raise BadInput(f"{name} {layer!r} must lie between 0 and the stage's own layer {site.layer}")
    return index, index == site.layer


def key_norm(site: Site, order: Order) -> KeyNorm:
    """Norm of the keys of the layer before the stage; at llm:0 of layer 0, run up to its attention for it."""
    return KeyNorm(max(site.layer - 1, 0), site.layer == 0, order)


def _fraction(layer: int | str, depth: int) -> int:
    if isinstance(layer, int):
        return layer
    top, _, bottom = layer.partition("/")
    if not (top.isdigit() and bottom.isdigit() and int(bottom)):
        raise BadInput(f"layer {layer!r}: expected an integer or a fraction such as '1/2'")
    rounded = (2 * int(top) * depth + int(bottom)) // (2 * int(bottom))
    return max(1, min(rounded, depth - 1) if int(top) < int(bottom) else rounded)
