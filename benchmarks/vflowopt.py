"""How VFlowOpt searches, as its release does it, on our engine: one budget, five numbers, a Gaussian process.

Before the language model a part R1 stays, chosen by the tower's information flow (gate t, entropy of patches weighed
a), the others of a cell of the grid become one token; a part R2 of those stays at a third of the depth, and at two
thirds what the budget leaves, in closed form. What is optimised is the sum over 30 samples of the cosine similarity of
the last token after the last layer with and without pruning: 300 evaluations one after the other, 27 initial points.

Different from the release: the acquisition is Optuna's (log of the expected improvement; the paper's is expected
improvement, the release leaves scikit-optimize's default); a is in [0, 1] instead of [-1, 1] (our mixes have no
negative weights; all shipped results have a = 0) and weighs sums to 1; cells are scaled to our grid, R1's bounds, 1 to
1.5 times the budget, to the budget; a last stage that cannot meet the budget makes the point worth 0 (there it is
clipped); the 30 samples are the first of the search records (a stratified shuffle), the same for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.measures import registry as measures
from autoprune.policy.budget import Infeasible
from autoprune.ports import EvalRequest, Measured, Measurement, MeasureRequest, TrialRecord
from autoprune.search.settle import search_slacks

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from autoprune.ports import Executor
    from autoprune.search.plan import Candidate, StudyPlan

NAME = "vflowopt"
SAMPLES, INITIAL = 30, 27
GRID = 27  # of the model that its bounds are for
BUDGET = Fraction(1, 4)
COSINE = "last_cosine"
COST = "prefill_flops"


def measure() -> MeasureRequest:
    """What it optimises: 1 - cosine similarity of the last token after the last layer, as a mean."""
    info = measures.find("information_flow")
    if info is None:
        raise AssertionError("information_flow is a registered measure")
    config = info.config.model_validate({"layers": [-1], "distance": "cosine", "tokens": "last"})
    return MeasureRequest("information_flow", config.model_dump(mode="json"), COSINE)


def bounds(budget: Fraction, grid: int) -> dict[str, tuple[float, float]]:
    """Of the five numbers; `grid` is the side of the image in visual tokens."""
    return {
        "r1": (float(budget), min(1.0, 1.5 * float(budget))),
        "r2": (0.533, 1.0),
        "gate": (0.0, 50.0),
        "side": (3 * grid / GRID, 24 * grid / GRID),
        "entropy": (0.0, 1.0),
    }


def document(values: Mapping[str, float], budget: Fraction) -> dict[str, Any]:
    """The policy at these numbers."""
    exact = {name: round(value, 3) for name, value in values.items()}
    score = {"mix": {"weights": {"flow": 1, "entropy": exact["entropy"]}, "normalise": "sum"}}
    flow = {"encoder_attention": {"layer": -1, "from": "patches", "hops": 2, "gate": exact["gate"]}}
    merge = {"cell": {"side": exact["side"], "into": "own"}}
    return {
        "schema": "autoprune/policy/1",
        "name": NAME,
        "criteria": {"flow": flow, "entropy": "patch_entropy"},
        "stages": [
            {"at": "projector", "keep": exact["r1"], "score": score, "merge": merge},
            {"at": "llm:9/28", "keep": {"of_current": exact["r2"]}, "score": score},
            {"at": "llm:9/14", "keep": {"to_budget": str(budget)}, "score": score},
        ],
    }


class Procedure:
    """One run. `plan` is the study that its policies are judged by, `executor` measures `COSINE`, too."""

    def __init__(self, plan: StudyPlan, executor: Executor, seed: int, budget: Fraction = BUDGET) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.executor, self.budget = plan, executor, budget
        tokens = plan.proposals.tokens
        if tokens is None or math.isqrt(tokens) ** 2 != tokens:
            raise BadInput("this procedure is for a square grid, the same for all images")
        ranges = bounds(budget, math.isqrt(tokens))
        self._holes: dict[str, BaseDistribution] = {
            name: optuna.distributions.FloatDistribution(*ends) for name, ends in ranges.items()
        }
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=INITIAL)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self.best: tuple[float, Candidate] | None = None

    def step(self) -> tuple[Measurement | None, bool]:
        """One evaluation: what it found (None: not a policy, or no numbers), and whether it is the best so far."""
        trial = self._study.ask(self._holes)
        try:
            made = self.plan.proposals.free(document(trial.params, self.budget))
        except (Infeasible, BadInput):
            self._study.tell(trial, 0.0)
            return None, False
        found = self._measured(EvalRequest(made.canonical, "search", (COSINE, COST), limit=SAMPLES))
        similarity = 0.0 if found is None else sum(1 - gap for gap in found.samples[COSINE])
        self._study.tell(trial, similarity)
        better = found is not None and (self.best is None or similarity > self.best[0])
        if better:
            self.best = similarity, made
        return found, better

    def judged(self, baseline: Measurement) -> TrialRecord:
        """The best so far, measured as every other policy is, on all search records."""
        if self.best is None:
            raise AssertionError("there is no best before a step found one")
        made = self.best[1]
        found = self._measured(self.plan.request(made.canonical, "search"))
        slacks = {} if found is None else search_slacks(self.plan.constraints, found, baseline)
        return TrialRecord(
            number=0,
            origin="trial",
            name=made.name,
            state="failed" if found is None else "complete",
            policy=made.document,
            canonical=made.canonical,
            digest=made.digest,
            values={} if found is None else found.values,
            constraints=slacks,
        )

    def _measured(self, request: EvalRequest) -> Measurement | None:
        self.executor.submit(request)
        (outcome,) = self.executor.wait()
        return outcome.measurement if isinstance(outcome, Measured) else None
