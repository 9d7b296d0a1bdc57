from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from executors_fakes import worker_spec

from autoprune.errors import BadInput
from autoprune.executors import InlineExecutor, RayExecutor, choose, make_executor
from autoprune.executors.build import build_evaluator
from autoprune.executors.ray_cluster import fits

NAMES = ("workers", "gpus", "cpus", "build", "address", "timeout")


def test_auto_is_inline_where_one_worker_uses_the_whole_machine(tmp_path: Path) -> None:
    assert isinstance(make_executor("auto", worker_spec(tmp_path)), InlineExecutor)
    assert isinstance(make_executor("auto", worker_spec(tmp_path, threads=10_000)), InlineExecutor)


def test_auto_is_inline_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert isinstance(make_executor("auto", worker_spec(tmp_path, threads=1)), InlineExecutor)


def test_auto_takes_as_many_ray_workers_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    monkeypatch.setattr(choose, "RayExecutor", lambda spec, *rest: asked.update(zip(NAMES, rest, strict=True)))
    make_executor("auto", worker_spec(tmp_path, threads=2), workers=50, evaluation_timeout=3.0)
    assert (asked["workers"], asked["cpus"], asked["gpus"]) == (4, 2, 0)
    assert (asked["timeout"], asked["address"]) == (3.0, None)
    make_executor("auto", worker_spec(tmp_path), address="head:6379")
    assert (asked["workers"], asked["address"]) == (None, "head:6379"), "as many as fit into that cluster"


def test_a_cuda_model_without_gpus_per_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gpus_per_worker must be above 0"):
        RayExecutor(worker_spec(tmp_path, device="cuda"), 1)


def test_a_worker_has_to_fit_on_one_node() -> None:
    node = {"CPU": 8.0, "GPU": 1.0}
    assert fits(node, 0, 1) == 8
    assert fits(node, 1, 1) == 1
    assert fits(node, 2, 1) == 0
    assert fits(node, 0.1, 0.5) == 10


def test_a_builder_is_named_module_and_function(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="module:function"):
        build_evaluator("nowhere", worker_spec(tmp_path))


def test_importing_executors_brings_neither_ray_nor_torch() -> None:
    code = "import sys, autoprune.executors; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tune_does_not_run_through_a_ray_client(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="host:port"):
        make_executor("ray-tune", worker_spec(tmp_path), address="ray://head:10001")
