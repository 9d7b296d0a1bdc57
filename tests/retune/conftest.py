"""A served policy on a copy of the reference model, and that model changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest_cli import cli
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "examples" / "reference_vlm"

SPEC = """\
schema: autoprune/spec/1
name: served
model: {path: model}
calibration: {records: calib/records.jsonl, search: 24, holdout: 96, stratify_by: type, seed: 7}
search_space:
  schema: autoprune/space/1
  name: one
  params: {f: {float: [0.3, 0.9]}}
  stages: [{at: llm:2, keep: $f, score: {llm_attention: {from: last}}}]
  warm_start: [fastv]
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.5 * baseline]
search: {strategy: random, trials: 3, seed: 3, executor: inline, explain: false}
output: {register: served, select: minimize prefill_flops}
retune: {margin: 15 points}
"""


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished search, whose policy is the champion."""
    folder = tmp_path_factory.mktemp("served")
    command = [sys.executable, str(REFERENCE / "make_data.py"), "--out", str(folder / "calib"), "--images", "130"]
    command += ["--questions-per-image", "1", "--pool", "search", "--seed", "5"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300)
    shutil.copytree(REFERENCE / "checkpoint", folder / "model")
    (folder / "spec.yaml").write_text(SPEC)
    assert cli("search", str(folder / "spec.yaml")).code == 0
    uri = f"sqlite:///{folder / '.autoprune' / 'mlflow.db'}"
    assert cli("policy", "promote", "models:/served@candidate", "--tracking-uri", uri).code == 0
    return folder


@pytest.fixture
def served(searched: Path, tmp_path: Path) -> Path:
    """A copy of that folder's spec, for one test to change."""
    folder = tmp_path / "served"
    shutil.copytree(searched, folder)
    return folder / "spec.yaml"


@pytest.fixture
def change() -> Callable[[Path, float], None]:
    """Add noise of this size, relative to each tensor's own spread, to the language model of the spec's model."""

    def one(spec: Path, size: float) -> None:
        file = spec.parent / "model" / "model.safetensors"
        tensors = load_file(file)
        generator = torch.Generator().manual_seed(0)
        for name in sorted(tensors):
            tensor = tensors[name].float()
            if "language_model" in name and tensor.dim() == 2:
                tensor += size * tensor.std() * torch.randn(tensor.shape, generator=generator)
                tensors[name] = tensor.to(tensors[name].dtype)
        save_file(tensors, file, metadata={"format": "pt"})

    return one
