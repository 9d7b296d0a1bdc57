"""How many visual tokens stay, in integers. The engine, the costs and the search all count with this file.

K = floor(f·N + 1/2) per sample, at least 1 if f > 0 and never more than there are; protected positions count toward K
and are never dropped, except that a keep of 0 drops every visual position. What a stage parks comes back at a stage
that restores, before its own K is counted. The budget of samples is
Σ_samples Σ_l n_l / (L · Σ_samples N), n_l = visual positions entering decoder layer l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from autoprune.errors import AutoPruneError
from autoprune.policy.resolved import Keep, named

if TYPE_CHECKING:
    from autoprune.policy.resolved import ResolvedPolicy

Step = tuple[int, Keep]
PARK = "park"  # the merger that sets aside what it drops


class Infeasible(AutoPruneError):
    """A budget cannot be met. `distance` is how far above it the cheapest possible policy stays, in budget units;
    `budget`, where it is given, lets the message say what that policy costs."""

    def __init__(
        self, distance: Fraction | float, message: str = "", *, budget: Fraction | float | None = None
    ) -> None:
        self.distance = float(distance)
        if budget is None:
            said = f"the cheapest choice is {self.distance:.4f} above it"
        else:
            said = f"cheapest possible: {float(budget) + self.distance:.4f}"
        super().__init__(message or f"the budget cannot be met; {said}")


def rounded(share: Fraction, n: int) -> int:
    """floor(share·n + 1/2), at least 1 for a positive share of a positive n."""
    count = (2 * share.numerator * n + share.denominator) // (2 * share.denominator)
    return max(1, count) if share > 0 and n > 0 else count


@dataclass
class Counting:
    """The counts of one sample of n visual tokens, step (layer, keep) by step, in a model of `depth` decoder layers."""

    steps: Sequence[Step]
    n: int
    depth: int
    protected: Sequence[int]

    def __post_init__(self) -> None:
        self.current, self.spent, self.reached, self.number = self.n, 0, 0, 0
        self.entering, self.parked = self.n, 0

    def next(self, decided: int | None = None) -> int:
        """K of the next step, out of `entering`. `decided`: what a rule has found; None for the most it may find."""
        (layer, keep), held = self.steps[self.number], self.protected[self.number]
        self.spent, self.reached = self.spent + self.current * (layer - self.reached), layer
        if keep.restores:
            self.current, self.parked = self.current + self.parked, 0
        self.entering = self.current
        if keep.kind == "rule":
            self.current = self._ruled(keep, held, decided)
        elif keep.kind == "shared":
            self.current = self._shared(keep, held, decided)
        elif keep.kind == "to_budget":
            self.current = _to_budget(keep.value, self.n, self.depth, layer, self.current, self.spent, held)
        elif keep.value == 0:
            self.current = 0
        else:
            whole = self.n if keep.kind == "fraction" else self.current
            asked = int(keep.value) if keep.kind == "tokens" else rounded(keep.value, whole)
            self.current = min(self.current, max(asked, held))
        self.number += 1
        self.parked += self.entering - self.current if keep.parks else 0
        return self.current

    def _ruled(self, keep: Keep, held: int, decided: int | None) -> int:
        """What a rule decided, within its bounds and what a later `to_budget` leaves; 0 where nothing must stay."""
        least = rounded(keep.least, self.n)
        most = min(self.current, max(min(rounded(keep.value, self.n), self._affordable()), held, least, 1))
        if decided is None:
            return most
        return 0 if decided <= 0 and least == 0 else min(most, max(decided, least, held))

    def left(self, layer: int, budget: Fraction) -> int:
        """How many positions the layers from `layer` on may take in together."""
        return int(budget * self.depth * self.n) - self.spent - self.current * (layer - self.reached)

    def _shared(self, keep: Keep, held: int, decided: int | None) -> int:
        """What a rule gave this layer of the budget, so that every later layer can have its least; without a rule's
        word all layers get the same, the first of them what is over."""
        if self.current == 0:
            return 0
        layer, last = self.steps[self.number][0], self.number + 1 == len(self.steps)
        layers, left = self.depth - layer, self.left(layer, keep.value)
        least = min(self.current, max(1, held))
        if left < least * layers:
            raise Infeasible(Fraction(least * layers - left, self.depth * self.n), budget=keep.value)
        if decided is None:
            return min(self.current, left // layers if last else -(-left // layers))
        most = left // layers if last else left - least * (layers - 1)
        return min(self.current, most, max(decided, least))

    def _affordable(self) -> int:
        """The most that leaves a later `to_budget` what it must keep."""
        for (layer, keep), held in zip(self.steps[self.number + 1 :], self.protected[self.number + 1 :], strict=True):
            if keep.kind in ("to_budget", "shared"):
                rest = keep.value * self.depth * self.n - self.spent - max(held, 1) * (self.depth - layer)
                return int(rest // (layer - self.reached)) if layer > self.reached else self.n
        return self.n


def count_steps(
    steps: Sequence[Step],
    n: int,
    depth: int,
    protected: Sequence[int],
    decided: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """K of each step (layer, keep) for a sample of n visual tokens in a model of `depth` decoder layers.

    `decided`: what came out on a run at every step; of it only what rules decided is used. Without it a rule counts
    with the most it may find."""
    counting = Counting(steps, n, depth, protected)
    return tuple(counting.next(None if decided is None else decided[i]) for i in range(len(steps)))


def _to_budget(budget: Fraction, n: int, depth: int, layer: int, current: int, spent: int, held: int) -> int:
    """The largest count from `layer` on that keeps the sample's budget at or below `budget`."""
    if current == 0:
        return 0
    allowed = budget * depth * n
    most = int((allowed - spent) // (depth - layer))
    least = min(current, max(1, held))
    if most < least:
        cheapest = Fraction(spent + (depth - layer) * least, depth * n)
        raise Infeasible(cheapest - budget, budget=budget)
    return min(current, most)


def steps_of(policy: ResolvedPolicy) -> list[Step]:
    """The steps that a policy's stages are."""
    return [
        (s.layer, replace(s.keep, parks=s.merge.name == PARK, restores=s.restore is not None)) for s in policy.stages
    ]


def _held(policy: ResolvedPolicy, n: int, protected: int | Sequence[int]) -> list[int]:
    """Protected positions per stage: those the caller counted and those that the stage names."""
    given = [protected] * len(policy.stages) if isinstance(protected, int) else list(protected)
    if len(given) != len(policy.stages):
        raise ValueError(f"{len(given)} numbers of protected positions for {len(policy.stages)} stages")
    own = [sum(i < n for i in named(s.protect)) for s in policy.stages]
    return [min(a + b, n) for a, b in zip(given, own, strict=True)]


def separators(policy: ResolvedPolicy, count: int, protected: bool) -> tuple[int, ...]:
    """How many of a sample's `count` separators each stage must keep: all where the family protects them (`protected`)
    or the stage says `newlines`, else none."""
    return tuple(count if protected or stage.protect == "newlines" else 0 for stage in policy.stages)


def counting(policy: ResolvedPolicy, n: int, protected: int | Sequence[int] = 0) -> Counting:
    """The counts of one sample step by step, for a run that decides some of them."""
    return Counting(steps_of(policy), n, policy.depth, _held(policy, n, protected))


def _sample(policy: ResolvedPolicy, n: int, protected: int | Sequence[int], decided: Sequence[int] | None) -> Counting:
    """The counts of a sample; those of its run, `decided`, where a guard may have changed them."""
    made = counting(policy, n, protected)
    if policy.guard and decided is not None:
        kept = zip(made.steps, decided, strict=True)
        made.steps = [(layer, replace(keep, kind="tokens", value=Fraction(count))) for (layer, keep), count in kept]
    return made


def counts(
    policy: ResolvedPolicy, n: int, protected: int | Sequence[int] = 0, decided: Sequence[int] | None = None
) -> tuple[int, ...]:
    """K of each stage for one sample with n visual tokens.

    `protected`: how many positions of this sample no stage may drop, one number for all stages or one per stage; the
    positions on a stage's own list come on top, in that stage only (also those that are gone by then, so that numbers
    never depend on what an image shows). A `to_budget` that is already met leaves the count as it is. Raises
    `Infeasible` when it cannot be met. `decided`: the counts of a run, where rules decided some; without them a rule
    counts with the most it may find, and no rule of a guard fires.
    """
    made = _sample(policy, n, protected, decided)
    return tuple(made.next(None if decided is None else decided[i]) for i in range(len(policy.stages)))


def entering(
    policy: ResolvedPolicy, n: int, protected: int | Sequence[int] = 0, decided: Sequence[int] | None = None
) -> tuple[int, ...]:
    """How many visual tokens each stage finds, restored ones among them, for what `counts` gives."""
    made, found = _sample(policy, n, protected, decided), []
    for i in range(len(policy.stages)):
        made.next(None if decided is None else decided[i])
        found.append(made.entering)
    return tuple(found)


def split(shares: Sequence[Fraction | None], total: int) -> list[int]:
    """How many of `total` tokens each pick of a stage chooses: exactly all, by largest remainder.

    A None share takes the rest. Ties go to earlier picks."""
    given = sum((s for s in shares if s is not None), Fraction(0))
    open_picks = sum(s is None for s in shares)
    rest = max(Fraction(1) - given, Fraction(0))
    parts = [rest / open_picks if s is None else s for s in shares]
    whole = sum(parts, Fraction(0)) or Fraction(1)
    exact = [p * total / whole for p in parts]
    counts = [int(x) for x in exact]
    order = sorted(range(len(parts)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


class Sharing(Protocol):
    """What `asked` looks at in a pick: see `ResolvedPick`."""

    @property
    def share(self) -> Fraction | None: ...
    @property
    def overlap(self) -> bool: ...
    @property
    def dilate(self) -> str | None: ...


def asked(picks: Sequence[Sharing], total: int) -> list[int]:
    """How many tokens each pick of a stage is asked for, of `total`.

    Where every pick excludes those before it, that is `split`. Where one may overlap or dilates, what they choose
    together depends on the image: all but the last are asked for floor(share·total + 1/2), a pick that dilates for a
    fifth of that (rounded half up), and the last for the most that those before it can leave."""
    if not any(pick.overlap or pick.dilate for pick in picks):
        return split([pick.share for pick in picks], total)
    counts, sure = [], 0
    for pick in picks[:-1]:
        count = int((pick.share or 0) * total + Fraction(1, 2))
        count = int(Fraction(count, 5) + Fraction(1, 2)) if pick.dilate else count
        sure = max(sure, count) if pick.overlap else min(total, sure + count)
        counts.append(count)
    return [*counts, total - sure]


def lengths(
    policy: ResolvedPolicy, n: int, protected: int | Sequence[int] = 0, decided: Sequence[int] | None = None
) -> tuple[int, ...]:
    """n_l: visual positions entering decoder layer l, for l = 0 … depth - 1. `decided` as in `counts`."""
    result = [n] * policy.depth
    for stage, count in zip(policy.stages, counts(policy, n, protected, decided), strict=True):
        result[stage.layer :] = [count] * (policy.depth - stage.layer)
    return tuple(result)


def budget(lengths_per_sample: Sequence[Sequence[int]], ns: Sequence[int], depth: int) -> float:
    """Σ n_l / (L · Σ N) over samples; 1 if no sample has a visual token (nothing to prune)."""
    total = depth * sum(ns)
    return sum(sum(sample) for sample in lengths_per_sample) / total if total else 1.0


def fractions(steps: Sequence[Step], depth: int) -> tuple[Fraction, ...]:
    """The same without rounding, for any N: the fraction of N after each step. Raises ValueError for a `tokens` keep,
    `Infeasible` for a budget that cannot be met. A rule counts with the most it may find."""
    result: list[Fraction] = []
    current, spent, reached, parked = Fraction(1), Fraction(0), 0, Fraction(0)
    for i, (layer, keep) in enumerate(steps):
        spent, reached = spent + current * (layer - reached), layer
        if keep.restores:
            current, parked = current + parked, Fraction(0)
        before = current
        if keep.kind == "tokens":
            raise ValueError("a keep in tokens is no fraction of N")
        if keep.kind == "rule":
            current = min(current, keep.value, *_room(steps[i + 1 :], layer, spent, depth))
        elif keep.kind in ("to_budget", "shared"):
            rest = (keep.value * depth - spent) / (depth - layer)
            if rest <= 0 < current:
                raise Infeasible(spent / depth - keep.value, budget=keep.value)
            current = min(current, rest)
        else:
            current = min(current, keep.value * (current if keep.kind == "of_current" else 1))
        parked += before - current if keep.parks else 0
        result.append(current)
    return tuple(result)


def _room(later: Sequence[Step], layer: int, spent: Fraction, depth: int) -> list[Fraction]:
    """What a rule may keep of N so that a later `to_budget` has a thousandth of N left; empty where there is none."""
    for place, keep in later:
        if keep.kind in ("to_budget", "shared") and place > layer:
            return [max((keep.value * depth - spent - Fraction(depth - place, 1000)) / (place - layer), Fraction(0))]
    return []


def fractional_budget(steps: Sequence[Step], depth: int) -> Fraction:
    """The budget of `fractions`."""
    total, current, reached = Fraction(0), Fraction(1), 0
    for (layer, _), after in zip(steps, fractions(steps, depth), strict=True):
        total, current, reached = total + current * (layer - reached), after, layer
    return (total + current * (depth - reached)) / depth
