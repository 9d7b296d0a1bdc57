"""One search of benchmark 2: a strategy with its trials and its seed, by AutoPrune's own driver, and what it cost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from autoprune import check
from autoprune.api.study import Prepared
from autoprune.executors import InlineExecutor
from autoprune.ports import EvaluationContext, Measurement, SilentObserver, TrialRecord
from autoprune.search import driver, pareto
from autoprune.search.plan import StudyPlan
from benchmarks import output, vflowopt
from benchmarks.scaling import Unpublished, study_on_disk
from benchmarks.shared import Memo, SharedExecutor

TEMPLATE = output.ROOT / "benchmarks" / "efficiency.yaml"
SEED = 2713  # of the pictures; no other benchmark's
MADE_BY = (
    *sorted({*output.SEARCHING, *output.MEASURING}),
    "benchmarks/efficiency_runs.py",
    "benchmarks/shared.py",
    "benchmarks/vflowopt.py",
)
"""What decides how a search goes and what it comes to: finished ones are kept for these only."""
SCORE, COST = "exact_match", "prefill_flops"


@dataclass(frozen=True)
class Arm:
    """A strategy and how many evaluations it is given, the unpruned model's among them."""

    strategy: str
    evaluations: int

    @property
    def name(self) -> str:
        return f"{self.strategy} {self.evaluations}"


class Workplace:
    """Where a process runs searches: questions and measurements are everybody's, the model is its own. `search` and
    `holdout` are numbers of questions, in place of the template's."""

    def __init__(self, folder: Path, search: int | None = None, holdout: int | None = None) -> None:
        written = TEMPLATE.read_text().replace("path: MODEL", f"path: {json.dumps(str(output.MODEL))}")
        for key, count in (("search", search), ("holdout", holdout)):
            written = _set(written, key, count) if count is not None else written
        self.folder, self._template = folder, written

    @property
    def records(self) -> Path:
        return self.folder / "calib" / "records.jsonl"

    def make_questions(self, count: int) -> None:
        """One for each picture, unless they are there."""
        if self.records.is_file():
            return
        command = [sys.executable, str(output.ROOT / "examples" / "reference_vlm" / "make_data.py")]
        command += ["--out", str(self.records.parent), "--images", str(count), "--questions-per-image", "1"]
        subprocess.run([*command, "--pool", "search", "--seed", str(SEED)], check=True)

    def prepared(self, strategy: str, trials: int, seed: int) -> Prepared:
        """The study. Raises BadInput where the strategy does not fit the space."""
        filled = self._template.replace("RECORDS", json.dumps(str(self.records)))
        for hole, value in (("STRATEGY", strategy), ("TRIALS", trials), ("SEED", seed)):
            filled = filled.replace(hole, str(value))
        spec = self.folder / "specs" / f"{strategy}-{trials}-{seed}.yaml"
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(filled)
        return Prepared(check.check(spec))

    @cached_property
    def memo(self) -> Memo:
        return Memo(self.folder / "measured.db", output.code(*output.MEASURING))

    @cached_property
    def workers(self) -> InlineExecutor:
        """One model for all searches of the process; loaded when something is new."""
        worker = self.prepared("random", 1, 0).worker
        return InlineExecutor(replace(worker, measures=(*worker.measures, vflowopt.measure()), threads=1))

    def executor(self, study: Prepared) -> SharedExecutor:
        context: EvaluationContext = study.context
        return SharedExecutor(self.workers, self.memo, context.key, len(study.splits.search))

    def run(self, arm: Arm, seed: int) -> dict[str, Any]:
        """What the search came to, from its file where it is done."""
        path = self.folder / "runs" / output.code(*MADE_BY) / f"{arm.strategy}-{arm.evaluations}-{seed}.json"
        if not path.is_file():
            began = time.process_time()
            found = self._run(arm, seed)
            found |= {"arm": arm.name, "seed": seed, "seconds": time.process_time() - began}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found) + "\n")
        return dict(json.loads(path.read_text()))

    def _run(self, arm: Arm, seed: int) -> dict[str, Any]:
        if arm.strategy == vflowopt.NAME:
            return self._procedure(arm, seed)
        study = self.prepared(arm.strategy, arm.evaluations - 1, seed)
        plan, executor = study.plan(None, None), self.executor(study)
        with study_on_disk() as (log, _):
            front = driver.run(plan, executor, log, Unpublished(), SilentObserver()).to_json()
            records = list(log.trials())
        unpruned = {label: one["value"] for label, one in front["baseline"]["holdout"].items()}
        held = [{label: one["value"] for label, one in m["holdout"].items()} for m in front["members"]]
        return {
            "points": points(records, plan),
            "reference": pareto.reference_point(records, plan.objectives),
            "held_out": [held_out(values, unpruned[SCORE], plan) for values in held],
            "baseline_cost": unpruned.get(COST),
            "spent": executor.spent,
            "said": front["explanation"],
        }

    def _procedure(self, arm: Arm, seed: int) -> dict[str, Any]:
        """VFlowOpt's. What its best so far is worth on our measures is looked at for nothing, after every change."""
        study = self.prepared("random", 1, 0)
        plan, executor = study.plan(None, None), self.executor(study)
        baseline = _measurement(executor, plan, None, "search")
        procedure = vflowopt.Procedure(plan, executor, seed)
        part, listed, judged = vflowopt.SAMPLES / len(baseline.images), [_baseline()], None
        for _ in range(arm.evaluations - 1):
            found, better = procedure.step()
            if better:
                judged = procedure.judged(baseline)
            cost = 0.0 if found is None else part * found.values[COST] / baseline.values[COST]
            shown = _shown(judged, plan) if judged is not None and better else {"point": None, "feasible": False}
            listed.append({"phase": arm.strategy, "evaluations": 1.0, "compute": cost, "state": "screened", **shown})
        held = []
        if judged is not None and judged.canonical is not None:
            unpruned = _measurement(executor, plan, None, "holdout").values[SCORE]
            held = [held_out(_measurement(executor, plan, judged.canonical, "holdout").values, unpruned, plan)]
        return {
            "points": listed,
            "reference": None,
            "held_out": held,
            "baseline_cost": None,
            "spent": executor.spent,
            "said": [],
        }


def _set(text: str, key: str, count: int) -> str:
    lines = [f"  {key}: {count}" if line.startswith(f"  {key}:") else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _measurement(executor: SharedExecutor, plan: StudyPlan, policy: str | None, split: Any) -> Measurement:
    executor.submit(plan.request(policy, split))
    (outcome,) = executor.wait()
    if not hasattr(outcome, "measurement"):
        raise RuntimeError(f"not measured: {outcome}")
    found: Measurement = outcome.measurement
    return found


def _baseline() -> dict[str, Any]:
    return {
        "phase": "baseline",
        "evaluations": 1.0,
        "compute": 1.0,
        "state": "complete",
        "point": None,
        "feasible": False,
    }


def _shown(record: TrialRecord, plan: StudyPlan) -> dict[str, Any]:
    """Its objectives in minimisation form where it may stand on a front."""
    if record.state != "complete" or record.origin == "baseline":
        return {"point": None, "feasible": False}
    return {"point": pareto.signed(record.values, plan.objectives), "feasible": pareto.feasible(record)}


def points(records: Sequence[TrialRecord], plan: StudyPlan) -> list[dict[str, Any]]:
    """Every settled point with what it cost: `evaluations` (a part of the records counts as that part, and what was
    known of some of them is not paid again; proposals that made no policy cost nothing), and `compute`, the same in
    evaluations of the unpruned model, by prefill FLOPs."""
    whole = next(r for r in records if r.origin == "baseline").values[COST]
    listed = []
    for record in records:
        paid = 0.0 if record.cached or record.state == "infeasible" else record.share
        listed.append(
            {
                "phase": record.origin if record.origin == "baseline" else record.phase,
                "state": record.state,
                "evaluations": paid,
                "compute": paid * record.values.get(COST, whole) / whole,
                **_shown(record, plan),
            }
        )
    return listed


def held_out(values: Mapping[str, float], baseline: float, plan: StudyPlan) -> dict[str, Any]:
    """A member of the front on the holdout; `feasible` by the point estimate, without a margin."""
    (constraint,) = plan.constraints
    bound = constraint.scale * baseline + constraint.shift
    return {
        "point": pareto.signed(values, plan.objectives),
        "feasible": values[SCORE] >= bound,
        SCORE: values[SCORE],
    }
