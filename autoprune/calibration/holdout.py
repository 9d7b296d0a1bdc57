"""How large a holdout must be before it can certify a bound."""

from __future__ import annotations

import math
from statistics import NormalDist

from autoprune.errors import BadInput


def images_needed(effect: float, variance: float, confidence: float = 0.95, power: float = 0.8) -> int:
    """The smallest number of images n such that a one-sided test of `mean > 0` at `confidence`, on numbers with mean
    `effect` > 0 and that variance per image, succeeds with probability `power`:
    n = (z_confidence + z_power)^2 * variance / effect^2.
    """
    if not effect > 0:
        raise BadInput(f"the effect to detect must be above 0, not {effect}")
    quantiles = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(power)
    return max(2, math.ceil(quantiles**2 * variance / effect**2))


def holdout_size(
    bound: float, baseline: float, discordance: float, confidence: float = 0.95, power: float = 0.8
) -> int:
    """How many images (of one record each) certify `M >= bound * baseline` for a measure that is 0 or 1 per record.

    Assumes that a policy truly loses half of what the bound allows, delta = (1 - bound) * baseline / 2, and that pruned
    and unpruned answers differ in rightness on a share `discordance` of the records: (discordance + delta) / 2 turn
    wrong and (discordance - delta) / 2 turn right. The test's number per image is X = M - bound * B, so with
    p_both = baseline - p_lost

        E X = delta,   E X^2 = (1 - bound)^2 * p_both + bound^2 * p_lost + p_gained.

    Several records per image carry at least as much information per image, so the number is on the safe side.
    Raises BadInput for a bound of 1 or more (no sample size certifies no loss at all).
    """
    if not 0 < bound < 1:
        raise BadInput(f"a holdout can be sized for a bound between 0 and 1 times the baseline, not {bound}")
    if not 0 < baseline <= 1:
        raise BadInput(f"the baseline must be above 0 and at most 1, not {baseline}")
    delta = (1 - bound) * baseline / 2
    discordance = max(discordance, delta)
    lost = min((discordance + delta) / 2, baseline)
    gained = max(discordance - lost, 0.0)
    square = (1 - bound) ** 2 * (baseline - lost) + bound**2 * lost + gained
    return images_needed(delta, square - delta**2, confidence, power)
