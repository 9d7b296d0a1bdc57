"""Searches replayed from a pool: what is drawn, what is looked up, and that a false certificate would be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoprune.errors import BadInput
from autoprune.search.certify import judge
from benchmarks.certified import Design, markdown, run_block, summary
from benchmarks.outcomes import Part, Pool, joined
from benchmarks.replay import (
    ALIKE,
    Drawing,
    Split,
    at_least,
    at_the_edge,
    draw,
    measurement,
    replay,
    retained,
)


def made(worths: list[float], images: int = 900, seed: int = 3) -> Pool:
    """A pool of policies that answer this share of what the baseline (right on 95 %) answers; dearer is better."""
    rng = np.random.default_rng(seed)
    base = rng.random(images) < 0.95
    rows = [base, *(base & (rng.random(images) < worth) for worth in worths)]
    right = np.stack(rows).astype(float)
    costs = np.array([[1.0, 1.0, 1.0], *([w, w, w] for w in worths)])
    names = ["baseline", *(f"p{i}" for i in range(len(worths)))]
    policies = tuple({"kind": "sample", "name": name, "target": None} for name in names)
    return Pool({"seed": seed}, policies, ("color",) * images, right, 1.5 - right, costs)


def test_a_pool_comes_back_as_it_was_written(tmp_path: Path) -> None:
    pool = made([0.9, 0.8], images=203)
    pool.save(tmp_path)
    again = Pool.load(tmp_path)
    assert (again.right == pool.right).all()
    assert np.allclose(again.nll, pool.nll, atol=1e-3)
    assert (again.costs == pool.costs).all()
    assert again.policies == pool.policies
    with pytest.raises(BadInput, match="no pool in"):
        Pool.load(tmp_path / "elsewhere")
    made([0.9]).save(tmp_path / "other")
    (tmp_path / "other" / "pool.npz").replace(tmp_path / "pool.npz")
    with pytest.raises(BadInput, match="different pools"):
        Pool.load(tmp_path)


def test_parts_join_in_order_and_a_missing_one_says_why(tmp_path: Path) -> None:
    one = Part(np.array([1.0, 0.0, 1.0]), np.array([0.5, 1.5, 0.25]), np.array([3.0, 0.3, 30.0]))
    two = Part(np.array([0.0]), np.array([2.0]), np.array([7.0, 0.7, 70.0]))
    one.save(tmp_path / "a.npz")
    whole = joined([Part.load(tmp_path / "a.npz"), two])
    assert whole.right.tolist() == [1, 0, 1, 0]
    assert whole.nll.tolist() == [0.5, 1.5, 0.25, 2.0]
    assert whole.costs == pytest.approx([4.0, 0.4, 40.0]), "means over records, not over chunks"
    Part.failed("OutOfMemoryError: too much").save(tmp_path / "b.npz")
    assert joined([one, Part.load(tmp_path / "b.npz")]).reason == "OutOfMemoryError: too much"


def test_draws_with_replacement_are_the_pool_as_a_distribution() -> None:
    pool, rng = made([0.9] * 6, images=100), np.random.default_rng(0)
    without = draw(pool, rng, 4, 30, 70, "without")
    assert sorted([*without.search.records, *without.holdout.records]) == list(range(100))
    drawn = draw(pool, rng, 4, 300, 700, "with")
    assert len(set(drawn.holdout.records)) <= 100 < len(drawn.holdout.records)
    assert 0 not in drawn.tried
    assert len(set(drawn.tried)) == 4
    found = measurement(pool, 1, drawn.holdout)
    assert len(set(found.images)) == 700, "an image drawn twice counts as two"
    assert found.values["exact_match"] == pool.right[1, drawn.holdout.records].mean()
    with pytest.raises(ValueError, match="too small"):
        draw(pool, rng, 4, 31, 70, "without")


def test_a_replayed_search_certifies_what_is_good_and_not_what_is_bad() -> None:
    pool = made([0.995, 0.9, 0.6])
    drawn = draw(pool, np.random.default_rng(1), 3, 300, 600, "without")
    found = replay(pool, drawn, (0.8, 0.97), (100, 600), 0.95)
    assert found[0.8, 600].certified == (1, 2)
    assert found[0.97, 600].certified == (1,)
    assert set(found) == {(0.8, 100), (0.8, 600), (0.97, 100), (0.97, 600)}
    assert 3 not in found[0.8, 600].finalists


@pytest.mark.parametrize("how", ["with", "clusters"])
def test_the_least_favourable_bound_is_rarely_certified(how: Drawing) -> None:
    pool, rng = made(list(np.linspace(0.8, 0.97, 8))), np.random.default_rng(2)
    wrong = sum(at_the_edge(pool, rng, (400,), 0.95, how)[400] for _ in range(200))
    assert 1 <= wrong <= 20, "about one in twenty"


def test_questions_of_one_image_are_alike_and_do_not_move_the_truth() -> None:
    pool, rng = made([0.8], images=900), np.random.default_rng(6)
    split = draw(pool, rng, 1, 1, 6000, "clusters").holdout
    right = pool.right[1, split.records]
    assert set(np.bincount(split.images)) == {1, 2, 3, 4}
    assert right.mean() == pytest.approx(pool.right[1].mean(), abs=0.02)
    second = np.flatnonzero(np.diff(split.images, prepend=-1) > 0)[:-1] + 1
    pairs = second[split.images[second] == split.images[second - 1]]
    assert np.corrcoef(right[pairs - 1], right[pairs])[0, 1] == pytest.approx(ALIKE, abs=0.06)
    few = split.first(10)
    assert set(few.images) == set(range(10))
    assert len(few.records) == (split.images < 10).sum()


def test_whoever_takes_them_for_images_certifies_too_much() -> None:
    """The negative control: the same records, each an image of its own."""
    pool, rng = made(list(np.linspace(0.8, 0.97, 8))), np.random.default_rng(2)
    truth, wrong = retained(pool), [0, 0]
    for _ in range(250):
        drawn = draw(pool, rng, 1, 1, 200, "clusters")
        row, together = int(drawn.tried[0]), drawn.holdout
        for i, split in enumerate((together, Split(together.records, np.arange(len(together.records))))):
            own, base = (measurement(pool, of, split) for of in (row, 0))
            wrong[i] += judge(at_least(float(truth[row]) * (1 + 1e-9)), own, base, 0.95).state == "certified"
    assert wrong[0] <= 18
    assert wrong[1] > 2 * wrong[0]


def test_false_certificates_would_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark can fail: with the truth moved below the bounds every certificate is false."""
    pool = made([0.99] * 5)
    pool.save(tmp_path)
    design = Design("x", bounds=(0.9,), holdouts=(200, 400), trials=3, search=200)
    honest = summary([run_block(tmp_path, design, "with", 0, 20)], 0.95)
    assert [c["false_rate"] for c in honest["cells"]] == [0, 0]
    assert honest["cells"][1]["certified_anything"] > 0.9
    assert not any(c["holds"] for c in honest["cells"]), "twenty searches prove no rate below 0.06"
    for module in ("certified", "replay"):
        monkeypatch.setattr(f"benchmarks.{module}.retained", lambda pool: retained(pool) - 0.2)
    found = summary([run_block(tmp_path, design, "with", block, 20) for block in (0, 1)], 0.95)
    assert found["cells"][1]["shown_false_rate"] >= found["cells"][1]["false_rate"]
    assert not any(e["holds"] for e in found["edge"]), "here the edge lies far below what is true"
    assert found["searches"] == 40
    assert found["cells"][1]["false_rate"] == found["cells"][1]["certified_anything"] > 0.9
    shown = {"design": {"trials": 3, "search": 200}, "policies": 5, "images": 900, "searches": 40, "promise": 0.06}
    assert "NO" in markdown({**shown, "drawing": {"with": found}})


def test_blocks_follow_from_their_number_alone(tmp_path: Path) -> None:
    made([0.95, 0.9, 0.8]).save(tmp_path)
    design = Design("x", bounds=(0.85,), holdouts=(100,), trials=2, search=100)
    first, again, other = (run_block(tmp_path, design, "without", block, 10) for block in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_number_beside_a_verdict_is_held_against_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers above the declared bound can be false where every certificate is true: each counts by itself."""
    pool = made([0.99] * 5)
    pool.save(tmp_path)
    design = Design("x", bounds=(0.7,), holdouts=(400,), trials=3, search=200)
    monkeypatch.setattr("benchmarks.certified.retained", lambda pool: retained(pool) - 0.2)
    (cell,) = summary([run_block(tmp_path, design, "with", 0, 20)], 0.95)["cells"]
    assert cell["certified_anything"] > 0.9
    assert cell["false_rate"] == 0
    assert cell["shown_false_rate"] > 0.9
    assert not cell["holds"]
