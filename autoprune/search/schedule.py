"""How much stays before each decoder layer, apart from how it is chosen.

A `Schedule` is counts: which fraction of N enters every layer, never rising. A `Form` is everything else a policy says:
scores, selectors, groups, mergers, …, as templates that stand at whatever layer a schedule drops tokens. Together they
are a policy document; what a policy keeps is read back from its canonical form. Pure values, no measuring.

A lone stage before the language model (layer 0) is a template of its own, its keep part of the schedule. Where several
stand there, they stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.policy.budget import count_steps, fractional_budget, fractions, steps_of
from autoprune.policy.canonical import from_json
from autoprune.policy.document import Policy
from autoprune.policy.expand import expand, span_of
from autoprune.policy.model import AnyStage, CurveStage, KeepSpec, Stage
from autoprune.policy.resolved import Keep
from autoprune.policy.sites import Site, absolute

if TYPE_CHECKING:
    from autoprune.policy.budget import Step

ONE = Fraction(1)


@dataclass(frozen=True)
class Schedule:
    """`steps`: (layer, which fraction of N stays from there on), deeper layers later and with less; all of N stays
    before the first. Equal schedules have equal steps."""

    depth: int
    steps: tuple[tuple[int, Fraction], ...] = ()

    def __post_init__(self) -> None:
        points = [(-1, ONE), *self.steps, (self.depth, Fraction(-1))]
        if not all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points)):
            raise ValueError(f"keep falls from layer to layer of {self.depth}, not {self.steps}")

    @classmethod
    def of(cls, depth: int, keeps: Mapping[int, Fraction]) -> Schedule:
        """From keeps at some layers, in any order; one that would rise keeps what is there."""
        steps: list[tuple[int, Fraction]] = []
        for layer, keep in sorted(keeps.items()):
            if keep < (steps[-1][1] if steps else ONE):
                steps.append((layer, keep))
        return cls(depth, tuple(steps))

    @classmethod
    def of_layers(cls, keeps: Sequence[Fraction]) -> Schedule:
        """From the fraction of N that enters each layer."""
        return cls.of(len(keeps), dict(enumerate(keeps)))

    def at(self, layer: int) -> Fraction:
        """The fraction of N that enters a layer."""
        return min((keep for place, keep in self.steps if place <= layer), default=ONE)

    @property
    def layers(self) -> tuple[Fraction, ...]:
        """The fraction of N that enters each layer."""
        return tuple(self.at(layer) for layer in range(self.depth))

    def cut(self, layer: int, keep: Fraction) -> Schedule:
        """From this layer on, at most `keep` of N."""
        before = {place: kept for place, kept in self.steps if place < layer}
        after = {place: min(kept, keep) for place, kept in self.steps if place >= layer}
        return Schedule.of(self.depth, {**before, **after, layer: min(keep, self.at(layer))})

    def on(self, tokens: int | None) -> Schedule:
        """The same where N is `tokens`: every keep the count that it stands for."""
        if not tokens:
            return self
        counts = count_steps(self._steps(), tokens, self.depth, [0] * len(self.steps))
        kept = {layer: Fraction(k, tokens) for (layer, _), k in zip(self.steps, counts, strict=True)}
        return Schedule.of(self.depth, kept)

    def budget(self, tokens: int | None = None) -> Fraction:
        """Visual positions entering the decoder layers as a fraction of the unpruned model's; in whole tokens where N
        is known."""
        return fractional_budget(self.on(tokens)._steps(), self.depth)

    def _steps(self) -> list[Step]:
        return [(layer, Keep("fraction", keep)) for layer, keep in self.steps]


def schedule_of(canonical: str, tokens: int | None) -> Schedule:
    """What a candidate keeps before each layer, from its canonical form. Protected tokens and count rules decide on the
    run; a rule counts with the most it may find. Raises BadInput where keeps are in tokens and N is not known."""
    policy = from_json(canonical)
    steps = steps_of(policy)
    return _kept(steps, policy.depth, tokens)


def _kept(steps: Sequence[Step], depth: int, tokens: int | None) -> Schedule:
    if tokens:
        counts = count_steps(steps, tokens, depth, [0] * len(steps))
        kept = [Fraction(k, tokens) for k in counts]
    else:
        try:
            kept = list(fractions(steps, depth))
        except ValueError:
            message = "a keep in tokens is no part of N where images have different numbers of visual tokens"
            raise BadInput(message) from None
    return Schedule.of(depth, {layer: keep for (layer, _), keep in zip(steps, kept, strict=True)})


@dataclass(frozen=True)
class Form:
    """How tokens are chosen wherever a schedule drops some. `layers`: where it may. `front`: stages before the language
    model that stay as they are, and `start` what they leave. `templates`: the stage whose parts stand from that layer
    on, shallow ones first."""

    policy: Policy
    depth: int
    layers: tuple[int, ...]
    front: tuple[AnyStage, ...]
    start: Schedule
    templates: tuple[tuple[int, AnyStage], ...]
    values: Mapping[str, Any] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, document: Mapping[str, Any], depth: int, layers: Iterable[int] = (), tokens: int | None = None) -> Form:
        """From one policy; `layers` are allowed beside its own (`Proposals.layers` says those of a space). Raises
        BadInput where a schedule cannot stand in its place: count rules and `restore` decide how much stays
        themselves."""
        policy = Policy.parse(document)
        for stage in policy.stages:
            if (reason := _own_count(stage)) is not None:
                raise BadInput(f"{policy.name or 'the policy'}: {reason}, so no schedule can say how much stays")
        placed = [(_ends(stage, depth), stage) for stage in policy.stages]
        early = [stage for (first, _), stage in placed if first == 0]
        front = tuple(early) if len(early) > 1 or any(isinstance(stage, CurveStage) for stage in early) else ()
        templates = {first: stage for (first, _), stage in placed if first > 0 or not front}
        if not templates:
            raise BadInput(f"{policy.name or 'the policy'} has no stage that a schedule could stand for")
        own = {layer for (first, last), _ in placed for layer in range(first, last + 1)}
        inside = any(layer > 0 for layer in templates)
        admitted = {layer for layer in {*own, *layers} if (layer in templates if layer == 0 else inside)}
        steps = [(p.layer, p.keep) for p in expand(replace(policy, stages=front), depth, tokens)]
        start = _kept(steps, depth, tokens)
        return cls(policy, depth, tuple(sorted(admitted)), front, start, tuple(sorted(templates.items(), key=_first)))

    def template(self, layer: int) -> AnyStage:
        """The stage whose parts stand at a layer: the nearest at or before it, else the first; at 0 only its own."""
        inside = [(first, stage) for first, stage in self.templates if (first == 0) == (layer == 0)]
        return next((stage for first, stage in reversed(inside) if first <= layer), inside[0][1])

    def places(self, block: int = 1) -> tuple[int, ...]:
        """The first of every `block` layers in which a schedule may drop tokens, and layer 0 where it is one."""
        inside = [layer for layer in self.layers if layer > 0]
        chosen: list[int] = []
        for layer in inside:
            if not chosen or layer >= chosen[-1] + block:
                chosen.append(layer)
        return (*(layer for layer in self.layers if layer == 0), *chosen)

    def document(self, schedule: Schedule) -> dict[str, Any]:
        """The policy that keeps what a schedule says: one stage wherever it falls. Steps that keep more than `front`
        leaves are left out. Raises BadInput for a layer that is not admitted."""
        made: list[AnyStage] = list(self.front)
        for layer, keep in schedule.steps:
            if keep >= self.start.at(layer):
                continue
            if layer not in self.layers:
                raise BadInput(f"no stage is allowed before layer {layer}; allowed: {', '.join(map(str, self.layers))}")
            made.append(self._stage(layer, keep))
        return Policy(self.policy.name, tuple(made), self.policy.criteria).dump()

    def _stage(self, layer: int, keep: Fraction) -> Stage:
        template = self.template(layer)
        rule = template.keep.rule if isinstance(template, Stage) else None
        own = template.at if isinstance(template, Stage) and layer == 0 else Site("llm", layer)
        return Stage(
            template.pick,
            template.merge,
            template.protect,
            template.positions,
            at=own,
            keep=KeepSpec("fraction", keep, rule=rule),
            attend=template.attend,
        )


def _first(entry: tuple[int, AnyStage]) -> int:
    return entry[0]


def _own_count(stage: AnyStage) -> str | None:
    """Why a stage's count is not a schedule's to say."""
    if not isinstance(stage, Stage):
        return None
    shared = stage.until is not None and stage.keep.kind == "to_budget"
    if stage.keep.kind == "rule" or shared:
        rule = "a count rule" if stage.keep.rule is None else f"the count rule {stage.keep.rule.name!r}"
        return f"{rule} at {stage.at.text} decides"
    return None if stage.restore is None else f"the stage at {stage.at.text} brings tokens back"


def _ends(stage: AnyStage, depth: int) -> tuple[int, int]:
    """The first and the last layer that a stage stands before."""
    if isinstance(stage, CurveStage):
        span = span_of(stage, depth)
        return span.first, span.last
    first = stage.at.at(depth)
    return first, first if stage.until is None else absolute(stage.until, depth)
