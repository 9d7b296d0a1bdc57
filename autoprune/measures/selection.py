"""What deciding costs: scores, selection and merging, by the formula that each part declares where it is registered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from autoprune.errors import BadInput
from autoprune.policy import budget
from autoprune.policy.geometry import Geometry, Pictures
from autoprune.policy.resolved import Mix, Part, ResolvedPolicy, ResolvedStage, Score
from autoprune.pruning import parts
from autoprune.pruning.parts import Config, Flops, Kind, Sizes
from autoprune.pruning.signals import Site


@dataclass(frozen=True)
class Sample:
    """One sample: N, what each stage must hold (as in `policy.budget`), other prompt positions, pictures, and the
    counts of its run where rules decided some (`policy.budget.counts`)."""

    n: int
    held: tuple[int, ...]
    text: int
    pictures: Pictures
    decided: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Use:
    flops: Flops
    config: Config

    def __call__(self, sizes: Sizes) -> int:
        return self.flops(self.config, sizes)


@dataclass(frozen=True)
class _Stage:
    """A stage with its formulas looked up: per pick the criteria (of a mix: its terms; also those that groups share
    by, and its own count rule), the selector, and whether the pick has a score. `watched`: a guard looks at
    the first pick's scores, whatever stays then."""

    site: Site
    stage: ResolvedStage
    picks: tuple[tuple[tuple[_Use, ...], _Use, bool], ...]
    merge: _Use
    rule: _Use | None = None
    watched: bool = False


class Selection:
    """The cost of deciding, for any sample under one policy. Raises BadInput where a part does not exist."""

    def __init__(self, resolved: ResolvedPolicy, geometry: Geometry) -> None:
        self.resolved, self.geometry = resolved, geometry
        looked = {rule.stage for rule in resolved.guard if rule.when == "entropy_above"}
        self.stages = tuple(_bound(stage, geometry, i in looked) for i, stage in enumerate(resolved.stages))

    def flops(self, sample: Sample) -> int:
        """Operations over all stages and picks.

        A stage that keeps all there is costs nothing, unless a rule or a guard had to look: the engine skips it. Every
        use counts by itself, also where the engine takes one capture for two; protected tokens count as chosen. Raises
        policy.budget's Infeasible.
        """
        counts = budget.counts(self.resolved, sample.n, sample.held, sample.decided)
        visual = budget.lengths(self.resolved, sample.n, sample.held, sample.decided)
        grids = self.geometry.vision.grids(sample.pictures)
        found = budget.entering(self.resolved, sample.n, sample.held, sample.decided)
        total = 0
        for bound, current, kept in zip(self.stages, found, counts, strict=True):
            if kept != current or bound.stage.keep.decided or bound.watched:
                seen = (visual, sample.text, len(grids))
                sizes = Sizes(self.geometry, bound.site, current, kept, *seen, grids=grids)
                total += sum(_stage(bound, sizes))
        return total


def _stage(bound: _Stage, sizes: Sizes) -> Iterator[int]:
    if bound.rule is not None:
        yield bound.rule(sizes)
        if sizes.kept == sizes.current:  # the rule had a look, and all stay
            for number, pick in enumerate(bound.stage.picks):
                if number == 0 or pick.count is not None:
                    yield from (part(sizes) for part in bound.picks[number][0])
            return
    elif sizes.kept == sizes.current:  # a guard had
        yield from (part(sizes) for part in bound.picks[0][0])
        return
    chosen = budget.asked(bound.stage.picks, sizes.kept)
    for i, (criteria, select, scored) in enumerate(bound.picks):
        yield from (criterion(sizes) for criterion in criteria)
        yield select(replace(sizes, kept=chosen[i], scored=scored, earlier=sum(chosen[:i])))
    yield bound.merge(sizes)
    if bound.stage.merge_on == "encoder":
        yield again(sizes)


def again(sizes: Sizes) -> int:
    """What merging before the projector costs more: 2·K·V·(f - d), as W x is of rows f wide and not d, and the
    projector on the K merged rows."""
    geometry = sizes.geometry
    wider = geometry.projector_width - geometry.width
    return 2 * sizes.kept * sizes.current * wider + 2 * sizes.kept * geometry.projector_weights


def _bound(stage: ResolvedStage, geometry: Geometry, watched: bool = False) -> _Stage:
    site = Site(stage.site, stage.layer, geometry.depth, geometry.vision_depth, geometry.vision.has_cls)
    picks = []
    for pick in stage.picks:
        terms = (*_terms(pick.score), *_terms(pick.allocate))
        criteria = tuple(_use("criterion", term) for term in terms)
        criteria += () if pick.count is None else (_use("count", pick.count),)
        picks.append((criteria, _use("selector", pick.select), pick.score is not None))
    rule = None if stage.keep.rule is None else _use("count", stage.keep.rule)
    return _Stage(site, stage, tuple(picks), _use("merger", stage.merge), rule, watched)


def _terms(score: Score | None) -> tuple[Part, ...]:
    if isinstance(score, Mix):
        return tuple(part for _, part in score.terms)
    return () if score is None else (score,)


def _use(kind: Kind, part: Part) -> _Use:
    info = parts.find(kind, part.name)
    if info is None:
        raise BadInput(f"{kind} {part.name!r} does not exist; known: {', '.join(parts.names(kind))}")
    return _Use(info.flops, info.config.model_validate(dict(part.params)))
