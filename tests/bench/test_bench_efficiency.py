"""Search efficiency: what counts as an evaluation, what a curve is, and a few searches at their smallest."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from autoprune.executors import InlineExecutor
from autoprune.policy import canonical
from autoprune.policy.budget import budget, lengths
from autoprune.ports import EvalRequest, Measured
from benchmarks import efficiency_curves as curves
from benchmarks import synthetic, vflowopt
from benchmarks.efficiency import figure, fitting, made, markdown
from benchmarks.efficiency_runs import Arm, Workplace
from benchmarks.shared import Memo, SharedExecutor

REFERENCE = (1.0, 1.0)


def point(cost: float, at: tuple[float, float] | None, feasible: bool = True, phase: str = "a") -> dict[str, Any]:
    state = "complete" if at else "partial"
    return {
        "phase": phase,
        "state": state,
        "evaluations": cost,
        "compute": cost / 2,
        "point": at,
        "feasible": feasible and at is not None,
    }


def run(*points: dict[str, Any]) -> dict[str, Any]:
    return {"points": points, "held_out": []}


RUN = run(
    point(1.0, None),
    point(1.0, (0.5, 0.5)),
    point(0.25, None),
    point(1.0, (0.1, 0.1), feasible=False, phase="b"),
    point(1.0, (0.25, 0.75), phase="b"),
    point(1.0, (0.25, 0.25), phase="b"),
)


def test_a_curve_counts_everything_and_only_what_is_feasible() -> None:
    found = curves.curve(RUN, REFERENCE)
    assert found == [(0, 0), (1, 0), (2, 0.25), (2.25, 0.25), (3.25, 0.25), (4.25, 0.3125), (5.25, 0.5625)]
    assert [curves.at(found, cost) for cost in (0.5, 2, 4.3, 100)] == [0, 0.25, 0.3125, 0.5625]
    assert curves.needed(found, 0.3) == 4.25
    assert curves.needed(found, 0.6) == math.inf
    assert curves.curve(RUN, REFERENCE, "compute")[-1] == (2.625, 0.5625)
    assert curves.best_known([RUN, run(point(1, (0.0, 0.9)))], REFERENCE) == pytest.approx(0.5625 + 0.25 * 0.1)


def test_phases_say_what_each_cost_and_brought() -> None:
    first, second = curves.phases([RUN, run(point(1, (0.5, 0.5)))], REFERENCE, 0.5)
    assert (first["phase"], first["evaluations"], first["gain"]) == ("a", (2.25 + 1) / 2, 0.5)
    assert (second["phase"], second["evaluations"], second["infeasible"]) == ("b", 1.5, 0.5)
    assert (second["measured"], second["improved"], second["gain"]) == (1.5, 1.0, pytest.approx(0.3125))


def test_quartiles_stand_infinity_and_ratios_have_an_interval() -> None:
    assert curves.quartiles([3, 1, 2, 4, 5]) == [3, 2, 4]
    assert curves.quartiles([1, math.inf, 3]) == [3, 2, math.inf]
    slow = [[(0.0, 0.0), (20.0, 0.5 + i / 100)] for i in range(5)]
    quick = [[(0.0, 0.0), (4.0 + i, 0.6)] for i in range(5)]
    assert curves.times_fewer(slow, quick, 20) == 20 / 6
    low, high = curves.interval(slow, quick, lambda one, other: curves.times_fewer(one, other, 20))
    assert 20 / 8 <= low < 20 / 6 < high <= 20 / 4
    assert curves.times_fewer(quick, slow, 20) == 0


def test_what_another_search_measured_is_paid_for_all_the_same(tmp_path: Path) -> None:
    spec = synthetic.worker_spec("two_stage_mixed")
    request = EvalRequest(None, "search", synthetic.LABELS, limit=synthetic.RECORDS["search"] // 4)
    found = []
    for build in ("benchmarks.synthetic:build", "benchmarks.nowhere:build"):  # the second one could measure nothing
        workers = InlineExecutor(spec, build)
        key = synthetic.CONTEXT.key
        executor = SharedExecutor(workers, Memo(tmp_path / "memo.db", "code"), key, synthetic.RECORDS["search"])
        for asked in (request, EvalRequest(None, "holdout", synthetic.LABELS)):
            executor.submit(asked)
            (outcome,) = executor.wait()
            assert isinstance(outcome, Measured)
            found.append(outcome.measurement)
        assert executor.spent == 0.25, "the holdout is nobody's search"
        assert executor.wait() == []
    assert found[:2] == found[2:]


def test_vflowopt_meets_its_budget_at_thirds_of_the_depth() -> None:
    proposals = synthetic.problem("vflowopt").proposals
    tokens = synthetic.problem("vflowopt").tokens
    for r1, r2, layers in ((0.265, 0.98, [0, 3, 5]), (0.36, 0.6, [0, 3, 5]), (0.3, 0.6, [0, 3])):
        values = {"r1": r1, "r2": r2, "gate": 34.8, "side": 15.6 * 12 / 27, "entropy": 0.0}
        resolved = canonical.from_json(proposals.free(vflowopt.document(values, Fraction(1, 4))).canonical)
        assert [stage.layer for stage in resolved.stages] == layers, "the last is left out where the budget is met"
        spent = float(budget([lengths(resolved, tokens)], [tokens], resolved.depth))
        assert (0.245 if len(layers) == 3 else 0.2) < spent <= 0.25


def test_small_searches_make_a_table_and_a_figure(tmp_path: Path) -> None:
    place = Workplace(tmp_path, search=8, holdout=6)
    place.make_questions(14)
    wanted = [Arm("random", 8), Arm("greedy", 8), Arm(vflowopt.NAME, 4)]
    fit, refused = fitting(place, [*wanted, Arm("nonsense", 9)])
    assert fit == wanted
    assert "nonsense" in refused["nonsense"]
    runs = [place.run(arm, 0) for arm in wanted]
    for arm, one in zip(wanted[:2], runs, strict=False):
        assert one["spent"] == pytest.approx(sum(p["evaluations"] for p in one["points"])), arm
        assert one["spent"] == pytest.approx(arm.evaluations, abs=1.5)
        assert one["reference"] == runs[0]["reference"]
        assert all(p["compute"] <= p["evaluations"] for p in one["points"])
    assert sum(p["evaluations"] for p in runs[2]["points"]) == 4
    again = Workplace(tmp_path, search=8, holdout=6)
    assert [again.run(arm, 0) for arm in wanted] == runs
    assert "workers" not in again.__dict__, "nothing was run again"
    document = made(runs, wanted, refused)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    text = markdown(document)
    assert "`nonsense` does not fit the space" in text
    for arm in wanted:
        assert f"| {arm.name} |" in text
    assert len(figure(document).axes) == 2
