"""How much of what the model's tokens carry does pruning disturb?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from autoprune.errors import BadInput, Mistake
from autoprune.measures import distances
from autoprune.measures.capture import State, Tokens
from autoprune.measures.registry import Need, measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor

Layer = int | str
FORMS = "`last`, `every`, `weighted`, a list such as [1/2, -1] or weights such as {1/2: 0.3, last: 0.7}"


def _layer(value: Any) -> Layer:
    """An integer, or a fraction of the depth kept as exact text."""
    if value == "last":
        return -1
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise Mistake("not-a-layer", f"a layer is a whole number or a fraction of the depth such as 1/2, not {value!r}")
    if isinstance(value, int):
        return value
    try:
        exact = Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise Mistake("not-a-layer", f"{value!r} is neither a whole number nor a fraction such as 1/2") from error
    if exact.denominator == 1:
        return int(exact)
    if not 0 < exact < 1:
        raise Mistake("not-a-layer", f"a fraction of the depth is between 0 and 1, not {value}")
    return str(exact)


def _layers(value: Any) -> Any:
    if value in ("every", "weighted"):
        return value
    if value == "last":
        return (-1,)
    if not isinstance(value, Mapping | list | tuple) or not value:
        raise Mistake("not-a-layer", f"layers are {FORMS}")
    found = tuple(_layer(layer) for layer in value)
    if not isinstance(value, Mapping):
        return found
    if len(set(found)) < len(found):
        raise Mistake("repeated", "a layer has two weights")
    return dict(zip(found, map(_weight, value.values()), strict=True))


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise Mistake("not-a-number", f"a layer's weight is a number above 0, not {value!r}")
    return float(value)


class InformationFlowConfig(Config):
    """`layers`: after how many decoder layers (1 = after the first, -1 or `last` = after the last, 1/2 = half way);
    `every` weighs all alike, `weighted` each by its number, a mapping as it says. `tokens`: the `last` one of the
    prompt, those that predict the `answer`, or all `text` of the prompt. `distance`, mean over the tokens: `cosine` is
    1 - cosine similarity, `l2` the length of the difference relative to the unpruned state, `logit_kl` the divergence
    of what the final norm and the head read out there; `cka` is 1 - linear CKA of a sample's tokens."""

    layers: Annotated[
        Annotated[tuple[Layer, ...], Field(min_length=1)] | dict[Layer, float] | Literal["every", "weighted"],
        BeforeValidator(_layers),
    ] = ("1/2", -1)
    distance: Literal["cosine", "l2", "cka", "logit_kl"] = "cosine"
    tokens: Tokens = Field("last", validate_default=True)

    @field_validator("tokens")
    @classmethod
    def _has_rows(cls, tokens: Tokens, info: ValidationInfo) -> Tokens:
        if tokens == "last" and info.data.get("distance") == "cka":
            raise Mistake(
                "conflict", "cka compares a sample's tokens with each other: it needs `tokens: text` or `answer`"
            )
        return tokens

    @model_serializer(mode="wrap")
    def _shortest(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is left out where it is not used: what was measured before it came is found again."""
        made: dict[str, Any] = dump(self)
        if self.tokens == "last":
            made.pop("tokens", None)
        return made

    def weights(self, depth: int) -> dict[int, float]:
        """Layers as counts in [1, depth], with weights of sum 1; fractions of the depth round half up, to at least 1.
        Raises ValueError outside."""
        if self.layers == "every":
            given = [(layer, 1.0) for layer in range(1, depth + 1)]
        elif self.layers == "weighted":
            given = [(layer, float(layer)) for layer in range(1, depth + 1)]
        elif isinstance(self.layers, dict):
            given = [(_absolute(layer, depth), weight) for layer, weight in self.layers.items()]
        else:
            given = [(_absolute(layer, depth), 1.0) for layer in self.layers]
        found: dict[int, float] = {}
        for layer, weight in given:
            found[layer] = found.get(layer, 0.0) + weight / sum(w for _, w in given)
        return found

    def states(self, depth: int) -> list[State]:
        """What a run has to keep. Raises ValueError for a layer outside."""
        return [(self.tokens, layer) for layer in self.weights(depth)]


def _absolute(layer: Layer, depth: int) -> int:
    if isinstance(layer, str):
        return max(1, int(Fraction(layer) * depth + Fraction(1, 2)))
    found = layer if layer >= 0 else depth + 1 + layer
    if not 1 <= found <= depth:
        raise Mistake("beyond-model", f"layer {layer} is not among 1 to {depth} (or -{depth} to -1) of this model")
    return found


def _needs(config: InformationFlowConfig) -> set[Need]:
    return {"answers"} if config.tokens == "answer" else set()


@measure("information_flow", InformationFlowConfig, direction="lower", needs={"states"}, also_needs=_needs)
def information_flow(view: View, config: InformationFlowConfig) -> Tensor:
    """Distance between hidden states with and without pruning, at the chosen tokens and layers.

    Text and answers are never pruned, so that their rows pair up.
    """
    owners = view.rows[config.tokens]
    total = view.logits.new_zeros(view.size)
    for layer, weight in config.weights(view.depth).items():
        state = (config.tokens, layer)
        pruned, full = view.states[state], view.reference_states[state]
        total += weight * _distance(view, config, pruned, full, owners)
    return total


def _distance(view: View, config: InformationFlowConfig, pruned: Tensor, full: Tensor, owners: Tensor) -> Tensor:
    """[B], from rows [R, width] of which `owners` [R] says whose they are."""
    if config.distance == "cka":
        return distances.cka(pruned.float(), full.float(), _enough(view, config, owners))
    if config.distance == "logit_kl":
        if view.readout is None:
            raise ValueError("logit_kl reads hidden states out through the model's head")
        rows = distances.read_out_kl(pruned, full, view.readout)
    else:
        rows = (distances.cosine if config.distance == "cosine" else distances.l2)(pruned.float(), full.float())
    return view.mean_per_sample(rows, owners)


def _enough(view: View, config: InformationFlowConfig, owners: Tensor) -> list[int]:
    """How many rows each sample has. Raises BadInput for a sample of too few."""
    counts: list[int] = owners.bincount(minlength=view.size).tolist()
    for record, count in zip(view.records, counts, strict=True):
        if count < distances.FEWEST:
            least = f"at least {distances.FEWEST} {config.tokens} tokens a record"
            raise BadInput(f"information_flow: cka needs {least}, end token included; record {record!r} has {count}")
    return counts
