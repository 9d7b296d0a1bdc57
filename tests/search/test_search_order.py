"""Policies that begin alike are measured one after the other; what hangs on another order keeps it."""

from __future__ import annotations

import json

import pytest
from search_support import FakeExecutor, FakeLog, make_plan, reference, run

from autoprune.search.dispatch import never
from autoprune.search.holdout import Bench


@pytest.fixture(autouse=True)
def by_y(monkeypatch):
    """Toy policies begin alike where their y is the same."""
    for room in ("driver", "holdout"):
        monkeypatch.setattr(f"autoprune.search.{room}.prefix_key", lambda canonical: json.loads(canonical).get("y", 0))


def asked(executor, split):
    return [json.loads(r.policy)["y"] for r in executor.submitted if r.split == split and r.policy is not None]


REFERENCES = tuple(reference(x, y) for x, y in ((0.9, 0.3), (0.8, 0.7), (0.7, 0.3), (0.6, 0.7)))


@pytest.mark.parametrize(("trials", "order"), [(4, [0.3, 0.3, 0.7, 0.7]), (3, [0.3, 0.7, 0.3])])
def test_references_stand_in_order_where_all_are_measured(trials, order):
    executor = FakeExecutor()
    run(make_plan(references=REFERENCES, trials=trials), executor)
    assert asked(executor, "search") == order


def test_finalists_are_measured_in_order_and_judged_in_theirs():
    executor, log = FakeExecutor(), FakeLog()
    front = run(make_plan(trials=24), executor, log)
    measured = asked(executor, "holdout")
    assert len(set(measured)) > 2
    assert measured == sorted(measured)
    costs = [m.search["cost"] for m in front.members]
    assert costs == sorted(costs, reverse=True), "dearest first, whatever was measured first"


def test_what_a_stage_is_good_for_is_measured_in_order_and_told_in_its_own():
    """`explanations.stages` measures through the same bench."""
    plan, executor, log = make_plan(), FakeExecutor(), FakeLog()
    bench = Bench(plan, executor, log, never)
    policies = [one.candidate.canonical for one in REFERENCES]
    found = bench.policies(policies, "search", bench.baseline("search"), lambda done: None)
    assert asked(executor, "search") == [0.3, 0.3, 0.7, 0.7]
    assert [one.values["cost"] for one in found] == pytest.approx([0.6, 0.75, 0.5, 0.65])
