"""The greedy ladder and a curve on the reference model: real weights and questions, nothing written anywhere."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from search_support import FakeLog, FakePublisher, Watcher

from autoprune import check
from autoprune.api.study import Prepared
from autoprune.executors.inline import InlineExecutor
from autoprune.policy.front import Front
from autoprune.ports import TrialRecord
from autoprune.search.driver import run
from autoprune.search.schedule import schedule_of

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "examples" / "reference_vlm"
SPEC = f"""\
schema: autoprune/spec/1
name: case
model: {{path: {REFERENCE / "checkpoint"}}}
calibration: {{records: records.jsonl, search: 8, holdout: 12}}
search_space: two_stage_mixed
objectives: [minimize answer_nll, minimize prefill_flops]
constraints: [answer_nll <= baseline + 100 %]
search: {{trials: TRIALS, strategy: STRATEGY}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("calib")
    command = [sys.executable, str(REFERENCE / "make_data.py"), "--out", str(made), "--images", "12"]
    command += ["--questions-per-image", "2", "--pool", "search", "--seed", "5"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300)
    return made


def searched(folder: Path, strategy: str, trials: int) -> tuple[Prepared, Front, list[TrialRecord]]:
    spec = folder / f"{strategy.strip('{').partition(':')[0]}.yaml"
    spec.write_text(SPEC.replace("TRIALS", str(trials)).replace("STRATEGY", strategy))
    study, log = Prepared(check.check(spec)), FakeLog()
    executor = InlineExecutor(study.worker)
    try:
        front = run(study.plan(None, None), executor, log, FakePublisher(), Watcher())
    finally:
        executor.close()
    return study, front, log.settled


def test_a_greedy_ladder(folder: Path) -> None:
    asked = "{greedy: {tolerances: [0.2, 1.0], block: 3, resolution: 4, limit: 1}}"
    study, front, settled = searched(folder, asked, 40)
    rungs = [r for r in settled if r.phase == "ladder"]
    assert rungs
    assert {r.phase for r in settled if r.state == "partial"} == {"greedy"}
    kept = [schedule_of(r.canonical or "", study.tokens) for r in rungs]
    assert kept[-1].steps
    for above, below in pairwise(kept):
        assert all(a >= b for a, b in zip(above.layers, below.layers, strict=True))
    base = settled[0].values["answer_nll"]
    losses = [(r.values["answer_nll"] - base) / base for r in rungs]
    assert all(loss <= most + 1e-5 for loss, most in zip(losses, (0.2, 1.0), strict=True))
    assert front.members


def test_a_curve(folder: Path) -> None:
    asked = "{p_sigmoid: {tolerances: [0.5], block: 4, resolution: 4, limit: 1}}"
    study, front, settled = searched(folder, asked, 16)
    curves = [r for r in settled if r.phase in ("fitted", "p_sigmoid") and r.state == "complete"]
    assert {r.phase for r in curves} == {"fitted", "p_sigmoid"}
    for record in curves:
        assert any("curve" in stage for stage in (record.policy or {})["stages"]), "the document keeps the curve"
        kept = schedule_of(record.canonical or "", study.tokens)
        assert float(kept.budget(study.tokens)) <= study.space.budget[1]
    assert front.trials["complete"] <= 16
