"""The comparison's picture: a row for each policy that was measured, a marker for each budget."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.figures import comparison_figure


def row(policy: str, target: float, value: float, state: str = "measured") -> dict[str, Any]:
    estimate = {"value": value, "low": value - 0.02, "high": value + 0.02}
    return {"policy": policy, "target": target, "state": state, "exact_match": estimate, "reason": ""}


def document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    base = {"exact_match": {"value": 0.95, "low": 0.93, "high": 0.97}}
    return {"name": "q", "score": "exact_match", "records": 64, "split": "holdout", "baseline": base, "rows": rows}


def test_policies_stand_best_first_and_budgets_have_their_own_marker() -> None:
    rows = [row("a", 0.5, 0.8), row("a", 0.1, 0.4), row("b", 0.5, 0.9), row("b", 0.1, 0.6)]
    rows += [row("late", 0.5, 0.94), row("late", 0.1, 0, "infeasible")]
    figure = comparison_figure(document(rows))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "late"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["unpruned", "budget 0.50", "budget 0.10"]
    budgets = {c.get_label(): c.lines[0].get_xdata().tolist() for c in axes.containers}
    assert budgets == {"budget 0.50": [0.8, 0.9, 0.94], "budget 0.10": [0.4, 0.6]}


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="at least one measured policy"):
        comparison_figure(document([row("late", 0.1, 0, "infeasible")]))
