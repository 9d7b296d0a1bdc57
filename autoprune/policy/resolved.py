"""What the engine carries out: a policy bound to one model geometry, with nothing left to look up.

`policy.canonical.resolve` makes it; its JSON form is the canonical form: hashed, cached, diffed, deduplicated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from autoprune.policy.guard import Guard

KeepKind = Literal["fraction", "of_current", "tokens", "to_budget", "rule", "shared"]

Protect = Literal["newlines", "last"] | tuple[int, ...] | None
LAST = -1  # in place of a position: a sample's last visual token that is no separator


def named(protect: Protect) -> tuple[int, ...]:
    """The positions of a sample that a stage protects by itself, LAST among them; separators are counted apart."""
    return protect if isinstance(protect, tuple) else (LAST,) if protect == "last" else ()


@dataclass(frozen=True)
class Part:
    """A use of a registered part, every parameter filled in (JSON values; fractions as 'p/q' strings)."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Keep:
    """How many visual tokens stay. `fraction` of N; `of_current`; `tokens` (a count); `to_budget` (a budget); `rule`:
    what a count rule finds in the sample, at most `value` and at least `least` of N; `shared`: what a rule gives this
    layer of a budget that is met together with the layers after it. With any other kind a `rule` only says how the
    groups of a pick share the count (`fit`). Where counts are worked out, also whether the stage sets aside what it
    drops (`parks`), and whether all that was set aside comes back before it (`restores`)."""

    kind: KeepKind
    value: Fraction
    rule: Part | None = None
    least: Fraction = Fraction(0)
    parks: bool = False
    restores: bool = False

    @property
    def decided(self) -> bool:
        """Whether the count depends on what a sample shows."""
        return self.kind in ("rule", "shared")


@dataclass(frozen=True)
class Mix:
    """Weighted sum, product or max of normalised criteria. Weights sum to 1."""

    terms: tuple[tuple[Fraction, Part], ...]
    normalise: Literal["rank", "minmax", "softmax", "sum", "none"] = "rank"
    op: Literal["sum", "product", "max"] = "sum"


Score = Part | Mix


@dataclass(frozen=True)
class ResolvedPick:
    """One selection inside a stage; earlier picks are excluded. `share` of the stage's K (None = the rest); `group` is
    the partition it works in, `allocate` the score that the groups' shares follow (None = the pick's own).

    `overlap`: earlier picks are not excluded; what both choose counts once. `dilate`: of a share of q tokens round(q/5)
    are chosen, and what lies above, below, left and right of them on the grid comes along. Either way the last pick
    takes what is left of the stage's K.

    `count`: the rule that counts for this pick, among what earlier ones left; the stage's counts for the first pick
    then, and K is the sum of what they find. All picks but the first have one, or none."""

    score: Score | None
    select: Part
    share: Fraction | None = None
    group: Part | None = None
    allocate: Score | None = None
    overlap: bool = False
    dilate: Literal["cross"] | None = None
    count: Part | None = None


@dataclass(frozen=True)
class ResolvedStage:
    """One reduction, effective before decoder layer `layer` (0 for site 'projector').

    rows: whether the merger's weights are scaled to sum 1 in each row of W (`sum`: not; parity runs only). attend: from
    here on the log of a row's mass is added to every attention logit of its key. restore: before anything else, what
    earlier stages have parked comes back (see `pruning/parking.py`). merge_on: W is applied to what leaves the
    projector, or to what enters it (`encoder`), and the projector to the merged rows then.
    """

    site: Literal["projector", "llm"]
    layer: int
    keep: Keep
    picks: tuple[ResolvedPick, ...]
    merge: Part
    protect: Protect = None
    positions: Literal["keep", "compact"] = "keep"
    rows: Literal["mean", "sum"] = "mean"
    attend: Literal["mass"] | None = None
    restore: Literal["parked", "scattered"] | None = None
    merge_on: Literal["projected", "encoder"] = "projected"


@dataclass(frozen=True)
class ResolvedPolicy:
    """Stages in the order they happen. An empty tuple is the unpruned model."""

    stages: tuple[ResolvedStage, ...]
    depth: int
    guard: Guard = ()

    @property
    def adaptive(self) -> bool:
        """Whether some count depends on what a sample shows, so that costs are known only after a run."""
        return bool(self.guard) or any(stage.keep.decided for stage in self.stages)
