"""The shipped space with arms, searched on a real model."""

from __future__ import annotations

import shutil
from pathlib import Path

from autoprune import check
from autoprune.api import search, state
from autoprune.store import open_store

ROOT = Path(__file__).resolve().parents[2]
SPEC = f"""\
schema: autoprune/spec/1
name: armed
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration: {{records: records.jsonl, images: images, search: 1, holdout: 2, seed: 1}}
search_space: arms
objectives: [minimize answer_nll, minimize prefill_flops]
search: {{trials: 8, executor: inline, strategy: random, explain: false}}
"""


def test_every_arm_is_searched(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "data" / "images", tmp_path / "images")
    shutil.copy(ROOT / "tests" / "data" / "records.jsonl", tmp_path / "records.jsonl")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    checked = check.check(spec)
    assert [row[0] for row in checked.summary() if row[0].startswith("arm")] == ["arm before", "arm inside", "arm both"]
    result = search(spec)
    with open_store(state.store_url(checked.loaded)) as store:
        trials = store.study(result.study_id).trials()
    proposed = [t for t in trials if t.origin == "trial"]
    assert {t.arm for t in proposed} == {"before", "inside", "both"}
    assert all(t.policy is None or t.name.startswith(f"arms-{t.arm}-") for t in proposed)
    assert [t.arm for t in trials if t.name == "fastv"] == ["inside"], "the arm that has it learns from it"
    assert any(line.startswith("proposals by arm") for line in result.front["explanation"])
