"""A small study on the reference model: real weights, real questions, a real search, in a minute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "examples" / "reference_vlm"

SPEC = """\
# the store was postgresql://tuner:pl4nted-s3cret@db/autoprune
schema: autoprune/spec/1
name: small
model: {{path: {model}}}
calibration: {{records: {records}, search: 48, holdout: 160, stratify_by: type, seed: 7}}
search_space: two_stage_mixed
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.5 * baseline]
search: {{trials: {trials}, seed: 3, executor: {executor}}}
output: {{register: small, select: minimize prefill_flops}}
"""


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images with two questions each, made by the example's own command."""
    folder = tmp_path_factory.mktemp("calib")
    command = [sys.executable, str(REFERENCE / "make_data.py"), "--out", str(folder), "--images", "120"]
    command += ["--questions-per-image", "2", "--pool", "search", "--seed", "5"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300)
    return folder


@pytest.fixture(scope="session")
def write_spec(calibration: Path) -> Callable[..., Path]:
    """Write the small spec into a folder of its own; returns its path."""

    def write(folder: Path, trials: int = 6, executor: str = "inline", **replace: str) -> Path:
        model, records = REFERENCE / "checkpoint", calibration / "records.jsonl"
        text = SPEC.format(model=model, records=records, trials=trials, executor=executor)
        for old, new in replace.items():
            text = text.replace(old, new)
        path = folder / "spec.yaml"
        path.write_text(text)
        return path

    return write


@dataclass(frozen=True)
class Study:
    """A finished search: its spec, and the front it printed."""

    spec: Path
    front: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.spec.parent


@pytest.fixture(scope="session")
def study(write_spec: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Study:
    spec = write_spec(tmp_path_factory.mktemp("study"))
    done = cli("search", str(spec), "--json")
    assert done.code == 0, done.out
    return Study(spec, done.json)
