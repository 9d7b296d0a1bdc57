"""How many images a holdout needs before a bound relative to the baseline can be certified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.calibration.holdout import holdout_size
from autoprune.errors import BadInput
from autoprune.search.statistics import is_binary

if TYPE_CHECKING:
    from autoprune.ports import Measurement
    from autoprune.spec.goals import Constraint


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


def observed_need(
    constraints: Sequence[Constraint], finalists: Sequence[Measurement], baseline: Measurement, confidence: float
) -> tuple[int, float] | None:
    """-> (records, discordance): how many holdout records the hardest constraint needs at the largest share of records
    on which a finalist and the baseline differ. None where no constraint bounds a 0/1 measure by the baseline, or where
    there are no finalists.

    The formula counts images of one record each; with several per image it is on the safe side.
    """
    needs = []
    for constraint in constraints if finalists else ():
        base = baseline.samples.get(constraint.label)
        if base is None or not is_binary(base):
            continue
        shares = [
            sum(a != b for a, b in zip(f.samples[constraint.label], base, strict=True)) / len(base) for f in finalists
        ]
        images = images_for(constraint, baseline.values[constraint.label], max(shares), confidence)
        if images is not None:
            per_image = len(baseline.images) / len(set(baseline.images))
            needs.append((math.ceil(images * per_image), max(shares)))
    return max(needs, default=None)
