"""How many images a holdout needs before a bound relative to the baseline can be certified."""

from __future__ import annotations

import math

from autoprune.calibration.holdout import holdout_size


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
