"""How many images a holdout needs before a bound relative to the baseline can be certified."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from autoprune.calibration.holdout import holdout_size
from autoprune.errors import BadInput
from autoprune.search.bound_test import BoundTest
from autoprune.search.statistics import Clusters, padded, pseudo_weight, with_skewness

if TYPE_CHECKING:
    from autoprune.ports import Measurement
    from autoprune.spec.goals import Constraint

POWER = 0.8
MOST = 10_000_000  # images nobody has


def required_images(
    scale: float, discordance: float, confidence: float, power: float = 0.8, *, accuracy: float = 1.0
) -> int:
    """Images needed to certify `M >= scale * baseline` for a 0/1 measure with probability `power`.

    `discordance` is the share of records on which policy and baseline differ, `accuracy` the baseline's mean. The size
    is `calibration.holdout.holdout_size` (a policy that spends half of the allowed loss), but never fewer images than
    `certify` needs when nothing differs at all: a loss of 1 - scale stays possible in too few images (rule of three).
    Raises BadInput for a scale or an accuracy outside what can be certified.
    """
    needed = holdout_size(scale, accuracy, discordance, confidence, power)
    return max(needed, math.ceil(math.log(1 - confidence) / math.log(scale)))


def images_for(constraint: Constraint, accuracy: float, discordance: float, confidence: float) -> int | None:
    """Images one constraint needs; None where no formula applies (an absolute bound, or none below the baseline)."""
    scale = constraint.scale + constraint.shift / accuracy if accuracy > 0 else 0.0
    if constraint.op != ">=" or not constraint.relative:
        return None
    try:
        return required_images(scale, discordance, confidence, accuracy=min(accuracy, 1.0))
    except BadInput:
        return None


@dataclass(frozen=True)
class Need:
    """`records` with which every test of the sequence is passed with a probability of `POWER`; None where no number is
    enough, because a finalist is hardly above its bound in the search."""

    tests: int
    records: int | None


def observed_need(
    constraints: Sequence[Constraint], finalists: Sequence[Measurement], baseline: Measurement, confidence: float
) -> Need | None:
    """How many holdout records the finalists need together, if each has the margin, spread and skewness that it has on
    the search split. None where no constraint is tested over images, or where there are no finalists.

    Tests are taken as independent; they share images, so that more of them pass together.
    """
    tests = [BoundTest.of(c, f, baseline, confidence) for f in finalists for c in constraints]
    margins = [test.margin() for test in tests if test is not None and test.images > 1]
    if not margins:
        return None

    def enough(images: int) -> bool:
        return math.prod(_power(*margin, images, confidence) for margin in margins) >= POWER

    if not enough(MOST):
        return Need(len(margins), None)
    images = bisect_left(range(MOST), True, lo=2, key=enough)
    return Need(len(margins), math.ceil(images * len(baseline.images) / len(set(baseline.images))))


def _power(data: Clusters, worst: float | None, images: int, confidence: float) -> float:
    """How likely so many images like these pass the test. Their spread is taken with rare failures allowed for."""
    normal, seen = NormalDist(), padded(data, confidence, worst)
    error, skewness = seen.shape
    if error == 0.0:
        return float(seen.mean >= 0)
    spread = error * math.sqrt(len(seen) / images)
    weight = 0.0 if worst is None else pseudo_weight(confidence)
    lost = weight * (data.mean - (worst or 0.0)) / (images + weight)
    quantile = with_skewness(normal.inv_cdf(confidence), skewness, images)
    return normal.cdf((data.mean - lost - quantile * math.hypot(spread, lost)) / spread)
