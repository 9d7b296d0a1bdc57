"""What results and caches say of the code that made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.ports import Measurement
from benchmarks import certified, efficiency_runs, literature, output, scaling, trial_throughput
from benchmarks.shared import Memo

FOUND = Measurement({"a": 1.0}, {}, (0,))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(output, "ROOT", tmp_path)
    output.code.cache_clear()
    for name in ("room/a.py", "room/deep/b.yaml", "other/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    yield tmp_path
    output.code.cache_clear()


def digest(*parts: str) -> str:
    output.code.cache_clear()
    return output.code(*parts)


@pytest.mark.parametrize("name", ["room/a.py", "room/deep/b.yaml"])
def test_a_change_in_a_part_is_another_code(checkout: Path, name: str) -> None:
    before, elsewhere = digest("room"), digest("other/c.py")
    (checkout / name).write_text("two")
    assert digest("room") != before
    assert digest("other/c.py") == elsewhere
    (checkout / name).write_text("one")
    assert digest("room") == before
    (checkout / name).rename(checkout / "room/z.py")
    assert digest("room") != before
    with pytest.raises(FileNotFoundError):
        digest("nowhere")


def test_every_result_says_what_made_it(checkout: Path) -> None:
    paths = output.write(checkout / "out", "x", {"found": 1}, "text", parts=("room",))
    document = json.loads(paths[0].read_text())
    assert document["found"] == 1
    assert document["made_by"] == {"parts": ["room"], "digest": digest("room"), "commit": None, "dirty": None}


def test_a_checkout_has_a_commit() -> None:
    made = output.made_by("benchmarks")
    if not (output.ROOT / ".git").exists():
        pytest.skip("not a checkout")
    assert len(made["commit"]) == 40
    assert made["dirty"] in (True, False)


@pytest.mark.parametrize("benchmark", [certified, efficiency_runs, literature, scaling, trial_throughput])
def test_every_benchmark_names_parts_that_are_there(benchmark: object) -> None:
    parts = benchmark.MADE_BY
    assert digest(*parts)
    assert f"{benchmark.__name__.replace('.', '/')}.py" in parts


@pytest.mark.parametrize("part", ["autoprune/api/within_reach.py", "autoprune/api/proposals.py", "autoprune/pruning"])
def test_searches_are_kept_for_what_decides_them(part: str) -> None:
    assert part in efficiency_runs.MADE_BY


def test_measurements_are_found_by_the_code_that_made_them_only(tmp_path: Path) -> None:
    Memo(tmp_path / "memo.db", "one").put("key", FOUND)
    assert Memo(tmp_path / "memo.db", "one").get("key") == FOUND
    assert Memo(tmp_path / "memo.db", "two").get("key") is None


def test_measurements_of_before_belong_to_the_first_that_opens_them(tmp_path: Path) -> None:
    import sqlite3

    Memo(tmp_path / "memo.db", "one")
    with sqlite3.connect(tmp_path / "memo.db") as base:
        base.execute("INSERT INTO found VALUES (?, ?)", ("old", json.dumps(FOUND.to_json())))
    assert Memo(tmp_path / "memo.db", "two").get("old") == FOUND
    assert Memo(tmp_path / "memo.db", "three").get("old") is None
