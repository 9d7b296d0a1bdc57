"""What only processes of their own can do, on both executors that have some: die, be killed, find no room."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executors_fakes import ask
from executors_support import ON_RAY, Make, create
from test_executors_conformance import builds, drain

from autoprune.errors import AutoPruneError, BadInput
from autoprune.executors import mailbox, ray_actors
from autoprune.executors.ray_worker import Worker
from autoprune.ports import Executor, Failed, Lost, Measured

pytestmark = pytest.mark.ray


def test_a_worker_killed_mid_evaluation_is_lost_replaced_and_its_point_can_be_retried(
    make_on_ray: Make, tmp_path: Path
) -> None:
    executor = make_on_ray()
    executor.submit(ask("die_once", tag="7"))
    executor.submit(ask("a", tag="8"))
    outcomes = {outcome.request.tag: outcome for outcome in drain(executor)}
    assert isinstance(outcomes["7"], Lost)
    assert isinstance(outcomes["8"], Measured)
    assert builds(tmp_path) == 2
    executor.submit(outcomes["7"].request)
    (again,) = drain(executor)
    assert isinstance(again, Measured)
    assert len(list(tmp_path.glob("run-die_once-*"))) == 2


def test_a_hang_ends_at_the_timeout_every_time(make_on_ray: Make) -> None:
    executor = make_on_ray(evaluation_timeout=1.0)
    for _ in range(2):
        began = time.monotonic()
        executor.submit(ask("hang"))
        (outcome,) = drain(executor)
        assert isinstance(outcome, Failed)
        assert outcome.kind == "timeout"
        assert "1 s" in outcome.message
        assert time.monotonic() - began < 20


def test_a_worker_that_ran_out_of_memory_is_recycled(make_on_ray: Make, tmp_path: Path) -> None:
    executor = make_on_ray()
    pids = []
    for word in ("a", "oom", "b"):
        executor.submit(ask(word))
        (outcome,) = drain(executor)
        pids += [outcome.measurement.records] if isinstance(outcome, Measured) else []
    assert len(set(pids)) == 2
    assert builds(tmp_path) == 2


@pytest.fixture(scope="module", params=ON_RAY)
def pair(request: pytest.FixtureRequest, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    executor = create(request.param, tmp_path_factory.mktemp("pair"), workers=2)
    yield executor
    executor.close()


def test_a_wait_that_runs_out_is_empty_and_loses_nothing(pair: Executor) -> None:
    pair.submit(ask("slow"))
    assert pair.wait(timeout=0) == []
    (outcome,) = drain(pair)
    assert isinstance(outcome, Measured)


def test_an_interrupt_loses_nothing(pair: Executor) -> None:
    pair.submit(ask("slow"))
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        pair.wait()
    (outcome,) = drain(pair)
    assert outcome.request == ask("slow")


def test_two_workers_work_at_the_same_time(pair: Executor) -> None:
    assert pair.capacity == 2
    for number in range(4):
        pair.submit(ask("slow", tag=str(number)))
    pids = {outcome.measurement.records for outcome in drain(pair) if isinstance(outcome, Measured)}
    assert len(pids) == 2


def test_workers_that_die_while_loading_end_the_run(make_on_ray: Make, tmp_path: Path) -> None:
    executor = make_on_ray(how="build_dies")
    executor.submit(ask("a"))
    with pytest.raises(AutoPruneError, match="2 workers in a row died while loading"):
        drain(executor)
    assert builds(tmp_path) == 2


def test_a_builder_that_fails_says_why(make_on_ray: Make, tmp_path: Path) -> None:
    executor = make_on_ray(how="build_broken")
    executor.submit(ask("a"))
    with pytest.raises(AutoPruneError, match=r"Awkward: libfoo\.so is missing"):
        drain(executor)
    assert builds(tmp_path) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 3, "cpus_per_worker": 1}, "3 workers with 0 GPUs and 1 CPUs each do not fit, only 2 would"),
        (
            {"workers": 1, "gpus_per_worker": 1},
            "1 GPUs and 0.05 CPUs .* only 0 would .*: 2 CPUs and 0 GPUs",
        ),
        ({"workers": 1, "cpus_per_worker": 4}, "only 0 would"),
        ({"workers": 0}, "workers is at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(make_on_ray: Make, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_on_ray(**options)


ON_ITS_OWN = """
import sys, time
from pathlib import Path
from executors_fakes import ask, patient_ray, worker_spec
from autoprune.executors import make_executor

patient_ray()
executor = make_executor(sys.argv[2], worker_spec(Path(sys.argv[1])), workers=1, build="executors_fakes:build")
import ray

executor.submit(ask("die"))
print(*(type(outcome).__name__ for outcome in executor.wait()))
time.sleep(2)
executor.close()
print(ray.is_initialized())
"""


@pytest.mark.parametrize("kind", ["ray", "ray-tune"])
def test_a_cluster_of_its_own_is_shut_down_and_nothing_else_goes_to_stdout(tmp_path: Path, kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", ON_ITS_OWN, str(tmp_path), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["Lost", "False"]
    assert "a worker is gone" in done.stderr


def test_ray_that_was_running_stays_running(make_on_ray: Make) -> None:
    import ray

    make_on_ray().close()
    assert ray.is_initialized()


def test_workers_that_cannot_start_are_spoken_of(
    make_on_ray: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (ray_actors, mailbox):
        monkeypatch.setattr(module, "NOTICE_SECONDS", 0.1)
    import ray

    blocker = ray.remote(num_cpus=1.5)(Worker).remote()  # others hold most of the cluster
    ray.get(blocker.__ray_ready__.remote())
    executor = make_on_ray(cpus_per_worker=1)
    executor.submit(ask("a"))
    assert executor.wait(timeout=0.5) == []
    assert "1 workers have not loaded the model yet" in caplog.text
    ray.kill(blocker)
    (outcome,) = drain(executor)
    assert isinstance(outcome, Measured)
