"""A resolved policy bound to a model: parts looked up, parameters typed, signals collected, impossible uses refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.policy.geometry import Geometry
from autoprune.policy.resolved import Mix, Part, ResolvedPick, ResolvedPolicy, ResolvedStage, Score
from autoprune.pruning import parts
from autoprune.pruning.decoder_signals import DecoderWalk, Tapped, Transition
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Use:
    """A part with its parameters."""

    run: Callable[..., Any]
    config: PartConfig


@dataclass(frozen=True)
class PlannedMix:
    terms: tuple[tuple[Fraction, Use], ...]
    normalise: Literal["rank", "minmax", "softmax", "sum", "none"]
    op: Literal["sum", "product", "max"]


@dataclass(frozen=True)
class PlannedPick:
    score: Use | PlannedMix | None
    select: Use
    share: Fraction | None
    group: Use | None = None
    allocate: Use | PlannedMix | None = None
    overlap: bool = False
    dilate: Literal["cross"] | None = None
    count: Use | None = None


@dataclass(frozen=True)
class PlannedStage:
    """`number` is the stage's place in the policy."""

    number: int
    stage: ResolvedStage
    site: Site
    picks: tuple[PlannedPick, ...]
    merge: Use
    signals: frozenset[Signal]
    rule: Use | None = None

    @property
    def own_signals(self) -> tuple[Signal, ...]:
        """Signals of the stage's own layer, which must be taken before it runs."""
        return tuple(s for s in self.signals if isinstance(s, Tapped) and s.own)


@dataclass(frozen=True)
class Plan:
    resolved: ResolvedPolicy
    stages: tuple[PlannedStage, ...]
    protects_newlines: bool

    @property
    def signals(self) -> frozenset[Signal]:
        return frozenset().union(*(s.signals for s in self.stages))

    @property
    def decoder_taps(self) -> frozenset[int]:
        return frozenset(s.layer for s in self.signals if isinstance(s, Tapped))

    @property
    def watched_layers(self) -> frozenset[int]:
        return frozenset(s.layer for s in self.signals if isinstance(s, Transition))

    def at(self, layer: int) -> tuple[PlannedStage, ...]:
        return tuple(s for s in self.stages if s.stage.layer == layer)

    def wanted_after(self, layer: int) -> tuple[Tapped, ...]:
        """Signals to take while a decoder layer runs."""
        found = [s for s in self.signals if isinstance(s, Tapped) and s.layer == layer and not s.own]
        return tuple(sorted(found, key=repr))


class Unusable(BadInput):
    """A model cannot carry out stages of a policy. `reasons`: what stages ask for in vain, each with the place in the
    stage that asks: ("pick", 0, "score"), ("merge",), ("positions",), …."""

    kind = "unsupported-by-model"

    def __init__(self, found: Sequence[tuple[str, str, Place]]) -> None:
        self.reasons = tuple(dict.fromkeys((place, reason) for _, reason, place in found))
        super().__init__("\n".join(dict.fromkeys(f"{where}: {reason}" for where, reason, _ in found)))


def make_plan(resolved: ResolvedPolicy, geometry: Geometry) -> Plan:
    """Bind a policy to a model. Raises PolicyMismatch for another depth, Unusable with every unusable part."""
    if resolved.depth != geometry.depth:
        raise PolicyMismatch(f"the policy is for a model of {resolved.depth} layers, this one has {geometry.depth}")
    problems: list[tuple[str, str, Place]] = []
    stages = []
    for number, stage in enumerate(resolved.stages):
        site = Site(stage.site, stage.layer, geometry.depth, geometry.vision_depth, geometry.vision.has_cls)
        binder = _Binder(f"stage {number + 1} ({stage.site}:{stage.layer})", site, problems, geometry.lacks)
        if stage.positions == "compact":
            binder.place = ("positions",)
            binder.have("compact")
        picks = tuple(p for p in (binder.pick(x, i) for i, x in enumerate(stage.picks)) if p is not None)
        binder.place = ("merge",)
        merge = binder.use("merger", stage.merge)
        if stage.merge_on == "encoder":
            binder.place = ("merge_on",)
            binder.have("encoder_rows")
            binder.signals.add(EncoderFeatures())
        binder.place = ("keep", "rule")
        rule = binder.rule(stage)
        if merge is not None:
            stages.append(PlannedStage(number, stage, site, picks, merge, frozenset(binder.signals), rule))
    if problems:
        raise Unusable(problems)
    return Plan(resolved, tuple(stages), geometry.protects_newlines)


@dataclass
class _Binder:
    where: str
    site: Site
    problems: list[tuple[str, str, Place]]
    lacks: Mapping[str, str]

    def __post_init__(self) -> None:
        self.place: Place = ()
        self.signals: set[Signal] = set()

    def have(self, name: str) -> bool:
        """Whether the model has what the stage asks of it."""
        if name in self.lacks:
            self._problem(self.lacks[name])
        return name not in self.lacks

    def pick(self, pick: ResolvedPick, number: int) -> PlannedPick | None:
        self.place = ("pick", number, "select")
        select = self.use("selector", pick.select)
        self.place = ("pick", number, "score")
        score = None if pick.score is None else self.score(pick.score)
        self.place = ("pick", number, "group")
        group = None if pick.group is None else self.use("group", pick.group)
        self.place = ("pick", number, "allocate")
        allocate = None if pick.allocate is None else self.score(pick.allocate)
        self.place = ("pick", number, "count")
        count = None if pick.count is None else self.use("count", pick.count)
        self.place = ("pick", number)
        self._heads(pick)
        if pick.dilate is not None:
            self.have("grid")
        if select is None:
            return None
        return PlannedPick(score, select, pick.share, group, allocate, pick.overlap, pick.dilate, count)

    def _heads(self, pick: ResolvedPick) -> None:
        """Scores of single heads are for a group of heads, and such a group is for them."""
        apart = isinstance(pick.score, Part) and _by_head(pick.score)
        info = None if pick.group is None else parts.find("group", pick.group.name)
        wants = info is not None and "heads" in info.needs
        if isinstance(pick.score, Part) and apart and not wants:
            self._problem(f"{pick.score.name} {BY_HEAD} needs `group: head`")
        elif wants and not apart:
            self._problem(f"`group: head` needs a score with {BY_HEAD}")
        elif wants and pick.allocate is not None:
            self._problem("`group: head` shares by the heads' own scores: `allocate` has no meaning there")
        for mix in (pick.score, pick.allocate):
            if isinstance(mix, Mix) and any(_by_head(term) for _, term in mix.terms):
                self._problem(f"{BY_HEAD} cannot be part of a mix")
        if isinstance(pick.allocate, Part) and _by_head(pick.allocate):
            self._problem(f"{BY_HEAD} cannot say how groups share the count")

    def score(self, score: Score) -> Use | PlannedMix | None:
        if isinstance(score, Part):
            return self.use("criterion", score)
        return self.mix(score)

    def mix(self, mix: Mix) -> PlannedMix:
        terms = [(weight, self.use("criterion", part)) for weight, part in mix.terms]
        return PlannedMix(tuple((w, u) for w, u in terms if u is not None), mix.normalise, mix.op)

    def rule(self, stage: ResolvedStage) -> Use | None:
        """The stage's count rule; layers can share a budget only by one that is made for it."""
        rule = stage.keep.rule
        if rule is None:
            return None
        info = parts.find("count", rule.name)
        if stage.keep.kind == "shared" and info is not None and "layers" not in info.needs:
            self._problem(f"keep: rule {rule.name} does not share a budget among layers; rules that do: logistic")
            return None
        return self.use("count", rule)

    def use(self, kind: parts.Kind, part: Part) -> Use | None:
        info = parts.find(kind, part.name)
        if info is None:
            self._problem(f"{_called(kind)} {part.name!r} does not exist; known: {', '.join(parts.names(kind))}")
            return None
        try:
            config = info.config.model_validate(dict(part.params))
        except ValidationError as error:
            self._problem(f"{part.name}: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}")
            return None
        on_grid = "grid" in info.needs or part.params.get("split") == "overview"
        if not self.have(part.name) or (on_grid and not self.have("grid")):
            return None
        if not isinstance(config, PartConfig):
            config = PartConfig()
        try:
            signals = config.signals(self.site)
        except BadInput as error:
            self._problem(str(error))
            return None
        if any(isinstance(s, DecoderWalk) and (s.over_rope or not s.rope) for s in signals) and not self.have("rope"):
            return None
        self.signals.update(signals)
        return Use(info.run, config)

    def _problem(self, message: str) -> None:
        self.problems.append((self.where, message, self.place))


BY_HEAD = "`heads: each`"


def _by_head(part: Part) -> bool:
    return part.params.get("heads") == "each"


def _called(kind: parts.Kind) -> str:
    return "count rule" if kind == "count" else kind


def evaluate(score: Use | PlannedMix, view: StageView) -> Tensor:
    """Scores [B, V] float32, higher = keep; [B, V, H] where the heads stay apart."""
    from autoprune.pruning.mixing import combine

    if isinstance(score, Use):
        values: Tensor = score.run(view, score.config)
        return values.float()
    terms = [(float(weight), use.run(view, use.config)) for weight, use in score.terms]
    return combine(terms, view.candidates, score.normalise, score.op)
