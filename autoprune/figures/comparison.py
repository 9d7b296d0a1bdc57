"""Policies side by side: what each keeps of the score, at every budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v")


def comparison_figure(document: Mapping[str, Any]) -> Figure:
    """From the document of `autoprune compare --json`: a row for each policy, best first, a marker for each budget.

    Policies are ordered by their mean over the budgets they reached; one that misses a budget goes below the others.
    Raises ValueError where nothing was measured.
    """
    score = document["score"]
    measured = [row for row in document["rows"] if row["state"] == "measured"]
    if not measured:
        raise ValueError("a comparison figure needs at least one measured policy")
    budgets = sorted({row["target"] for row in measured}, reverse=True)
    names = _order(measured, score)
    figure, (axes,) = style.canvas(size=(7.2, 1.6 + 0.27 * len(names)))
    base = document["baseline"][score]
    axes.axvspan(base["low"], base["high"], color=style.GRID, zorder=0)
    axes.axvline(base["value"], color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="unpruned")
    for index, budget in enumerate(budgets):
        rows = [row for row in measured if row["target"] == budget]
        shift = (index - (len(budgets) - 1) / 2) * 0.22
        places = [names.index(row["policy"]) + shift for row in rows]
        values = [row[score]["value"] for row in rows]
        reach = [[v - row[score]["low"], row[score]["high"] - v] for v, row in zip(values, rows, strict=True)]
        axes.errorbar(
            values,
            places,
            xerr=list(zip(*reach, strict=True)),
            fmt=MARKERS[index % len(MARKERS)],
            color=style.SERIES[index % len(style.SERIES)],
            markersize=4.5,
            elinewidth=1,
            capsize=0,
            label=f"budget {budget:.2f}",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    shown = f"{style.words(score)} on {document['records']} {document['split']} questions"
    style.dress(axes, x=shown, y="", title=f"Policies on {document['name']}")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8.5, frameon=False, loc="outside lower center", ncols=4)
    return figure


def _order(rows: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["policy"], []).append(row[score]["value"])
    return sorted(found, key=lambda name: (-len(found[name]), -sum(found[name]) / len(found[name]), name))
