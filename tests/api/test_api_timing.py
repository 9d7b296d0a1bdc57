"""A front's policies timed where they will run, and chosen by that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli
from front_support import published

import autoprune
from autoprune.errors import BadInput
from autoprune.measures.device import best_device, device_name
from autoprune.models import fingerprint
from autoprune.registry import timings

CHECKPOINT = Path(__file__).resolve().parents[2] / "examples" / "reference_vlm" / "checkpoint"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    whole = published()
    metadata = {**whole.metadata, "model": {"path": str(CHECKPOINT)}, "environment": {"dtype": "float32"}}
    replace(whole, fingerprint=fingerprint(CHECKPOINT), metadata=metadata).save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def picture(tmp_path: Path) -> str:
    from PIL import Image

    Image.new("RGB", (96, 96), "white").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_the_certified_members_are_timed_and_then_chosen_by_milliseconds(folder: Path, picture: str) -> None:
    with pytest.raises(BadInput, match="'autoprune policy time' does"):
        autoprune.load_policy(folder, max_prefill_ms=80)
    done = cli("policy", "time", str(folder), "--image", picture, "--prompt", "what ?", "--rounds", "2", "--json")
    assert done.code == 0, done.out
    taken: dict[str, Any] = done.json
    assert sorted(taken["names"].values()) == ["gentle", "middle", "strong"], "what is undecided is never served"
    assert taken["device"] == device_name(best_device())
    assert all(low <= taken["prefill_ms"][d] <= high for d, (low, high) in taken["spread"].items())
    assert taken["unpruned"] > 0

    slowest = max(taken["prefill_ms"].values())
    assert autoprune.load_policy(folder, max_prefill_ms=2 * slowest).policy.name == "gentle"
    with pytest.raises(BadInput, match=r"fits max_prefill_ms=0\.0001; certified are 'gentle' \(budget 0\.750, .* ms"):
        autoprune.load_policy(folder, max_prefill_ms=0.0001)
    assert autoprune.load_policy(folder).policy.name == "strong", "the policy itself is what it was"
    shown = cli("policy", "time", str(folder), "--image", picture, "--prompt", "what ?", "--rounds", "2").out
    assert "unpruned" in shown


def test_times_of_another_machine_do_not_count(folder: Path) -> None:
    timings.keep(str(folder), None, {"device": "a GPU far away", "prefill_ms": {f"{'gentle':x<64}": 1.0}})
    with pytest.raises(BadInput, match="on this machine yet"):
        autoprune.load_policy(folder, max_prefill_ms=80)
    timings.keep(str(folder), None, {"device": device_name(best_device()), "prefill_ms": {f"{'strong':x<64}": 70.0}})
    assert autoprune.load_policy(folder, max_prefill_ms=80).policy.name == "strong"
    assert len(json.loads((folder / "timings.json").read_text())) == 2
    (folder / "timings.json").write_text("[]")
    with pytest.raises(BadInput, match="are damaged"):
        autoprune.load_policy(folder, max_prefill_ms=80)


def test_what_cannot_be_timed(folder: Path, picture: str, tmp_path: Path) -> None:
    from autoprune.api import time_policy

    for name, message in (("fastv", "neither a registered version nor"), (str(tmp_path / "no"), "neither")):
        with pytest.raises(BadInput, match=message):
            time_policy(name, [picture], "what ?")
    autoprune.load_policy("fastv").save_pretrained(tmp_path / "alone")
    with pytest.raises(BadInput, match="no front with certified policies"):
        time_policy(str(tmp_path / "alone"), [picture], "what ?")
