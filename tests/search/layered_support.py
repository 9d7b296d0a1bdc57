"""A toy whose optimum is known, on a shipped space: every layer adds to the loss what it lacks of what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from search_support import CONTEXT, RECORDS, FakeExecutor, FakeLog, objective, run
from space_support import proposals

from autoprune.ports import EvalRequest, Measurement
from autoprune.search.plan import StudyPlan
from autoprune.search.schedule import Schedule, schedule_of

NLL = 2.0  # of the unpruned model


@dataclass
class Layered:
    """`needs[l]` is the part of N below which layer l adds what is missing, times `weight`, to a loss of `NLL`."""

    needs: Sequence[float]
    tokens: int = 64
    weight: float = 1.0
    seen: list[Schedule] = field(default_factory=list)

    def schedule(self, canonical: str) -> Schedule:
        return schedule_of(canonical, self.tokens)

    def loss(self, schedule: Schedule) -> float:
        short = [max(0.0, need - float(keep)) for need, keep in zip(self.needs, schedule.layers, strict=True)]
        return self.weight * sum(short)

    def measure(self, request: EvalRequest) -> Measurement:
        kept = Schedule(len(self.needs)) if request.policy is None else self.schedule(request.policy)
        self.seen.append(kept)
        count = RECORDS[request.split] if request.limit is None else request.limit
        nll = NLL + self.loss(kept)
        return Measurement(
            values={"budget": float(kept.budget(self.tokens)), "nll": nll},
            samples={"nll": (nll,) * count},
            images=tuple(range(count)),
            records=tuple(f"{request.split}-{i}" for i in range(count)),
        )


def layered_plan(space: str, strategy: str, options: Mapping[str, Any], depth: int = 8, **more: Any) -> StudyPlan:
    given: dict[str, Any] = {
        "study_id": "layered",
        "proposals": proposals(space, depth, 64),
        "references": (),
        "objectives": (objective("budget"), objective("nll")),
        "constraints": (),
        "measures": ("budget", "nll"),
        "trials": 400,
        "time_limit": None,
        "seed": 7,
        "strategy": strategy,
        "options": options,
        "synchronous": False,
        "storage": None,
        "context": CONTEXT,
        "confidence": 0.95,
        "costs": ("budget",),
    }
    return StudyPlan(**{**given, **more})


def searched(toy: Layered, plan: StudyPlan, width: int = 1) -> FakeLog:
    """What the log holds after a search."""
    log = FakeLog()
    run(plan, FakeExecutor(capacity=width, answer=toy.measure), log)
    return log


def members(toy: Layered, log: FakeLog, phase: str = "ladder") -> list[Schedule]:
    """The schedules that were measured in full in a phase, in order."""
    return [
        toy.schedule(r.canonical) for r in log.settled if r.phase == phase and r.state == "complete" and r.canonical
    ]


def steps(*pairs: tuple[int, str]) -> tuple[tuple[int, Fraction], ...]:
    return tuple((layer, Fraction(keep)) for layer, keep in pairs)
