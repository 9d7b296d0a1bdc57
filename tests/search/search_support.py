"""A toy search problem and fakes of everything the driver is given. No model: an evaluation is a formula and noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from autoprune.errors import BadInput
from autoprune.policy.budget import Infeasible
from autoprune.policy.parameters import Parameter
from autoprune.ports import (
    EvalRequest,
    EvaluationContext,
    Failed,
    Lost,
    Measured,
    Measurement,
    MeasureRequest,
    Outcome,
    Progress,
    TrialRecord,
)
from autoprune.search.plan import Candidate, Reference, Rung, StudyPlan
from autoprune.spec.goals import Constraint, Objective

LABELS = ("cost", "nll", "acc")
CONTEXT = EvaluationContext("model", "data", "float32", "sdpa", {}, {})
RECORDS = {"search": 240, "holdout": 900}
BASE = {"x": 1.0, "y": 1.0, "mode": "a"}


def objective(label: str, direction: str = "minimize") -> Objective:
    return Objective(MeasureRequest(label), direction)  # type: ignore[arg-type]


def constraint(label: str, op: str, scale: float, shift: float = 0.0) -> Constraint:
    return Constraint(f"{label} {op} {scale} * baseline", MeasureRequest(label), op, scale, shift)  # type: ignore[arg-type]


ACCURATE = constraint("acc", ">=", 0.9)


def parameter(
    name: str, kind: str, low: float | None = None, high: float | None = None, choices: tuple = (), **more: Any
) -> Parameter:
    return Parameter(name, kind, low, high, choices=choices, **more)  # type: ignore[arg-type]


@dataclass
class ToySpace:
    """keep x early, keep y late, and a choice; policies cost x + y and lose quality as both fall."""

    steps: int = 100
    parameters: tuple = (
        parameter("x", "float", 0.0, 1.0),
        parameter("y", "float", 0.0, 1.0),
        parameter("mode", "choice", choices=("a", "b")),
    )
    known: bool = False
    depth: int = 8
    tokens: int | None = None
    infeasible: Callable[[Mapping[str, Any]], float | None] = lambda values: None

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        distance = self.infeasible(values)
        if distance is not None:
            raise Infeasible(distance)
        snapped = {k: round(v * self.steps) / self.steps if isinstance(v, float) else v for k, v in values.items()}
        return make_candidate("toy", snapped)

    def free(self, document: Mapping[str, Any]) -> Candidate:
        if "x" not in document:
            raise BadInput("a toy needs an x")
        return make_candidate("free", {k: v for k, v in document.items() if k != "name"})

    def express(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        inside = document.get("mode") in ("a", "b")
        return {k: document[k] for k in ("x", "y", "mode")} if inside else None

    def filled(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"name": "toy", **values}

    @property
    def sites(self) -> tuple[int, ...]:
        return ()

    @property
    def keeps(self) -> frozenset[str]:
        return frozenset({"x", "y"})

    def costs(self, candidate: Candidate) -> Mapping[str, float]:
        exact = Fraction(cost(json.loads(candidate.canonical)))  # budgets are exact numbers
        return {"cost": exact} if self.known else {}


def make_candidate(name: str, values: Mapping[str, Any]) -> Candidate:
    canonical = json.dumps(dict(values), sort_keys=True)
    digest = "d:" + canonical
    return Candidate(f"{name}:{canonical}", {"name": name, **values}, canonical, digest)


def cost(policy: Mapping[str, Any]) -> float:
    return (policy["x"] + policy["y"]) / 2


def measure(request: EvalRequest) -> Measurement:
    """Four measures: cost exact, nll noisy, flow a quieter proxy of it, acc 0/1 with the baseline right on 95 %; two
    records per image."""
    policy = BASE if request.policy is None else json.loads(request.policy)
    whole = RECORDS[request.split]
    count = whole if request.limit is None else min(whole, request.limit)
    rng = np.random.default_rng(1 if request.split == "search" else 2)
    luck, noise = rng.random(whole)[:count], rng.normal(0, 0.05, whole)[:count]
    quality = 1 - 0.5 * (1 - policy["x"]) ** 2 - 0.1 * (1 - policy["y"]) ** 2 - (0.05 if policy["mode"] == "b" else 0)
    right = tuple(float(v) for v in luck < 0.95 * quality)
    nll = tuple(float(v) for v in 1.5 - quality + noise)
    flow = tuple(float(v) for v in 1 - quality + noise / 5)
    samples = {"nll": nll, "acc": right, "flow": flow}
    known = request.known.samples if request.known is not None else {}
    there = min([count, *(len(known.get(label, ())) for label in request.measures if label in samples)])
    values = {"cost": cost(policy)} | {label: float(np.mean(numbers)) for label, numbers in samples.items()}
    return Measurement(
        values={label: values[label] for label in request.measures if label in values},
        samples={label: samples[label] for label in request.measures if label in samples},
        images=tuple(i // 2 for i in range(count)),
        records=tuple(f"{request.split}-{i}" for i in range(count)),
        seconds=0.01,
        fresh=count - there,
    )


class Killed(BaseException):
    """The driver's process died."""


@dataclass
class FakeExecutor:
    """Answers one request per `wait`. `script[n]` replaces the answer to the n-th submission (counted from 0)."""

    capacity: int = 1
    script: dict[int, Callable[[EvalRequest], Outcome]] = field(default_factory=dict)
    newest_first: bool = False
    answer: Callable[[EvalRequest], Measurement] = measure
    submitted: list[EvalRequest] = field(default_factory=list)
    queue: list[tuple[int, EvalRequest]] = field(default_factory=list)

    def submit(self, request: EvalRequest) -> None:
        self.queue.append((len(self.submitted), request))
        self.submitted.append(request)
        assert len(self.queue) <= max(1, self.capacity), "more in flight than the executor can use"

    def wait(self, timeout: float | None = None) -> Sequence[Outcome]:
        if not self.queue:
            return []
        number, request = self.queue.pop(-1 if self.newest_first else 0)
        scripted = self.script.get(number)
        return [Measured(request, self.answer(request)) if scripted is None else scripted(request)]

    def close(self) -> None:
        self.queue.clear()

    def distinct(self) -> int:
        return len({(r.policy, r.split) for r in self.submitted})


def lost(request: EvalRequest) -> Outcome:
    return Lost(request, "worker died")


def oom(request: EvalRequest) -> Outcome:
    return Failed(request, "oom", "out of memory")


def hung(request: EvalRequest) -> Outcome:
    return Failed(request, "timeout", "no answer after 9 s")


def with_nan(label: str) -> Callable[[EvalRequest], Outcome]:
    def answer(request: EvalRequest) -> Outcome:
        found = measure(request)
        return Measured(request, replace(found, values={**found.values, label: float("nan")}))

    return answer


@dataclass
class FakeLog:
    """The store, in memory. `kill_at = (point, n)`: the process dies at the n-th passing of the point."""

    evaluations: dict[str, Measurement] = field(default_factory=dict)
    settled: list[TrialRecord] = field(default_factory=list)
    fronts: list[Mapping[str, Any]] = field(default_factory=list)
    holdout_uses: int = 0
    kill_at: tuple[str, int] | None = None
    passed: dict[str, int] = field(default_factory=dict)

    def _pass(self, point: str) -> None:
        self.passed[point] = self.passed.get(point, 0) + 1
        if self.kill_at == (point, self.passed[point]):
            raise Killed(point)

    def find(self, key: str) -> Measurement | None:
        return self.evaluations.get(key)

    def remember(self, key: str, request: EvalRequest, measurement: Measurement) -> None:
        self._pass("before remember")
        self.evaluations[key] = measurement
        self._pass("after remember")

    def settle(self, record: TrialRecord) -> None:
        self._pass("before settle")
        assert record.number == len(self.settled), "numbers are contiguous"
        self.settled.append(record)
        self._pass("after settle")

    def hold(self) -> None:
        pass

    def trials(self) -> Sequence[TrialRecord]:
        return tuple(self.settled)

    def save_front(self, front: Mapping[str, Any]) -> None:
        self.fronts.append(json.loads(json.dumps(front)))

    def count_holdout_use(self) -> int:
        self.holdout_uses += 1
        return self.holdout_uses

    def times_looked(self) -> int:
        return self.holdout_uses


class FakePublisher:
    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


class Watcher:
    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def update(self, progress: Progress) -> None:
        self.seen.append(progress)


def reference(x: float, y: float, params: bool = True, name: str = "ref") -> Reference:
    values = {"x": x, "y": y, "mode": "a"}
    return Reference(make_candidate(name, values), values if params else None)


def make_plan(**changes: Any) -> StudyPlan:
    given: dict[str, Any] = {
        "study_id": "toy-1",
        "proposals": ToySpace(),
        "references": (reference(0.8, 0.4), reference(0.5, 0.5, params=False, name="outside")),
        "objectives": (objective("cost"), objective("nll")),
        "constraints": (ACCURATE,),
        "measures": LABELS,
        "trials": 16,
        "time_limit": None,
        "seed": 7,
        "strategy": "random",
        "synchronous": False,
        "storage": None,
        "context": CONTEXT,
        "confidence": 0.95,
        "costs": ("cost",),
    }
    return StudyPlan(**{**given, **changes})


def rung(limit: int, drop: float = 0.5, constraints: tuple = (ACCURATE,)) -> Rung:
    return Rung(limit, LABELS, (objective("cost"), objective("nll")), constraints, drop)


def screen(limit: int, drop: float = 0.5) -> Rung:
    return Rung(limit, ("flow", "cost"), (objective("flow"), objective("cost")), (), drop, "screened")


def run(plan: StudyPlan, executor: FakeExecutor | None = None, log: FakeLog | None = None, **more: Any) -> Any:
    from autoprune.search.driver import run as search

    watcher = more.pop("observer", Watcher())
    return search(
        plan, executor or FakeExecutor(), log if log is not None else FakeLog(), FakePublisher(), watcher, **more
    )


def fresh(log: FakeLog) -> list[TrialRecord]:
    """The records that count as trials."""
    return [r for r in log.settled if r.origin != "baseline" and r.state == "complete" and not r.cached]
