"""Evaluations as trials of Ray Tune, for those who live there. The driver decides, Tune carries out."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, BadInput
from autoprune.executors.build import EVALUATOR
from autoprune.executors.mailbox import Mailbox
from autoprune.executors.ray_cluster import Room, connect, import_ray
from autoprune.ports import EvalRequest, Outcome, WorkerSpec

log = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Seconds that Tune gets to end."""


class RayTuneExecutor:
    """Implements `ports.Executor` on one `tune.Tuner` that runs in a thread of its own; the capacity is the number of
    workers. Every request is a trial of Tune; processes and their models go from one trial to the next.

    The rules are those of `RayExecutor`, the timeout included, which the driver's side enforces. Tune retries nothing:
    a lost request comes back as `Lost`. `results`: where Tune's own folder of the
    experiment is kept (on a shared file system, where there are several machines); None = nowhere.

    Raises BadInput if the workers do not fit into the cluster, or for a `ray://` address: Tune would then run over
    there, and the search here.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int | None = 1,
        gpus_per_worker: float = 0,
        cpus_per_worker: float = 1,
        build: str = EVALUATOR,
        address: str | None = None,
        evaluation_timeout: float | None = None,
        results: Path | None = None,
    ) -> None:
        room = Room("ray-tune", workers, gpus_per_worker, cpus_per_worker)
        room.check(spec.device)
        if (address or os.environ.get("RAY_ADDRESS") or "").startswith("ray://"):
            message = "executor ray-tune cannot run through ray://; give the head's address as host:port"
            raise BadInput(message, code="conflict")
        self._closed = False
        self._thread: threading.Thread | None = None
        self._folder = None if results is not None else Path(tempfile.mkdtemp(prefix="autoprune-tune-"))
        self._owns_ray = connect(address)
        try:
            self.capacity = room.find()
            self._mailbox = Mailbox(self.capacity, evaluation_timeout, _kill)
            tuner = self._tuner((spec, build, float(gpus_per_worker)), cpus_per_worker, gpus_per_worker, results)
            self._thread = threading.Thread(target=self._run, args=(tuner,), name="ray-tune", daemon=True)
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def _tuner(self, arguments: tuple[WorkerSpec, str, float], cpus: float, gpus: float, results: Path | None) -> Any:
        os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # what befalls workers is logged by the mailbox
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints whatever `verbose` says
        if results is None:
            os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        from ray import tune

        from autoprune.executors.tune_parts import Ears, Evaluation, Feed, KeepWorkers, Slot, WhenClosed, trial_id

        return tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Evaluation, arguments=arguments),
                lambda config: Slot(config["slot"], cpus, gpus),
            ),
            tune_config=tune.TuneConfig(
                search_alg=Feed(self._mailbox),
                scheduler=KeepWorkers(),
                num_samples=-1,
                max_concurrent_trials=self.capacity,
                reuse_actors=True,
                trial_dirname_creator=trial_id,
            ),
            run_config=tune.RunConfig(
                name="autoprune",
                storage_path=str(results or self._folder),
                callbacks=[Ears(self._mailbox)],
                stop=WhenClosed(self._mailbox),
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        )

    def _run(self, tuner: Any) -> None:
        try:
            tuner.fit()
        except Exception as error:  # noqa: BLE001 - the thread's end, however it comes, is the search's business
            self._mailbox.fail(AutoPruneError(f"Ray Tune gave up: {type(error).__name__}: {error}"))
        else:
            self._mailbox.fail(AutoPruneError("Ray Tune ended before the search did"))

    def submit(self, request: EvalRequest) -> None:
        if self._closed:
            raise RuntimeError("this executor is closed")
        self._mailbox.put(request)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        return [] if self._closed else self._mailbox.take(timeout)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._mailbox.close()
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                log.warning("Ray Tune did not end within %g s", _PATIENCE)
        if self._owns_ray:
            import_ray().shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _kill(worker: Any) -> None:
    import_ray().kill(worker, no_restart=True)
