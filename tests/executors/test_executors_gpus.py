"""Placement on GPUs without a GPU: Ray only counts them, so a cluster may claim to have two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from executors_fakes import worker_spec

from autoprune.errors import BadInput
from autoprune.executors import RayExecutor
from autoprune.executors.ray_cluster import _fits
from autoprune.executors.ray_worker import Worker

TWO_GPUS = """
import logging, os, sys
from pathlib import Path
from executors_fakes import ask, worker_spec
from test_executors_conformance import drain

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
import ray
from autoprune.errors import BadInput
from autoprune.executors import RayExecutor

ray.init(address="local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, object_store_memory=100 * 2**20)
spec, how = worker_spec(Path(sys.argv[1])), "executors_fakes:build"
for workers, gpus, cpus in ((5, 0.5, 1), (3, 1, 1), (2, 0.5, 5), (3, 0.6, 1), (1, 3, 1)):
    try:
        RayExecutor(spec, workers, gpus_per_worker=gpus, cpus_per_worker=cpus, build=how).close()
    except BadInput as error:
        print("refused", error)
executor = RayExecutor(spec, 4, gpus_per_worker=0.5, build=how)
while True:  # until all four have loaded, so that one of them takes each of a round's questions
    for number in range(4):
        executor.submit(ask("where", tag=str(number)))
    seen = {outcome.measurement.records for outcome in drain(executor)}
    if len(seen) == 4:
        break
for pid, device in seen:
    print("placed", pid, device)
print("left", ray.available_resources().get("GPU", 0.0))
executor.close()
"""


@pytest.mark.ray
def test_half_a_gpu_each_places_four_workers_on_two_gpus_and_no_fifth(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", TWO_GPUS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    refused = [text for kind, text in lines if kind == "refused"]
    there = "(1 nodes: 8 CPUs and 2 GPUs)"
    assert len(refused) == 5, "a GPU is not shared out across its border: two of 0.6 are all that two hold"
    for text, fit in zip(refused, (4, 2, 1, 2, 0), strict=True):
        assert f"only {fit} would {there}" in text
    assert "5 workers with 0.5 GPUs and 1 CPUs each do not fit" in refused[0]
    devices = Counter(text.split()[1] for kind, text in lines if kind == "placed")
    assert devices == {"0": 2, "1": 2}
    assert ["left", "0.0"] in lines


@pytest.mark.parametrize(
    ("have", "gpus", "cpus", "fit"),
    [
        ({"CPU": 8, "GPU": 2}, 0.5, 1, 4),
        ({"CPU": 3, "GPU": 2}, 0.5, 1, 3),
        ({"CPU": 8, "GPU": 2}, 0.6, 1, 2),
        ({"CPU": 8, "GPU": 3}, 2, 1, 1),
        ({"CPU": 64, "GPU": 1}, 0.1, 1, 10),
        ({"CPU": 8}, 0.5, 1, 0),
        ({"CPU": 8, "GPU": 2}, 0, 0.5, 16),
    ],
)
def test_what_one_node_holds(have: dict[str, float], gpus: float, cpus: float, fit: int) -> None:
    assert _fits(have, gpus, cpus) == fit


def test_a_part_of_a_gpu_is_a_part_of_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    on_gpu, how = worker_spec(tmp_path, device="cuda"), "executors_fakes:build"
    Worker().start(on_gpu, how, 0.5)
    Worker().start(on_gpu, how, 1.0)
    Worker().start(worker_spec(tmp_path), how, 0.5)
    assert fractions == [0.5], "a whole GPU is not capped, and the CPU has no such memory"


def test_more_than_one_gpu_is_a_whole_number_of_them(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"not 1\.5"):
        RayExecutor(worker_spec(tmp_path), 1, gpus_per_worker=1.5, build="executors_fakes:build")


def test_a_model_on_cuda_needs_a_share_of_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gpus_per_worker must be above 0"):
        RayExecutor(worker_spec(tmp_path, device="cuda"), 2, build="executors_fakes:build")
