"""Searches replayed from a pool: images are drawn, outcomes are looked up, and AutoPrune's own functions decide.

Nothing of a search is written a second time here: the margin is `settle.search_slacks`, the front
`pareto.search_front`, the order `certify.sequence`, the verdicts `certify.certify`. The pool is the truth: what a
policy is worth is its mean over all images of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoprune.ports import Measurement, MeasureRequest, TrialRecord
from autoprune.search import pareto
from autoprune.search.certify import certify, sequence, standing
from autoprune.search.settle import search_slacks
from autoprune.spec.goals import Constraint, Objective
from benchmarks.outcomes import COSTS, Pool

Indices = NDArray[np.intp]
Drawing = Literal["without", "with", "clusters"]
SCORE = "exact_match"
OBJECTIVES = (
    Objective(MeasureRequest("answer_nll"), "minimize"),
    Objective(MeasureRequest("prefill_flops"), "minimize"),
)
"""The quickstart's."""


def at_least(scale: float) -> Constraint:
    """`exact_match >= scale * baseline`."""
    return Constraint(f"{SCORE} >= {scale!r} * baseline", MeasureRequest(SCORE), ">=", scale, 0.0)


@dataclass(frozen=True)
class Split:
    """Records as columns of the pool [R], and the number of the image each belongs to [R], ascending."""

    records: Indices
    images: Indices

    def first(self, images: int) -> Split:
        """What belongs to the first so many images."""
        count = int(np.searchsorted(self.images, images))
        return Split(self.records[:count], self.images[:count])


@dataclass(frozen=True)
class Draw:
    """One search's data: which policies it tried (rows of the pool), on which records it searched and certified.

    `with` replacement the pool is a distribution and every image drawn is one of its own, so that search and holdout
    are independent samples of what the pool's means are the truth of. `without`, both are parts of a finite pool: the
    variance of a mean is smaller by 1 - n/N there, and certification (which cannot know) a little too careful.

    The pool has one question per image. `clusters` makes images of one to four questions, drawn with replacement: each
    question after the first is the first one once more with probability `ALIKE`, else another of the pool's. So the
    outcomes within an image are correlated by that much, and the pool's means stay the truth.
    """

    tried: Indices
    search: Split
    holdout: Split


ALIKE = 0.6
MOST_QUESTIONS = 4


def draw(pool: Pool, rng: np.random.Generator, trials: int, search: int, holdout: int, how: Drawing) -> Draw:
    """`search` and `holdout` are images. Raises ValueError where the pool has too few policies or images."""
    policies = len(pool.policies) - 1
    if trials > policies or (how == "without" and search + holdout > pool.images):
        raise ValueError(f"a pool of {policies} policies on {pool.images} images is too small")
    tried = 1 + rng.choice(policies, trials, replace=False)
    if how == "clusters":
        return Draw(tried, _clustered(pool, rng, search), _clustered(pool, rng, holdout))
    images = rng.choice(pool.images, search + holdout, replace=how == "with")
    return Draw(tried, *(Split(some, np.arange(len(some))) for some in (images[:search], images[search:])))


def _clustered(pool: Pool, rng: np.random.Generator, images: int) -> Split:
    sizes = rng.integers(1, MOST_QUESTIONS + 1, images)
    numbers = np.repeat(np.arange(images), sizes)
    drawn = rng.choice(pool.images, len(numbers))
    first = drawn[np.cumsum(sizes) - sizes][numbers]
    return Split(np.where(rng.random(len(numbers)) < ALIKE, first, drawn), numbers)


def measurement(pool: Pool, row: int, split: Split) -> Measurement:
    """What an evaluation of this row on these records would have found. Costs are the pool's means (they hang on the
    texts' lengths alone, and no bound looks at them)."""
    right = pool.right[row, split.records]
    values = {SCORE: float(right.mean()), "answer_nll": float(pool.nll[row, split.records].mean())}
    values.update(zip(COSTS, map(float, pool.costs[row]), strict=True))
    return Measurement(values, {SCORE: tuple(right.tolist())}, tuple(split.images.tolist()))


def trial(number: int, row: int, found: Measurement, baseline: Measurement, constraint: Constraint) -> TrialRecord:
    """A settled trial as the driver would have written it. The digest is the pool's row."""
    return TrialRecord(
        number=number,
        origin="trial",
        name=f"row {row}",
        state="complete",
        policy=None,
        canonical=None,
        digest=f"{row:06d}",
        values=found.values,
        constraints=search_slacks((constraint,), found, baseline),
    )


@dataclass(frozen=True)
class Certified:
    """What became of one replayed search: rows of its finalists in the order of testing, of the certified ones, and the
    numbers that stand beside verdicts, by row."""

    finalists: tuple[int, ...]
    certified: tuple[int, ...]
    shown: Mapping[int, float]


def replay(
    pool: Pool, drawn: Draw, bounds: Sequence[float], holdouts: Sequence[int], confidence: float
) -> dict[tuple[float, int], Certified]:
    """The searches of one draw, by bound and size of the holdout (the first so many of its images)."""
    baseline = measurement(pool, 0, drawn.search)
    found = {int(row): measurement(pool, int(row), drawn.search) for row in drawn.tried}
    results: dict[tuple[float, int], Certified] = {}
    for scale in bounds:
        constraint = at_least(scale)
        records = [trial(i, row, one, baseline, constraint) for i, (row, one) in enumerate(found.items())]
        ordered = [int(r.digest) for r in sequence(pareto.search_front(records, OBJECTIVES), COSTS)]
        for size in holdouts:
            results[scale, size] = _certify(pool, ordered, constraint, drawn.holdout.first(size), confidence)
    return results


def _certify(pool: Pool, ordered: Sequence[int], constraint: Constraint, split: Split, level: float) -> Certified:
    measured = [measurement(pool, row, split) for row in ordered]
    verdicts = certify((constraint,), measured, measurement(pool, 0, split), level)
    proven = [row for row, verdict in zip(ordered, verdicts, strict=True) if standing(verdict) == "certified"]
    numbers = {row: v[constraint.text].certifiable for row, v in zip(ordered, verdicts, strict=True)}
    return Certified(tuple(ordered), tuple(proven), {row: n for row, n in numbers.items() if n is not None})


def retained(pool: Pool) -> NDArray[np.float64]:
    """[P]: the truth, as a factor of the baseline."""
    means: NDArray[np.float64] = pool.right.mean(axis=1)
    return means / means[0]


def at_the_edge(
    pool: Pool, rng: np.random.Generator, holdouts: Sequence[int], confidence: float, how: Drawing
) -> dict[int, bool]:
    """The least favourable bound: just above what a drawn policy is truly worth. Whether it is certified all the same
    on a drawn holdout, by its size; a test that keeps its level says so with at most 1 - confidence."""
    drawn = draw(pool, rng, 1, 0, max(holdouts), how)
    row = int(drawn.tried[0])
    constraint = at_least(float(retained(pool)[row]) * (1 + 1e-9))
    return {
        size: bool(_certify(pool, (row,), constraint, drawn.holdout.first(size), confidence).certified)
        for size in holdouts
    }
