"""What `compare` shows of its document, and the progress on the way."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from autoprune.cli.comparing import _show
from autoprune.cli.progress import LiveObserver
from autoprune.ports import Progress


def row(budget: float, **more: Any) -> dict[str, Any]:
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    costs = {"information_flow": 2.8e-08, "prefill_flops": budget * 1e9, "kv_bytes": budget * 1e6}
    return {"budget": budget, "exact_match": score, "retained": 1.0, "by_type": {}, **costs, **more}


def shown(capsys: pytest.CaptureFixture[str], *rows: dict[str, Any]) -> list[str]:
    start = {"records": 4, "split": "holdout", "images": 2, "parity": False, "score": "exact_match"}
    _show({**start, "baseline": row(1.0), "rows": rows})
    return capsys.readouterr().out.splitlines()


def measured(name: str, target: float, budget: float, **more: Any) -> dict[str, Any]:
    return row(budget, policy=name, target=target, state="measured", **more)


def test_a_row_shows_its_target_and_whether_it_was_reached(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [measured("a", 0.4, 0.4, reached=True), measured("b", 0.4, 0.17, reached=False)]
    out = {line.split()[0]: line for line in shown(capsys, *rows)}
    assert out["policy"].split()[:3] == ["policy", "target", "budget"]
    assert out["a"].split()[1:3] == ["0.4", "0.4"]
    assert "0.17 not reached" in out["b"]
    assert "not reached" not in out["a"] + out["unpruned"]


def test_columns_without_content_are_left_out_and_the_others_explained(capsys: pytest.CaptureFixture[str]) -> None:
    spread = {"value": 0.5, "low": 0.4, "high": 0.6}
    plain = shown(capsys, measured("a", 0.4, 0.4))
    timed = shown(capsys, measured("a", 0.4, 0.4, prefill_ratio=spread, selection_share=spread))
    for lines, there in ((plain, False), (timed, True)):
        assert ("selection" in lines[1].split()) is there
        legend = " ".join(lines[4:])
        assert "flow: how far" in legend
        assert ("selection: " in legend) is there
    assert "e-08" not in " ".join(plain)  # a distance of rounding is none


def test_what_was_not_measured_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"policy": "late", "target": 0.1, "state": "infeasible", "reason": "cheapest possible: 0.75"}
    (line,) = (line for line in shown(capsys, failed) if line.startswith("late"))
    assert line.split() == ["late", "0.1", "infeasible:", "cheapest", "possible:", "0.75"]


def test_progress_tells_the_infeasible_from_the_failed() -> None:
    out = StringIO()
    with LiveObserver(Console(file=out, width=100)) as observer:
        observer.update(Progress("compare", 2, 0, 0, 4, infeasible=1))
        observer.update(Progress("timing", 0, 1, 0, 4))
    first, second = out.getvalue().splitlines()
    assert "1 infeasible" in first
    assert "failed" not in first
    assert second.startswith("timing")
    assert "1 failed" in second
