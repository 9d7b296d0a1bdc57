"""A machine that goes away in the middle of a search costs time, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["ray", "ray-tune"])
def test_a_search_outlives_one_of_its_two_nodes(kind: str, tmp_path: Path) -> None:
    paths = [str(HERE), str(HERE.parent / "search"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(HERE / "two_nodes.py"), kind, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "result.json").read_text())
    asked = found["asked"]
    assert found["lost_node"]
    assert found["nodes_that_answered"] == 2
    assert (found["complete"], found["digests"]) == (asked, asked), "nothing lost, nothing measured twice"
    assert found["states"] == {"complete": asked}
    assert found["proposals"], "every proposal is settled once"
    assert found["front"] == {"complete": asked, "failed": 0, "running": 0}
    assert found["deaths"] >= 1
    assert len(found["lineages"]) >= 1
    assert all(lineage.startswith("lost: ") for lineage in found["lineages"])
