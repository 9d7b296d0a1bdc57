"""The GPU's benchmark: without one it says so; in miniature it goes the whole way on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import NAME, Size, main, quickstart_spec
from benchmarks.gpu_shapes import SHAPES


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--work", str(tmp_path)]) == 1
    assert "there is no GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_the_workers_share_it() -> None:
    spec = quickstart_spec(Size.of(tiny=False))
    assert "device: cuda" in spec
    assert "trials: 32, executor: {ray: {workers: 2, gpus_per_worker: 0.5}}" in spec


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes_have_the_published_sizes(shape: object) -> None:
    """Parameters of the whole model, without making them."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(shape.config(False))
    billions = sum(weight.numel() for weight in model.parameters()) / 1e9
    assert billions == pytest.approx({"LLaVA-1.5-7B": 7.063, "Qwen2.5-VL-7B": 8.292}[shape.name], abs=0.01)
    assert shape.tokens(model.config) == 576


def test_in_miniature_it_goes_the_whole_way(tmp_path: Path) -> None:
    arguments = ["--tiny", "--work", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    document = json.loads((tmp_path / "out" / f"{NAME}.json").read_text())
    llava, qwen = document["shapes"]
    assert {"first stage from L/4", "greedy probes"} <= llava["lists"].keys() & qwen["lists"].keys()
    for one in (llava, qwen):
        assert one["cache_bytes"] > 0
        for found in one["lists"].values():
            assert all(repeat["difference"] < 1e-4 for repeat in found["repeats"])
            assert all(repeat["naive"] > 0 < repeat["cached"] for repeat in found["repeats"])
    assert document["quickstart"]["trials"]["complete"] == 2
    assert document["made_by"]["digest"]
    text = (tmp_path / "out" / f"{NAME}.md").read_text()
    assert "LLaVA-1.5-7B" in text
    assert "2 trials, 0 failed" in text
    assert main(arguments) == 0, "everything is kept"
