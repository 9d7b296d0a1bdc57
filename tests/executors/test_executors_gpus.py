"""Placement on GPUs without a GPU: Ray only counts them, so a cluster may claim to have two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from executors_fakes import ask, worker_spec

from autoprune.errors import BadInput
from autoprune.executors import RayExecutor, inline, quiet, ray_worker
from autoprune.executors.quiet import demand_quiet
from autoprune.executors.ray_cluster import fits
from autoprune.executors.ray_worker import Worker
from autoprune.ports import MeasureRequest

TWO_GPUS = """
import logging, sys
from pathlib import Path
from executors_fakes import ask, patient_ray, worker_spec
from test_executors_conformance import drain

patient_ray()
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
    assert fits(have, gpus, cpus) == fit


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


def test_ray_chooses_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="write device 'cuda', not 'cuda:1'"):
        RayExecutor(worker_spec(tmp_path, device="cuda:1"), 1, gpus_per_worker=1, build="executors_fakes:build")


class Gpu:
    """What torch tells of one GPU of 80 GiB, of which this process reserves 20."""

    def __init__(self, used: float, listed: str = "pynvml module not found, please install pynvml") -> None:
        self.used, self.listed, self.asked = used, listed, 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "mem_get_info", self.mem_get_info)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * 2**30)
        monkeypatch.setattr(torch.cuda, "list_gpu_processes", lambda device: self.listed)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")

    def mem_get_info(self, device: str) -> tuple[int, int]:
        self.asked += 1
        return int((80 - self.used) * 2**30), 80 * 2**30


TIMED = (MeasureRequest("prefill_latency"),)
TWO = "GPU:0\nprocess       4711 uses     1000.000 MB GPU memory\nprocess         12 uses       10.000 MB GPU memory"


@pytest.mark.parametrize(
    ("gpu", "says"),
    [
        (Gpu(20.6), ""),
        (Gpu(24.0), "others hold 4.0 GiB on Some GPU"),
        (Gpu(20.6, TWO), "1 other processes run on Some GPU"),
        (Gpu(20.6, TWO.rpartition("\n")[0]), ""),
    ],
)
def test_a_timing_needs_a_quiet_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, says: str) -> None:
    gpu.install(monkeypatch)
    spec = worker_spec(tmp_path, device="cuda", measures=TIMED)
    if says:
        with pytest.raises(BadInput, match=f"prefill_latency is a timing and needs a quiet GPU, but on .* {says}"):
            demand_quiet(spec, patience=0)
    else:
        demand_quiet(spec, patience=0)
    gpu.asked = 0
    demand_quiet(worker_spec(tmp_path, device="cuda"), patience=0)
    demand_quiet(worker_spec(tmp_path, measures=TIMED), patience=0)
    assert gpu.asked == 0, "only a timing on a GPU asks for that"


def test_memory_of_a_stopped_worker_gets_time_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(60.0)
    gpu.install(monkeypatch)
    monkeypatch.setattr(quiet.time, "sleep", lambda seconds: setattr(gpu, "used", gpu.used - 20))
    demand_quiet(worker_spec(tmp_path, device="cuda", measures=TIMED))
    assert gpu.asked == 3


@pytest.mark.parametrize("how", ["inline", "ray"])
def test_workers_look_before_they_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    Gpu(60.0).install(monkeypatch)
    monkeypatch.setattr(quiet, "demand_quiet", partial(demand_quiet, patience=0))
    for module in (inline, ray_worker):
        monkeypatch.setattr(module, "demand_quiet", quiet.demand_quiet)
    spec, build = worker_spec(tmp_path, device="cuda", measures=TIMED), "executors_fakes:build"
    executor = inline.InlineExecutor(spec, build)
    executor.submit(ask("a"))
    with pytest.raises(BadInput, match="needs a quiet GPU"):
        executor.wait() if how == "inline" else Worker().start(spec, build, 1.0)
    assert not list(tmp_path.glob("built-*"))
