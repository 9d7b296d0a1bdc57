"""`layers: auto`: where may a sampled layer stand? Read off what the unpruned model does with its visual tokens.

Two signals, each a number per decoder layer. A layer that changes visual tokens much (BTP: the similarity of adjacent
layers jumps) decides anew what they are worth: a cut stands right behind it. Where the attention that the prompt gives
them shifts fastest (AdaptInfer: an inflection of its curve), a cut stands behind the shift. Pure, but for `narrowed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from autoprune.policy.placing import Slot, placed, reachable

if TYPE_CHECKING:
    from autoprune.ports import Measurement
    from autoprune.search.plan import StudyPlan

SHARE = 1 / 3  # of a range's layers are places at most for their changes
LEAST = 2  # of them are in any case, where a range has so many
RECORDS = 64  # of the search split; BTP calibrates on as many


@dataclass(frozen=True)
class Profiling:
    """What is measured of the unpruned model, on the first `records` of the search split: labels by decoder layer."""

    records: int
    similarity: tuple[str, ...]
    attention: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.similarity, *self.attention)


@dataclass(frozen=True)
class Signals:
    """By decoder layer, means over records. `similarity`: of visual tokens before and after the layer; `attention`: the
    share of its attention that the last prompt token gives them."""

    similarity: tuple[float, ...]
    attention: tuple[float, ...]


@dataclass(frozen=True)
class Places:
    """Layers that a cut may stand before: behind `jumps` of the tokens, behind `shifts` of the attention."""

    jumps: tuple[int, ...]
    shifts: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(sorted({*self.jumps, *self.shifts}))


def places(signals: Signals, layers: range) -> Places:
    """Of the `layers` that a cut can stand before: the two behind the layers that change visual tokens most, of the
    first third so ordered those above the mean change, too, and those behind a shift of the attention."""
    alike = {layer: signals.similarity[layer - 1] for layer in layers if layer > 0}
    most = sorted(alike, key=lambda layer: (alike[layer], layer))[: max(LEAST, math.ceil(SHARE * len(layers)))]
    jumps = [layer for i, layer in enumerate(most) if i < LEAST or alike[layer] < mean(alike.values())]
    return Places(tuple(sorted(jumps)), tuple(layer for layer in shifts(signals.attention) if layer in layers))


def shifts(attention: Sequence[float]) -> tuple[int, ...]:
    """Layers right behind an inflection: the second difference changes its sign there, so that the slope from the layer
    before is steepest. Only slopes above their mean count: a flat curve turns everywhere."""
    slopes = [after - before for before, after in pairwise(attention)]
    if len(slopes) < 3:
        return ()
    bends = [after - before for before, after in pairwise(slopes)]
    steep = mean(map(abs, slopes))
    turns = [i for i in range(1, len(bends)) if bends[i - 1] * bends[i] < 0 < bends[i - 1] * slopes[i]]
    return tuple(i + 1 for i in turns if abs(slopes[i]) > steep)


def narrowed(plan: StudyPlan, measure: Callable[[int, tuple[str, ...]], Measurement]) -> tuple[StudyPlan, list[str]]:
    """The plan with narrower layers in every arm, and what was narrowed and why; as it is without `layers: auto`.
    `measure(records, labels)`: the unpruned model's numbers."""
    if plan.profiling is None:
        return plan, []
    asked = plan.profiling
    values = measure(asked.records, asked.labels).values
    signals = Signals(tuple(values[one] for one in asked.similarity), tuple(values[one] for one in asked.attention))
    arms, said = dict[str, Any](), [f"layers: auto, from the unpruned model on {asked.records} records:"]
    for arm, proposals in plan.arms.items():
        found = {name: places(signals, layers) for name, layers in reachable(proposals.slots).items()}
        known = _known(plan, arm, proposals.slots)
        arms[arm] = proposals.narrowed({name: {*at.all, *known[name]} for name, at in found.items()})
        said += [_said(arm, name, at, signals, known[name], proposals.slots) for name, at in found.items()]
    first = plan.first_arm
    return replace(plan, proposals=arms.pop(first), more_arms=arms), said


def _known(plan: StudyPlan, arm: str, slots: Sequence[Slot]) -> Mapping[str, set[int]]:
    """Where the arm's references stand: they stay points of the space, so that samplers learn from them."""
    found: dict[str, set[int]] = {slot.name: set() for slot in slots}
    for reference in plan.references:
        if reference.params is not None and (reference.arm or plan.first_arm) == arm:
            for name, layer in placed(slots, reference.params).items():
                found[name].add(layer)
    return found


def _said(arm: str, name: str, at: Places, signals: Signals, known: set[int], slots: Sequence[Slot]) -> str:
    layers = reachable(slots)[name]
    left = sorted({*at.all, *known})
    who = f"{name} of arm {arm}" if arm else name
    if len(left) == len(layers):
        return f"{who} keeps all its layers, {_listed(left)}"
    usual = median(signals.similarity[layer - 1] for layer in layers if layer > 0)
    jumps = [f"{layer} ({signals.similarity[layer - 1]:.3f})" for layer in at.jumps]
    why = [f"behind the largest changes of visual tokens (cosine similarity, median {usual:.3f}): {', '.join(jumps)}"]
    if at.shifts:
        why.append(f"behind shifts of the attention to them: {_listed(at.shifts)}")
    if known:
        why.append(f"of warm starts: {_listed(sorted(known))}")
    return f"{who}: layers {_listed(left)} of {layers[0]} to {layers[-1]}; {'; '.join(why)}"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
