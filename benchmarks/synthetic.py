"""A search problem without a model: real spaces and policies, a formula for what they are worth, a known optimum.

A policy is worth the more, the nearer its visual tokens per layer, its first selector and its mix of criteria are to
those of a planted policy of the same space: `answer_nll` of that one is BEST, and nothing is below it but noise that is
the same for every policy. `exact_match` falls as `answer_nll` rises. `build` makes the evaluator of a `WorkerSpec`, so
that real executors run it too; nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np

from autoprune.api.proposals import PARTS, Proposals
from autoprune.document.yaml import read
from autoprune.models import read_geometry
from autoprune.policy import canonical, catalog
from autoprune.policy.budget import budget, lengths
from autoprune.policy.parameters import Parameter
from autoprune.policy.resolved import Mix, ResolvedPolicy
from autoprune.policy.space import Space
from autoprune.ports import (
    CalibrationSource,
    EvalRequest,
    EvaluationContext,
    Measurement,
    MeasureRequest,
    WorkerSpec,
)
from autoprune.search.plan import StudyPlan
from autoprune.spec.goals import Constraint, Objective
from benchmarks.output import MODEL

LABELS = ("answer_nll", "exact_match", "budget")
RECORDS = {"search": 384, "holdout": 1000}
BEST = 0.2
"""`answer_nll` of the planted policy, and of the unpruned model."""
CONTEXT = EvaluationContext("synthetic", "synthetic", "float32", "none", {}, {})


@cache
def problem(space: str) -> Problem:
    """The problem of a shipped space on the reference model's geometry."""
    return Problem(space)


class Problem:
    """A bound space and its planted policy: every parameter a third of its range up, every choice the last."""

    def __init__(self, name: str) -> None:
        geometry = read_geometry(MODEL)
        if geometry.tokens_per_image is None:
            raise AssertionError("the reference model has the same number of tokens for every image")
        self.tokens = geometry.tokens_per_image
        space = Space.from_source(read(catalog.find("search_spaces", name)), PARTS, geometry).bind(geometry)
        self.proposals = Proposals(space, geometry, self.tokens)
        self.planted = {p.name: _third(p) for p in space.parameters}

    @cached_property
    def target(self) -> ResolvedPolicy:
        return canonical.from_json(self.proposals.candidate(self.planted).canonical)

    def loss(self, policy: str | None) -> float:
        """How far a canonical policy (None: the unpruned model) is from the planted one, in [0, 2] or so; 0 there. The
        unpruned model counts as 0, too: a bound relative to it can be met."""
        if policy is None:
            return 0.0
        found = canonical.from_json(policy)
        kept, wanted = (np.asarray(lengths(p, self.tokens)) / self.tokens for p in (found, self.target))
        gap = 4 * float(np.mean((kept - wanted) ** 2))
        return gap + _mix_distance(found, self.target) + 0.05 * (_selector(found) != _selector(self.target))

    def measure(self, request: EvalRequest) -> Measurement:
        """Measures per record, with noise that hangs on the record alone (records are paired between policies)."""
        count = RECORDS[request.split]
        rng = np.random.default_rng(1 if request.split == "search" else 2)
        luck, noise = rng.random(count), rng.normal(0, 0.05, count)
        loss = self.loss(request.policy)
        right = tuple((luck < 0.97 * np.exp(-loss / 4)).astype(float).tolist())
        nll = tuple((BEST + loss + noise - noise.mean()).tolist())
        values = {"answer_nll": float(np.mean(nll)), "exact_match": float(np.mean(right)), "budget": 1.0}
        if request.policy is not None:
            resolved = canonical.from_json(request.policy)
            values["budget"] = float(budget([lengths(resolved, self.tokens)], [self.tokens], resolved.depth))
        images = tuple(i // 2 for i in range(count))
        records = tuple(f"{request.split}-{i}" for i in range(count))
        return Measurement(values, {"answer_nll": nll, "exact_match": right}, images, records, 0.01)


def _third(parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return parameter.choices[-1]
    if parameter.low is None or parameter.high is None:
        raise ValueError(f"{parameter.name} has no range")
    if parameter.kind == "int":
        return int(parameter.low + (parameter.high - parameter.low) // 3)
    return parameter.low + (parameter.high - parameter.low) / 3


def _selector(policy: ResolvedPolicy) -> str:
    return policy.stages[0].picks[-1].select.name if policy.stages else ""


def _mix_distance(found: ResolvedPolicy, wanted: ResolvedPolicy) -> float:
    """Squared distance of the weights of all mixes, by criterion."""
    ours, theirs = _weights(found), _weights(wanted)
    return sum((ours.get(key, 0.0) - theirs.get(key, 0.0)) ** 2 for key in ours.keys() | theirs.keys())


def _weights(policy: ResolvedPolicy) -> dict[str, float]:
    mixes = [pick.score for stage in policy.stages for pick in stage.picks if isinstance(pick.score, Mix)]
    return {
        f"{number}:{json.dumps([part.name, part.params], sort_keys=True, default=str)}": float(weight)
        for number, mix in enumerate(mixes)
        for weight, part in mix.terms
    }


class SyntheticEvaluator:
    """The port `Evaluator` for a problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def evaluate(self, request: EvalRequest) -> Measurement:
        return self._problem.measure(request)


def build(spec: WorkerSpec) -> SyntheticEvaluator:
    """The evaluator of `worker_spec`."""
    return SyntheticEvaluator(problem(spec.model_path))


def worker_spec(space: str) -> WorkerSpec:
    """Its 'model' is the name of a space; run it with `build='benchmarks.synthetic:build'`."""
    source = CalibrationSource("", None, RECORDS["search"], RECORDS["holdout"], None, 0)
    return WorkerSpec(space, source, tuple(MeasureRequest(label) for label in LABELS))


def plan(space: str, trials: int, **changes: Any) -> StudyPlan:
    """A study of the problem: `answer_nll` against `budget`, within 0.9 of the baseline's `exact_match`."""
    given: Mapping[str, Any] = {
        "study_id": f"synthetic-{space}",
        "proposals": problem(space).proposals,
        "references": (),
        "objectives": (
            Objective(MeasureRequest("answer_nll"), "minimize"),
            Objective(MeasureRequest("budget"), "minimize"),
        ),
        "constraints": (Constraint("exact_match >= 0.9 * baseline", MeasureRequest("exact_match"), ">=", 0.9, 0.0),),
        "measures": LABELS,
        "trials": trials,
        "time_limit": None,
        "seed": 1,
        "strategy": "random",
        "synchronous": False,
        "storage": None,
        "context": CONTEXT,
        "confidence": 0.95,
        "costs": ("budget",),
    }
    return StudyPlan(**{**given, **changes})
