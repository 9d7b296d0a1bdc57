"""The values a policy document consists of. `path` remembers where each was written; equality does not look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from autoprune.document.problems import Path
from autoprune.policy.curves.base import CurveSpec
from autoprune.policy.resolved import KeepKind, Protect
from autoprune.policy.sites import Layer, Site

Normalise = Literal["rank", "minmax", "softmax", "sum", "none"]
Op = Literal["sum", "product", "max"]
Positions = Literal["keep", "compact"]
Attend = Literal["mass"]  # keys weigh by how many tokens they stand for
Restore = Literal["parked", "scattered"]  # how tokens come back that an earlier stage set aside
MergeOn = Literal["projected", "encoder", "earliest"]  # the rows that W is applied to
Rows = Literal["mean", "sum"]  # of W: weights that sum to 1, or as the merger gives them
Dilate = Literal["cross"] | None
SCORED_SPLITS = ("proportional", "mean", "whole", "rule", "overview")  # how a group shares a count out by its scores


@dataclass(frozen=True)
class Use:
    """A part by name (or a name from `criteria`), with its parameters as written."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    path: Path = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class MixUse:
    """Weighted criteria. Weights as written; names refer to `criteria` or to parts."""

    weights: tuple[tuple[str, Fraction], ...]
    normalise: Normalise = "rank"
    op: Op = "sum"
    path: Path = field(default=(), compare=False, repr=False)


ScoreUse = Use | MixUse


@dataclass(frozen=True)
class KeepSpec:
    """How much stays: `fraction` of N, `of_current`, `tokens`, what meets a budget (`to_budget`), or what a count rule
    finds (`rule`; `value` and `least` are then its bounds, fractions of N). A `rule` with another kind only shares the
    count out among groups (`fit`)."""

    kind: KeepKind
    value: Fraction
    path: Path = field(default=(), compare=False, repr=False)
    rule: Use | None = None
    least: Fraction = Fraction(0)


@dataclass(frozen=True)
class Pick:
    """One selection of a stage: its criterion, its selector, its share of the stage's K (None: the rest), and the
    partition it works in (None: all tokens of a sample together). `allocate`: the score that the groups' shares follow
    (None: the pick's own). `overlap`, `dilate`, `count`: see `ResolvedPick`."""

    score: ScoreUse | None
    select: Use = Use("top")
    share: Fraction | None = None
    path: Path = field(default=(), compare=False, repr=False)
    group: Use | None = None
    allocate: ScoreUse | None = None
    overlap: bool = False
    dilate: Dilate = None
    count: Use | None = None


@dataclass(frozen=True)
class _Reduction:
    pick: tuple[Pick, ...]
    merge: Use = Use("drop")
    protect: Protect = None
    positions: Positions = "keep"
    attend: Attend | None = field(default=None, kw_only=True)
    path: Path = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Stage(_Reduction):
    """One reduction of the visual tokens at one site; with `until` the same before every decoder layer from there to
    that one. A rule that then fits a budget shares it out among those layers. `merge_on`: see
    `ResolvedStage`; `earliest` is `encoder` on models that have such rows."""

    at: Site = field(kw_only=True)
    keep: KeepSpec = field(kw_only=True)
    restore: Restore | None = field(default=None, kw_only=True)
    merge_on: MergeOn = field(default="projected", kw_only=True)
    until: Layer | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class CurveStage(_Reduction):
    """Stages along a range of decoder layers (both ends included), their keep given by a curve."""

    along: tuple[Layer, Layer] = field(kw_only=True)
    curve: CurveSpec = field(kw_only=True)


AnyStage = Stage | CurveStage


def uses(stages: tuple[AnyStage, ...]) -> Iterator[tuple[AnyStage, Pick]]:
    """Every pick with its stage."""
    for stage in stages:
        for pick in stage.pick:
            yield stage, pick
