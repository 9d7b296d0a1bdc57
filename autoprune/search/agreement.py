"""Do cheap measures order policies as held-out accuracy does? Spearman's rank correlation, with its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from autoprune.policy.front import Agreement

FEWEST = 4  # policies; three can be put in six orders only, of which one in six is perfect


def agreement(
    cheap: Sequence[Mapping[str, float]],
    accuracy: Sequence[Mapping[str, float]],
    better: Mapping[str, Literal["higher", "lower"]],
    accuracies: Sequence[str],
    target: float | None = None,
) -> tuple[Agreement, ...]:
    """Every measure of `better` against every accuracy: element i of both sequences is policy i.

    Better is higher here, whatever the measure: +1 says that it puts the policies in the order of their accuracy, -1 in
    the opposite one. A measure is not held against itself where both sequences are the same.
    """
    found = []
    for wanted in accuracies:
        for label, way in better.items():
            if cheap is accuracy and label == wanted:
                continue
            pairs = [(a[label], b[wanted]) for a, b in zip(cheap, accuracy, strict=True)]
            sign = 1 if way == "higher" else -1
            rho = spearman([sign * a for a, _ in pairs], [b for _, b in pairs])
            found.append(Agreement(label, wanted, rho, len(pairs), target))
    return tuple(found)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Correlation of the ranks, equal values at their mean rank. None for fewer than four pairs, or where all values of
    a side are equal."""
    from scipy.stats import rankdata

    if len(one) < FEWEST or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    ranks = [rankdata(values) for values in (one, other)]
    x, y = (values - values.mean() for values in ranks)
    return float((x @ y) / ((x @ x) * (y @ y)) ** 0.5)
