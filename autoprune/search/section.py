"""The first of a row of options that is good, where all after it are: bisection, with several workers k-section."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from autoprune.search.strategy import Answer, Probe, Probes

Searched = Generator[Probes, Sequence[Answer], int]


def first_good(
    count: int, width: int, probe: Callable[[int], Probe], good: Callable[[Answer], bool], phase: str
) -> Searched:
    """The index of the first good option; the last one, `count` - 1, is known to be. Asks `width` at a time.

    Where noise makes an earlier option good than one that is not, what is returned lies above every bad one seen.
    """
    low, high = -1, count - 1
    while high - low > 1:
        inside = min(width, high - low - 1)
        asked = sorted({low + (high - low) * j // (inside + 1) for j in range(1, inside + 1)})
        answers = yield Probes(phase, [probe(i) for i in asked])
        found = [i for i, answer in zip(asked, answers, strict=True) if good(answer)]
        low = max([low, *(i for i in asked if i not in found)])
        high = min([high, *(i for i in found if i > low)])
    return high
