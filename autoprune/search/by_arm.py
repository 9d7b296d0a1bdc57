"""A strategy in a space with arms: as many of them as the trials pay for are prepared and refined, each by a run of the
strategy of its own, and all are sampled together.

The runs take turns from one sampling to the next. A sampling serves all arms, whatever run asked for it, so what runs
ask for is added up; the bandit says whose turn it is. Which arms have a run is up to the references: first those whose
best one is best, then the others as they are declared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.errors import BadInput
from autoprune.search import pareto
from autoprune.search.strategy import Answer, Probes, Sample, Step, Steps, Task, Tell

if TYPE_CHECKING:
    from autoprune.search.plan import Proposals

PAID = 40  # trials that pay for a run; of fewer, the part that prepares tells nothing


def by_arm(task: Task, arms: Mapping[str, Proposals], begin: Callable[[Task], Steps]) -> Steps:
    """The steps of the strategy that `begin` begins; `task` is the whole study's. Raises BadInput where it makes no
    sense in any of the arms that have a run."""
    runs = [_Run(own.arm, begin(own)) for own in shared_out(task, arms)]
    left = runs
    while left:
        for run in left:
            yield from run.to_sampling()
        left = [run for run in left if run.sampling is not None]
        ready = [run for run in left if run.sampling is not None and run.sampling.trials is not None] or left
        if ready:
            yield _together([run.sampling for run in ready if run.sampling is not None])
        for run in ready:
            run.sampling = None
    refused = [run.refused for run in runs if run.refused is not None]
    if len(refused) == len(runs):
        raise refused[0]


def shared_out(task: Task, arms: Mapping[str, Proposals]) -> list[Task]:
    """A task for every arm that has a run, with its part of the trials. Members of the other arms are the first one's
    to refine."""
    trials = max(0, task.trials - task.references)
    count = max(1, min(len(arms), trials // PAID))
    ranked = sorted(arms, key=lambda arm: _best(task, arm))
    rest = {"": arms[ranked[0]], **{arm: arms[arm] for arm in ranked[count:]}}
    return [
        replace(
            task,
            arm=arm,
            proposals=arms[arm],
            trials=trials // count,
            references=0,
            others=rest if arm == ranked[0] else {},
        )
        for arm in ranked[:count]
    ]


def _best(task: Task, arm: str) -> float:
    """The first objective, to be small, of the arm's best reference within the constraints."""
    known = (r for r in task.known("references") if r.arm == arm and pareto.feasible(r))
    return min((pareto.signed(r.values, task.objectives)[0] for r in known), default=math.inf)


@dataclass
class _Run:
    """The strategy in one arm. `sampling` is what it waits for; `refused`: why it makes no sense there."""

    arm: str
    steps: Steps
    sampling: Sample | None = None
    refused: BadInput | None = None
    began: bool = False

    def to_sampling(self) -> Generator[Step, Sequence[Answer], None]:
        """Serve what comes before the next sampling, unless one waits."""
        if self.sampling is not None:
            return
        step = self._next(())
        while step is not None and not isinstance(step, Sample):
            answers = yield self._named(step)
            step = self._next(answers)
        self.sampling = step
        if self.refused is not None:
            yield Tell(f"arm {self.arm}: {self.refused}")

    def _next(self, answers: Sequence[Answer]) -> Step | None:
        try:
            if self.began:
                return self.steps.send(answers)
            self.began = True
            return next(self.steps)
        except StopIteration:
            return None
        except BadInput as error:
            self.refused = error
            return None

    def _named(self, step: Probes | Tell) -> Step:
        if isinstance(step, Tell):
            return Tell(f"arm {self.arm}: {step.line}")
        return replace(step, arm=step.arm or self.arm)


def _together(asked: Sequence[Sample]) -> Sample:
    counts = [step.trials for step in asked if step.trials is not None]
    return replace(asked[0], trials=sum(counts) if counts else None)
