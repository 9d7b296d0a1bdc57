"""What the holdout proves: sizes of the tests by simulation, the fixed sequence, and degenerate data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from search_support import constraint, make_plan, objective

from autoprune.errors import BadInput
from autoprune.ports import Measurement, TrialRecord
from autoprune.search.certify import SEQUENCE_BROKEN, Finalist, certify, interval, judge, sequence, standing
from autoprune.search.finish import drop_dominated, select
from autoprune.search.remarks import bound_text, remarks
from autoprune.search.settle import Unusable, search_slack
from autoprune.search.sizing import required_images
from autoprune.search.statistics import Clusters, lower_bound

AT_LEAST = constraint("acc", ">=", 0.9)


def measured(values, images=None, label="acc", **exact):
    values = tuple(float(v) for v in values)
    images = tuple(range(len(values))) if images is None else tuple(images)
    return Measurement({label: float(np.mean(values)), **exact}, {label: values}, images)


def clustered(rng, images, both, lost, gained, sticky):
    """Right/wrong pairs of clusters of 1 to 4 records; with probability `sticky` a record repeats its image's first."""
    sizes = rng.integers(1, 5, images)
    index = np.repeat(np.arange(images), sizes)
    draw = rng.random(len(index))
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    repeat = rng.random(len(index)) < sticky
    draw = np.where(repeat, draw[first[index]], draw)
    base = (draw < both + lost).astype(float)
    own = ((draw < both) | ((draw >= both + lost) & (draw < both + lost + gained))).astype(float)
    return measured(own, index), measured(base, index)


def states(goal, runs, seed, **world):
    rng = np.random.default_rng(seed)
    return [judge(goal, *clustered(rng, **world), 0.95).state for _ in range(runs)]


@pytest.mark.parametrize(
    ("images", "base", "gained", "sticky"),
    [(150, 0.9, 0.05, 0.0), (150, 0.9, 0.05, 0.8), (400, 0.8, 0.1, 0.5), (100, 1.0, 0.0, 0.5), (40, 0.95, 0.02, 0.9)],
)
def test_on_the_bound_false_certificates_are_rare(images, base, gained, sticky):
    """M = 0.9 * B exactly: at most 5 % may be certified, and at most 5 % called violated (+ 3 sigma of 500 runs)."""
    both = 0.9 * base - gained
    world = {"images": images, "both": both, "lost": base - both, "gained": gained, "sticky": sticky}
    found = states(AT_LEAST, 500, 1, **world)
    assert found.count("certified") / 500 <= 0.05 + 0.029
    assert found.count("violated") / 500 <= 0.05 + 0.029


def test_ignoring_that_records_share_images_would_certify_too_much():
    """The negative control: the same data, every record its own cluster."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(500):
        own, base = clustered(rng, 150, 0.76, 0.14, 0.05, 1.0)
        naive = [measured(m.samples["acc"]) for m in (own, base)]
        hits += judge(AT_LEAST, *naive, 0.95).state == "certified"
    assert hits / 500 > 0.08


def test_power_is_what_the_size_promises():
    images = required_images(0.9, 0.1, 0.95, 0.8, accuracy=0.9)
    loss = 0.5 * 0.1 * 0.9
    lost, gained = (0.1 + loss) / 2, (0.1 - loss) / 2
    rng, hits = np.random.default_rng(4), 0
    for _ in range(600):
        draw = rng.random(images)
        base = draw < 0.9
        own = (draw < 0.9 - lost) | ((draw >= 0.9) & (draw < 0.9 + gained))
        hits += judge(AT_LEAST, measured(own), measured(base), 0.95).state == "certified"
    assert 0.7 <= hits / 600 <= 0.9


def test_sizes_are_those_of_the_design():
    assert 700 <= required_images(0.97, 0.05, 0.95) <= 3000
    assert 2000 <= required_images(0.98, 0.05, 0.95) <= 7000
    assert required_images(0.97, 0.1, 0.95) > required_images(0.97, 0.05, 0.95)
    assert required_images(0.97, 0.0, 0.95) >= 98, "rule of three"
    with pytest.raises(BadInput):
        required_images(1.0, 0.05, 0.95)


# ----------------------------------------------------------------------------------------------------- degenerate data
def test_no_disagreement_in_few_images_proves_little():
    few, many = [1.0] * 20, [1.0] * 60
    assert judge(AT_LEAST, measured(few), measured(few), 0.95).state == "undecided"
    assert judge(AT_LEAST, measured(many), measured(many), 0.95).state == "certified"
    assert judge(AT_LEAST, measured([0.0] * 60), measured(many), 0.95).state == "violated"


def test_a_deterministic_measure_is_decided_by_its_value():
    at_most = constraint("cost", "<=", 0.5)
    base = measured([2.0] * 5, label="cost")
    for value, state in [(0.9, "certified"), (1.0, "certified"), (1.1, "violated")]:
        verdict = judge(at_most, measured([value] * 5, label="cost"), base, 0.95)
        assert verdict.state == state
        assert verdict.certifiable == pytest.approx(value / 2)


def test_a_value_without_records_is_exact():
    at_most = constraint("cost", "<=", 0.5)
    base = Measurement({"cost": 2.0}, {}, (0, 1))
    verdict = judge(at_most, Measurement({"cost": 0.8}, {}, (0, 1)), base, 0.95)
    assert (verdict.state, verdict.certifiable) == ("certified", 0.4)
    assert interval(base, "cost", 0.95) == interval(base, "cost", 0.5)


def test_a_timing_is_met_or_violated_but_never_certified():
    """One median has no interval; nothing is proven by it, and nothing waits for it."""
    at_most, base = constraint("prefill_latency", "<=", 0.5), measured([1.0] * 400, prefill_latency=1.0)
    clear = with_margin(0.08)
    for taken, state in [(0.4, "met"), (0.5, "met"), (0.6, "violated")]:
        own = Measurement({**clear.values, "prefill_latency": taken}, clear.samples, clear.images)
        first, second = certify([at_most, AT_LEAST], [own, own], base, 0.95)
        assert first == second
        assert (first[at_most.text].state, first[at_most.text].certifiable) == (state, None)
        assert standing(first) == ("certified" if state == "met" else "violated")


def test_one_image_decides_nothing():
    own = measured([1.0, 0.0], (3, 3))
    verdict = judge(AT_LEAST, own, own, 0.95)
    assert verdict.state == "undecided"
    assert "1 image" in verdict.reason
    shown = interval(own, "acc", 0.95)
    assert (shown.low, shown.high) == (None, None)


def test_clusters_widen_the_error():
    values = np.random.default_rng(0).random(200)
    doubled = np.repeat(values, 2)
    single = Clusters.of(values, range(200)).error
    assert Clusters.of(doubled, np.repeat(np.arange(200), 2)).error == pytest.approx(single)
    assert Clusters.of(doubled, range(400)).error == pytest.approx(single / math.sqrt(2), rel=0.01)
    assert single == pytest.approx(values.std(ddof=1) / math.sqrt(200))


def test_the_bound_is_students():
    data = Clusters.of([1.0, 2.0, 3.0, 4.0], range(4))
    expected = 2.5 - 2.3533634348 * math.sqrt(5 / 3) / 2
    assert lower_bound(data, 0.95) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------------- certifiable
@pytest.mark.parametrize("op", [">=", "<="])
@pytest.mark.parametrize(("scale", "shift"), [(0.9, 0.0), (1.0, -0.03), (0.0, 0.7)])
def test_the_certifiable_number_is_where_the_verdict_turns(op, scale, shift):
    rng = np.random.default_rng(5)
    base = measured(1 + rng.normal(0, 0.2, 80))
    own = measured(np.array(base.samples["acc"]) * 0.95 + rng.normal(0, 0.1, 80))
    number = judge(constraint("acc", op, scale, shift), own, base, 0.95).certifiable
    assert number is not None
    inward = 1e-6 if op == "<=" else -1e-6
    for step, expected in [(inward, "certified"), (-inward, "undecided")]:
        moved = (number + step, 0.0) if scale and not shift else (scale, number + step)
        assert judge(constraint("acc", op, *moved), own, base, 0.95).state == expected


def test_bounds_are_written_to_the_safe_side():
    assert bound_text(constraint("acc", ">=", 0.97), 0.95899) == "acc >= 0.9589 * baseline"
    assert bound_text(constraint("kv", "<=", 0.4), 0.41231) == "kv <= 0.4124 * baseline"
    assert bound_text(constraint("acc", ">=", 1.0, -0.03), -0.04567) == "acc >= baseline - 0.04567"
    assert bound_text(constraint("kv", "<=", 0.0, 5.0), 123456.0) == "kv <= 123500"


def test_the_search_margin_is_one_standard_error():
    rng = np.random.default_rng(6)
    base, own = measured(rng.random(50)), measured(rng.random(50))
    paired = np.array(own.samples["acc"]) - 0.9 * np.array(base.samples["acc"])
    expected = -paired.mean() + paired.std(ddof=1) / math.sqrt(50)
    assert search_slack(AT_LEAST, own, base) == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------- fixed sequence
def with_margin(margin, n=400):
    """A policy that is right on a share (0.9 + margin) of the records a perfect baseline is right on."""
    return measured([1.0] * round(n * (0.9 + margin)) + [0.0] * (n - round(n * (0.9 + margin))))


def test_after_the_first_that_fails_none_is_certified():
    base = measured([1.0] * 400)
    clear, close, bad = with_margin(0.08), with_margin(0.005), with_margin(-0.2)
    assert [standing(v) for v in certify([AT_LEAST], [clear, clear], base, 0.95)] == ["certified", "certified"]
    results = certify([AT_LEAST], [clear, close, clear, bad], base, 0.95)
    assert [standing(v) for v in results] == ["certified", "undecided", "undecided", "violated"]
    assert results[2][AT_LEAST.text].reason == SEQUENCE_BROKEN
    assert results[1][AT_LEAST.text].reason == ""
    broken = certify([AT_LEAST], [Unusable("oom: full"), clear], base, 0.95)
    assert broken[0] == {}
    assert standing(broken[1]) == "undecided"


def test_an_exact_number_neither_ends_the_sequence_nor_waits_for_it():
    base, clear, close = measured([1.0] * 400, cost=1.0), with_margin(0.08), with_margin(0.005)
    dear, cheap, unsure = (
        Measurement({**m.values, "cost": cost}, m.samples, m.images)
        for m, cost in ((clear, 0.9), (clear, 0.1), (close, 0.2))
    )
    at_most = constraint("cost", "<=", 0.5)
    results = certify([at_most, AT_LEAST], [dear, unsure, cheap], base, 0.95)
    assert [standing(v) for v in results] == ["violated", "undecided", "undecided"]
    assert [v[at_most.text].state for v in results] == ["violated", "certified", "certified"]
    assert [v[AT_LEAST.text].state for v in results] == ["certified", "undecided", "undecided"]
    assert [v[at_most.text].certifiable for v in results] == [0.9, 0.2, 0.1], "a cost is known, whatever else is shown"


def test_constraints_of_one_policy_are_steps_of_the_sequence():
    """Two constraints tested side by side at full confidence would be wrong about one of them up to twice as often."""
    base = measured([1.0] * 400)
    tight, loose = constraint("acc", ">=", 0.98), constraint("acc", ">=", 0.8)
    both = with_margin(0.07)
    first, second = certify([loose, tight], [both, both], base, 0.95)
    assert [first[c.text].state for c in (loose, tight)] == ["certified", "undecided"]
    assert [second[c.text].state for c in (loose, tight)] == ["undecided", "undecided"]
    (turned,) = certify([tight, loose], [both], base, 0.95)
    assert [turned[c.text].state for c in (tight, loose)] == ["undecided", "undecided"]
    assert turned[loose.text].reason == SEQUENCE_BROKEN


def record(number, cost, **values):
    return TrialRecord(
        number, "trial", f"t{number}", "complete", {}, "{}", f"d{number}", values={"cost": cost, **values}
    )


def test_the_order_is_dearest_first_by_search_costs():
    ordered = sequence([record(0, 0.2), record(1, 0.9), record(2, 0.5), record(3, 0.5)], ["cost"])
    assert [r.number for r in ordered] == [1, 2, 3, 0]


# --------------------------------------------------------------------------------------------------- members, selection
def finalist(number, cost, nll, margin):
    base = measured([1.0] * 400)
    holdout = with_margin(margin)
    verdicts = {AT_LEAST.text: judge(AT_LEAST, holdout, base, 0.95)}
    found = Measurement({**holdout.values, "cost": cost, "nll": nll}, holdout.samples, holdout.images)
    return Finalist(record(number, cost, nll=nll), found, verdicts)


def test_an_undecided_policy_does_not_push_out_a_certified_one():
    goals = (objective("cost"), objective("nll"))
    certified, better = finalist(0, 0.5, 0.5, 0.08), finalist(1, 0.4, 0.4, 0.005)
    assert drop_dominated([certified, better], goals) == [certified, better]
    same, worse = finalist(2, 0.5, 0.5, 0.08), finalist(3, 0.6, 0.6, 0.005)
    assert drop_dominated([certified, same, worse], goals) == [certified]


def test_selection_is_by_a_search_cost_among_the_certified():
    dear, cheap, undecided = finalist(0, 0.5, 0.2, 0.08), finalist(1, 0.4, 0.9, 0.08), finalist(2, 0.1, 0.1, 0.005)
    assert select([dear, cheap, undecided], make_plan()) is cheap
    assert select([dear, cheap, undecided], make_plan(select=objective("nll"))) is dear
    assert select([undecided], make_plan()) is None
    assert remarks([AT_LEAST], [undecided], 1) == [
        "no policy is certified:",
        f"{AT_LEAST.text}: t2 could be certified for acc >= 0.8766 * baseline",
    ]
    shown = remarks([AT_LEAST], [dear, undecided, cheap], 3)
    assert shown == [f"{AT_LEAST.text}: t2 could be certified for acc >= 0.8766 * baseline"]
