"""Where a stage acts: `projector`, or `llm:<l>` before decoder layer l. `input` is a spelling of `llm:0`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from autoprune.document.numbers import exact
from autoprune.document.problems import Path, Problems, shown, suggest
from autoprune.errors import Mistake

Layer = int | Fraction
LATER_SITES = ("encoder", "cache")
MOST_LAYERS = 1000  # no model has as many; what is checked grows with the depth


def absolute(layer: Layer, depth: int) -> int:
    """A layer as a number: fractions of the depth are rounded half up, at least 1 and, below 1, at most the last
    layer; integers are never rescaled."""
    if not isinstance(layer, Fraction):
        return layer
    rounded = int(layer * depth + Fraction(1, 2))
    return max(1, min(rounded, depth - 1) if layer < 1 else rounded)


def layer_text(layer: Layer) -> int | str:
    return f"{layer.numerator}/{layer.denominator}" if isinstance(layer, Fraction) else layer


def layer_of(value: Any) -> Layer:
    """A layer as written: an integer from 0, or a fraction of the depth between 0 and 1. Raises ValueError."""
    wrong = f"a layer is an integer from 0, or a fraction of the depth like 1/2, not {shown(value)}"
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,6}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise Mistake("not-a-layer", f"a decoder layer counts from 0, not {value}")
        if value >= MOST_LAYERS:
            raise Mistake("not-a-layer", f"a decoder layer is below {MOST_LAYERS}, not {value}")
        return value
    try:
        number = exact(value)
    except ValueError as error:
        raise Mistake("not-a-layer", wrong) from error
    if not 0 < number < 1:
        raise Mistake("not-a-layer", f"a fraction of the depth lies between 0 and 1, not {shown(value)}")
    return number


@dataclass(frozen=True)
class Site:
    """`layer` is None at the projector, else an integer or a fraction of the depth."""

    kind: Literal["projector", "llm"]
    layer: Layer | None = None

    @property
    def text(self) -> str:
        return "projector" if self.layer is None else f"llm:{layer_text(self.layer)}"

    def at(self, depth: int) -> int:
        """The decoder layer before which the stage takes effect."""
        return 0 if self.layer is None else absolute(self.layer, depth)


def read_site(value: Any, path: Path, found: Problems) -> Site | None:
    """The site as written, or None with the mistake added to `found`."""
    allowed = "projector, input, llm:<layer>"
    if not isinstance(value, str):
        found.add(path, "wrong-type", f"a site is one of {allowed}, not {shown(value)}")
        return None
    kind, colon, layer = value.partition(":")
    if kind in LATER_SITES:
        found.add(path, "not-available", f"the site {kind!r} is not available in this version; available: {allowed}")
    elif value == "projector":
        return Site("projector")
    elif value == "input":
        return Site("llm", 0)
    elif kind == "llm" and colon:
        try:
            return Site("llm", layer_of(layer.strip()))
        except Mistake as error:
            found.add(path, error.code, str(error), offset=len("llm:"))
    else:
        hint = "; llm needs a layer, as in llm:2" if kind == "llm" else suggest(kind, ("projector", "input", "llm"))
        found.add(path, "unknown-site", f"unknown site {value!r}; allowed: {allowed}{hint}")
    return None
