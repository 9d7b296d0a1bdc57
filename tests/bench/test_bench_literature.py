"""Searched against hand-set: which member is taken, what counts as better, and that figures and tables come of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoprune.errors import BadInput
from benchmarks import literature
from benchmarks.literature import chosen, compare, figure, markdown, summary
from benchmarks.outcomes import Part, Pool

IMAGES = 2400


def made(worths: dict[str, float], searched: float) -> tuple[Pool, Part]:
    rng = np.random.default_rng(4)
    base = rng.random(IMAGES) < 0.97
    right = np.stack([base, *(base & (rng.random(IMAGES) < worth) for worth in worths.values())]).astype(float)
    rows = [{"kind": "catalog", "name": name, "source": name, "target": "0.22"} for name in worths]
    costs = np.full((len(right), 3), 0.22)
    ours = (base & (rng.random(IMAGES) < searched)).astype(float)
    policies = ({"kind": "baseline", "name": "baseline", "source": "", "target": None}, *rows)
    return Pool({}, policies, ("color",) * IMAGES, right, 1 - right, costs), Part(ours, ours, costs[0])


def test_better_worse_and_tied_are_told_apart_and_the_best_is_named() -> None:
    found, ours = made({"poor": 0.7, "equal": 0.9, "strong": 0.97}, 0.9)
    rows = compare(found, {"0.22": ours})
    assert {row["policy"]: row["searched_is"] for row in rows} == {"poor": "better", "equal": "tie", "strong": "worse"}
    (one,) = summary(rows, {"0.22": ours})
    assert (one["better"], one["tie"], one["worse"]) == (1, 1, 1)
    assert one["best"]["policy"] == "strong"
    tie = next(row for row in rows if row["searched_is"] == "tie")
    assert tie["low"] < 0 < tie["high"]
    assert 0.01 < tie["detectable"] < 0.05
    document = {"images": IMAGES, "baseline": 0.97, "summary": [one], "rows": rows}
    assert "strong" in markdown(document)
    assert figure(document).axes


def test_few_images_conclude_nothing() -> None:
    found, ours = made({"poor": 0.7}, 0.9)
    few = Pool({}, found.policies, found.types[:100], found.right[:, :100], found.nll[:, :100], found.costs)
    with pytest.raises(BadInput, match="100 paired images are too few"):
        compare(few, {"0.22": ours})


def test_the_member_is_chosen_by_the_search_alone() -> None:
    def member(name: str, budget: float, nll: float) -> dict[str, object]:
        return {"policy": name, "digest": name, "search": {"budget": budget, "answer_nll": nll}}

    front = {"members": [member("a", 0.3, 0.2), member("b", 0.22 + 1 / 200, 0.3), member("c", 0.1, 0.5)]}
    picked = chosen(front, ("0.33", "0.22", "0.11"), 144)
    assert [picked[target]["policy"] for target in ("0.33", "0.22", "0.11")] == ["a", "b", "c"]
    with pytest.raises(BadInput, match=r"at or below a budget of 0\.05"):
        chosen(front, ("0.05",), 144)


def test_the_expected_time_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(literature, "IMAGES", 4)
    monkeypatch.setattr(literature, "TRIED", 2)
    spec = literature.prepare(tmp_path)
    few, many = literature.expected(spec, 0), literature.expected(spec, 10**6)
    assert 0 < few < many
