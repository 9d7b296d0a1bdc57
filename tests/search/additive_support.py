"""A model whose damage is known and adds up: what 1/keep rises at a layer counts by the layer's weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from search_support import RECORDS, FakeExecutor, FakeLog, constraint, fresh, make_plan, objective
from space_support import proposals

from autoprune.ports import EvalRequest, Failed, Measurement
from autoprune.search.schedule import Schedule, schedule_of

DEPTH, TOKENS = 8, 64
SPACE = "p_sigmoid"  # stages at layers 1 to 7, budgets from 0.25 to 0.7


def weight(layer: int) -> float:
    """Less and less, evenly."""
    return 1.0 - layer / 10


def damage(schedule: Schedule) -> float:
    total, before = 0.0, 1.0
    for layer, keep in schedule.steps:
        total, before = total + weight(layer) * (1 / float(keep) - 1 / before), float(keep)
    return total


@dataclass
class Model:
    """Answers by the formula, with noise per record; `broken`: policies it cannot carry out."""

    noise: float = 0.0
    broken: Callable[[Schedule], bool] = lambda schedule: False
    asked: list[EvalRequest] = field(default_factory=list)

    def __call__(self, request: EvalRequest) -> Measurement:
        self.asked.append(request)
        schedule = schedule_of(request.policy, TOKENS) if request.policy else Schedule(DEPTH)
        count = request.limit or RECORDS[request.split]
        rng = np.random.default_rng(abs(hash(schedule.steps)) % 2**32)
        kl = tuple(float(v) for v in damage(schedule) + self.noise * rng.normal(0, 1, count))
        return Measurement(
            values={"budget": float(schedule.budget(TOKENS)), "logit_kl": float(np.mean(kl))},
            samples={"logit_kl": kl},
            images=tuple(range(count)),
            records=tuple(f"{request.split}-{i}" for i in range(count)),
        )

    def executor(self) -> FakeExecutor:
        return Breaking(answer=self, broken=self.broken)


@dataclass
class Breaking(FakeExecutor):
    broken: Callable[[Schedule], bool] = lambda schedule: False

    def wait(self, timeout: float | None = None) -> Any:
        request = self.queue[0][1]
        if request.policy and self.broken(schedule_of(request.policy, TOKENS)):
            del self.queue[0]
            return [Failed(request, "oom", "out of memory")]
        return super().wait(timeout)


def plan(space: str = SPACE, trials: int = 40, **changes: Any) -> Any:
    options = {"then": "none", **changes.pop("options", {})}
    given: dict[str, Any] = {
        "proposals": proposals(space, DEPTH, TOKENS),
        "references": (),
        "objectives": (objective("budget"), objective("logit_kl")),
        "constraints": (constraint("logit_kl", "<=", 0.0, 2.0),),
        "measures": ("budget", "logit_kl"),
        "costs": ("budget",),
        "trials": trials,
        "strategy": "sensitivity",
        "options": options,
    }
    return make_plan(**{**given, **changes})


def verified(log: FakeLog) -> list[Schedule]:
    return [schedule_of(r.canonical, TOKENS) for r in fresh(log) if r.phase == "verify"]
