"""What Ray Tune asks for: a Searcher, a Trainable, and ears. Imported only where Tune is used.

None of them decides anything: points come from the driver and go back to it. Traps of Tune 2.60 that shape this file:
* a process for each trial unless actors are reused; then only one idle actor is kept, and a trial whose own actor still
  loads takes one that becomes idle and has the other thrown away, so that a second worker may never come up;
* limits of time act only on results, so never on what hangs;
* results are kept for every trial, so outcomes are taken out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from autoprune.executors.mailbox import Mailbox
from autoprune.executors.ray_worker import Worker
from autoprune.ports import EvalRequest, Failed, Measured, WorkerSpec

OUTCOME = "outcome"


class Slot(PlacementGroupFactory):  # type: ignore[misc]
    """A place for one worker. Places of the same size are told apart by their numbers, and Tune hands an actor on only
    within a place: so each has one worker."""

    def __init__(self, number: int, cpus: float, gpus: float) -> None:
        self.number = number
        super().__init__([{"CPU": cpus, "GPU": gpus}])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and self.number == other.number and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self.number, super().__hash__()))


def trial_id(trial: Any) -> str:
    """Names a trial's folder: Tune would use its parameters, and ours are whole policies."""
    return str(trial.trial_id)


class Evaluation(tune.Trainable):  # type: ignore[misc]
    """One trial = one request, or none: then the model is loaded and that is all. The process and its model are those
    of the trial before, where there was one."""

    def setup(self, config: Mapping[str, Any], arguments: tuple[WorkerSpec, str, float]) -> None:
        """A failure to load is kept and said by the first step: of a constructor's, Tune passes on no type."""
        self._worker, self._over = Worker(), False
        self._refusal: Exception | None = None
        try:
            self._worker.start(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again by the driver, which knows what it means
            self._refusal = error
        self.reset_config(config)

    def reset_config(self, config: Mapping[str, Any]) -> bool:
        given = config["request"]
        self._request = None if given is None else EvalRequest(**{**given, "measures": tuple(given["measures"])})
        return True

    def step(self) -> dict[str, Any]:
        if self._over:  # a trial that fails takes its process along; only so does device memory come back
            raise MemoryError("this worker ran out of memory before; another one takes its place")
        answer = self._refusal or self._evaluate()
        self._over = isinstance(answer, Failed) and answer.kind == "oom"
        values = answer.measurement.values if isinstance(answer, Measured) else {}
        return {OUTCOME: answer, **values, "done": not self._over}

    def _evaluate(self) -> Measured | Failed | Exception | None:
        try:
            return None if self._request is None else self._worker.evaluate(self._request)
        except Exception as error:  # noqa: BLE001 - only what ends the run comes through; see `attempt`
            return error

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial is one step. Tune refuses to reuse an actor without it."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


class Feed(Searcher):  # type: ignore[misc]
    """Suggests what the driver submits."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__(metric=None, mode=None)
        self._mailbox = mailbox

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self._mailbox.closed:
            return Searcher.FINISHED
        flight = self._mailbox.next(trial_id)
        return None if flight is None else {"slot": flight.slot, "request": flight.request and asdict(flight.request)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if not error:
            self._mailbox.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study remembers, and a Tuner is never restored."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Ears(tune.Callback):  # type: ignore[misc]
    """Hears when a worker begins, what it answers, and why it is gone."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self._mailbox.began(trial.trial_id, trial.temporary_state.ray_actor)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._mailbox.answered(trial.trial_id, result.pop(OUTCOME))

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        written = Path(trial.error_file).read_text().splitlines()[1:] if trial.error_file else []  # below a headline
        self._mailbox.ended(trial.trial_id, " ".join(" ".join(written).split()) or "no reason is known")


class WhenClosed(tune.Stopper):  # type: ignore[misc]
    """Ends Tune with the executor."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def __call__(self, trial_id: str, result: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._mailbox.closed


class KeepWorkers(FIFOScheduler):  # type: ignore[misc]
    """In order, and every idle worker stays: Tune would keep one and load the other models anew after each pause."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: set[Slot] = set()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        slot = trial.placement_group_factory
        if slot not in self._kept:
            self._kept.add(slot)
            tune_controller._tune_controller._actor_cache.increase_max(slot)  # there is no public way
