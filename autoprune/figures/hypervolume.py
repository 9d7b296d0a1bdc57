"""How the front grew: hypervolume over completed trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def hypervolume_figure(points: Sequence[tuple[int, float]], *, title: str = "Hypervolume of the search") -> Figure:
    """`points` are (completed trials, hypervolume after them), in order. Raises ValueError if there are none."""
    if not points:
        raise ValueError("a hypervolume figure needs at least one point")
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = style.canvas(size=(6.4, 3.6))
    steps, values = [p[0] for p in points], [p[1] for p in points]
    axes.step(steps, values, where="post", color=style.BLUE, linewidth=2, label="hypervolume")
    axes.fill_between(steps, values, step="post", color=style.BLUE, alpha=0.12, linewidth=0)
    last = max(values)
    reached = steps[values.index(last)]
    axes.plot([reached], [last], "o", color=style.BLUE, markersize=6, clip_on=False)
    axes.annotate(
        f"{last:.4g} after {reached}",
        (reached, last),
        textcoords="offset points",
        xytext=(-6, 8) if reached > (steps[0] + steps[-1]) / 2 else (6, 8),
        ha="right" if reached > (steps[0] + steps[-1]) / 2 else "left",
        fontsize=9,
        color=style.INK,
    )
    style.dress(axes, x="completed trials", y="hypervolume", title=title)
    axes.set_ylim(0, last * 1.18 if last > 0 else 1.0)
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
