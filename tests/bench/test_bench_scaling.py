"""The scaling benchmark at its smallest: what it counts adds up, and what was measured is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.scaling import BAD, figure, kept, markdown, overhead, simulated
from benchmarks.simulated import ideal_seconds


def test_a_small_run_makes_a_table_and_a_figure() -> None:
    cost = overhead(4)
    assert cost["settled"] >= 1 + 4, "the baseline, the trials, and what was infeasible"
    assert sum(q["wall_ms"] for q in cost["quarters"]) / 4 >= cost["wall_ms"] > 0
    assert cost["wall_ms_per_settled"] < cost["wall_ms"]
    many = [simulated(2, 6)]
    assert many[0]["tries"] >= 6
    assert 0.3 < many[0]["efficiency"] <= 1.001, "the driver can only take time away"
    assert many[0]["seconds"] > 6 * BAD.seconds * (1 - BAD.spread) / 2
    found = {"policies": 2, "images": 3, "ratios": [1.5, 1.7, 1.6], "median": 1.6, "load": [0.1]}
    document = {"overhead": cost, "weather": asdict(BAD), "simulated": many, "real": found, "machine": {"load": [0.5]}}
    text = markdown(document)
    assert "1.60 times as fast (1.50 to 1.70)" in text
    assert f"{many[0]['efficiency']:.3f}" in text
    assert len(figure(document).axes) == 2


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> dict[str, int]:
        calls.append(1)
        return {"n": len(calls)}

    assert [kept(tmp_path / "a" / "b.json", measure) for _ in range(3)] == [{"n": 1}] * 3


def test_the_ideal_keeps_every_worker_busy() -> None:
    assert ideal_seconds([3, 1, 1, 1], 2) == pytest.approx(3)
    assert ideal_seconds([1, 1, 1, 3], 2) == pytest.approx(4)
    assert ideal_seconds([2.5], 8) == pytest.approx(2.5)
