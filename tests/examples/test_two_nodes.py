"""The example with two Ray nodes, as a user starts it: a search over both, and nothing left running after it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def left_behind(mark: str) -> list[str]:
    """The commands of processes that still have the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # gone, or somebody else's
    return found


@pytest.mark.ray
@pytest.mark.mlflow
@pytest.mark.e2e
def test_two_nodes_search_together_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "two_nodes"
    shutil.copytree(EXAMPLES / "two_nodes", folder, ignore=shutil.ignore_patterns("calib", ".autoprune"))
    (folder.parent / "reference_vlm").symlink_to(EXAMPLES / "reference_vlm")
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace("../reference_vlm", str(EXAMPLES / "reference_vlm")))  # what a link leaves
    mark = uuid.uuid4().hex
    command = [sys.executable, str(folder / "run.py"), "--trials", "4", "--json"]
    environment = {**os.environ, "AUTOPRUNE_TEST_MARK": mark}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    front = json.loads(done.stdout[done.stdout.index("{") :])
    assert front["trials"] == {"complete": 4, "failed": 0, "running": 0}
    assert any(member["selected"] for member in front["members"])
    assert left_behind(mark) == []
