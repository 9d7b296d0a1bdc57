"""What a quick search does in place of a strategy, and what it says of itself."""

from __future__ import annotations

from additive_support import Model, plan
from search_support import FakeLog, make_plan, run

from autoprune.search.quick import quickened, remarks
from autoprune.spec.models import StrategySpec


def test_another_strategy_gives_way_and_options_of_the_same_stay():
    made = quickened(StrategySpec(name="greedy", options={"block": 2}))
    assert (made.name, made.options["then"], made.options["verify"]) == ("sensitivity", "none", 8)
    kept = quickened(StrategySpec(name="sensitivity", options={"verify": 3, "then": "bayesian"}))
    assert (kept.options["verify"], kept.options["then"]) == (3, "none")


def test_it_says_what_it_did_and_what_was_left():
    asked, log = plan(trials=20), FakeLog()
    run(asked, Model().executor(), log)
    did, left = remarks(asked, StrategySpec(name="auto"), log.trials())
    entries = [r for r in log.settled if r.phase == "table"]
    spent = sum(r.share for r in log.settled if r.origin != "baseline" and not r.cached)
    assert did.startswith(f"quick: a table of {len(entries)} entries on 30 records each")
    assert f"{spent:.1f} of 20 trials" in did
    assert f"auto) has the other {20 - spent:.1f} trials for the 4 parameters of the space: budget, low, high" in left


def test_too_few_trials_for_a_table_are_said():
    did, _ = remarks(make_plan(trials=1), StrategySpec(name="auto"), [])
    assert did == "quick: nothing but references: the share of 1 trials that a table may cost pays for none"
