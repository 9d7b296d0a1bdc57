"""A good case to spoil: a spec with its space, records and images, and what `validate` says of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from conftest_cli import cli

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CHECKPOINT = ROOT / "examples" / "reference_vlm" / "checkpoint"

SPEC = f"""\
schema: autoprune/spec/1
name: case
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration:
  records: records.jsonl
  images: images
  search: 2
  holdout: 2
search_space: space.yaml
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.97 * baseline]
"""
SPACE = """\
schema: autoprune/space/1
name: case
budget: {float: [0.1, 0.6]}
params:
  l1: {layer: [2, 1/3]}
stages:
  - {at: "llm:$l1", keep: solve, score: {llm_attention: {from: last}}}
"""


def make_case(folder: Path) -> Path:
    """The good case in an empty folder."""
    shutil.copytree(DATA / "images", folder / "images")
    shutil.copy(DATA / "records.jsonl", folder / "records.jsonl")
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "space.yaml").write_text(SPACE)
    return folder


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def errors(folder: Path) -> list[dict[str, Any]]:
    done = cli("validate", str(folder / "spec.yaml"), "--json")
    assert done.code == 2, done.out
    assert done.json["ok"] is False
    found = done.json["errors"]
    assert found
    for error in found:
        assert set(error) == {"file", "line", "column", "path", "code", "message"}
    return list(found)
