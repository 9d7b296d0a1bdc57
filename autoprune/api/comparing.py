"""Many policies side by side on one model: the same questions, the same budgets, one harness.

Everything is measured on the spec's holdout, which no search optimised on. What was measured before is taken from the
store; a policy that cannot run is a row that says why.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from autoprune import check
from autoprune.api import state
from autoprune.api.proposals import PARTS, candidate
from autoprune.api.study import Prepared, digest_of
from autoprune.document.yaml import read
from autoprune.errors import AutoPruneError, BadInput
from autoprune.measures import registry as measures
from autoprune.measures.context import evaluation_context
from autoprune.measures.requests import with_defaults
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible
from autoprune.policy.document import Policy
from autoprune.policy.scale import at_budget
from autoprune.ports import EvalRequest, Failed, Measurement, Observer, Progress, SilentObserver

if TYPE_CHECKING:
    from autoprune.measures.evaluator import ModelEvaluator
    from autoprune.policy.front import Agreement
    from autoprune.ports import WorkerSpec
    from autoprune.search.plan import Candidate
    from autoprune.store.store import Store

LOOKED_AT = ("information_flow", "budget", "prefill_flops", "selection_flops", "kv_bytes")
BATCH, ROUNDS = 8, 7
CLOSE = 0.01  # how far below its target a budget may stay where images have different numbers of tokens
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Comparison:
    """`document` has the shape of `autoprune compare --json`; the files lie in `folder`."""

    document: Mapping[str, Any]
    folder: Path
    notes: tuple[str, ...]


def compare(
    spec: str | Path,
    policies: Sequence[str] = ("all",),
    budgets: Sequence[str] = ("0.33", "0.22", "0.11"),
    *,
    limit: int | None = None,
    timing: bool = True,
    parity: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Measure policies (catalog names, YAML files or `all`) at budgets on the first `limit` holdout questions.

    `parity`: as the methods' releases do it, by the `parity` of their documents.

    Raises BadInput where there is nothing to compare, for unknown policies and budgets that are no numbers in (0, 1],
    all of them at once, or for a spec that cannot be run.
    """
    observer = observer or SilentObserver()
    if limit is not None and limit < 1:
        raise BadInput(f"limit is at least one question, not {limit}", code="out-of-range")
    wrong: list[BadInput] = []
    wanted = _each(_budget, budgets, "budgets", wrong)
    checked = check.check(spec)
    folders = (checked.loaded.folder / "policies",)
    names = [n for name in policies for n in (catalog.names("policies", folders) if name == "all" else (name,))]
    chosen = dict(_each(lambda name: _policy(name, folders), dict.fromkeys(names), "policies", wrong))
    if wrong:
        raise wrong[0] if len(wrong) == 1 else BadInput("\n".join(map(str, wrong)))
    state.check_machine(checked.loaded)
    observer.update(Progress("loading"))
    study = Prepared(checked)
    from autoprune.store import open_store

    with open_store(state.store_url(checked.loaded)) as store:
        run = _Comparing(study, store, observer, limit, timing, parity)
        document = run.document(chosen, wanted)
    asked = {name: p.dump() for name, p in chosen.items()}
    content = [asked, [str(b) for b in wanted], limit, asdict(run.context), *(["parity"] if parity else [])]
    return _saved(study, document, digest_of(content)[:8])


def _budget(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise BadInput(f"budget {text!r} is no number; write 0.22 or 2/9", code="not-a-number") from error
    if not 0 < value <= 1:
        raise BadInput(f"budget {text!r} is not above 0 and at most 1", code="out-of-range")
    return value


def _each(make: Callable[[str], _Made], given: Iterable[str], what: str, wrong: list[BadInput]) -> list[_Made]:
    """What is made of each; what goes wrong with any of them, or that there is none, is added to `wrong`."""
    made, items = [], list(given)
    if not items:
        wrong.append(BadInput(f"no {what} to compare: name at least one"))
    for item in items:
        try:
            made.append(make(item))
        except BadInput as error:
            wrong.append(error)
    return made


def _policy(name: str, folders: tuple[Path, ...]) -> tuple[str, Policy]:
    """A policy, and the name under which it is shown."""
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else catalog.find("policies", name, folders)
    return path.stem if is_file else name, Policy.from_source(read(path), PARTS)


class _Comparing:
    """One comparison on one model that stays loaded."""

    def __init__(
        self, study: Prepared, store: Store, observer: Observer, limit: int | None, timing: bool, parity: bool
    ) -> None:
        self.study, self.memory, self.observer = study, store.evaluations(), observer
        self.limit, self.timing, self.parity = limit, timing, parity
        answered = all(record.answer is not None for record in study.splits.holdout)
        self.score = "exact_match" if answered else "loyalty"
        self.worker = _with_measures(study.worker, (self.score, *LOOKED_AT))
        self.labels = tuple(m.label for m in self.worker.measures)
        self.context = evaluation_context(self.worker)

    @cached_property
    def evaluator(self) -> ModelEvaluator:
        from autoprune.measures.evaluator import build

        return build(self.worker)

    @property
    def confidence(self) -> float:
        return self.study.checked.loaded.spec.certify.confidence

    def document(self, policies: Mapping[str, Policy], budgets: Sequence[Fraction]) -> dict[str, Any]:
        self.observer.update(Progress("baseline", target=1))
        baseline = self.measure(None)
        if isinstance(baseline, str):
            raise AutoPruneError(f"the unpruned model could not be measured: {baseline}")
        self.observer.update(Progress("baseline", 1, target=1))
        points: list[Candidate | None] = []
        rows: list[dict[str, Any]] = []
        total = len(policies) * len(budgets)
        for row, point in self._rows(policies, budgets, baseline):
            rows.append(row)
            points.append(point)
            self.observer.update(self._progress("compare", rows, len(rows), total))
        if self.timing:
            self._time(rows, points)
        spec = self.study.checked.loaded.spec
        return {
            "name": spec.name,
            "model": spec.model.path,
            "split": "holdout",
            "records": len(baseline.images),
            "images": len(set(baseline.images)),
            "confidence": self.confidence,
            "score": self.score,
            "parity": self.parity,
            "baseline": self._numbers(baseline, baseline),
            "rows": rows,
            "agreement": [asdict(one) for one in _agreement(rows, self.score)],
        }

    def _progress(
        self, phase: Literal["compare", "timing"], rows: Sequence[Mapping[str, Any]], done: int, of: int
    ) -> Progress:
        states = [row["state"] for row in rows]
        failed = sum(state in ("failed", "refused") for state in states)
        return Progress(phase, done, failed, 0, of, infeasible=states.count("infeasible"))

    def _rows(
        self, policies: Mapping[str, Policy], budgets: Sequence[Fraction], baseline: Measurement
    ) -> Iterator[tuple[dict[str, Any], Candidate | None]]:
        for name, policy in policies.items():
            for budget in budgets:
                row, point = self._row(name, policy, budget, baseline)
                yield {"policy": name, "target": float(budget), **row}, point

    def _row(
        self, name: str, policy: Policy, budget: Fraction, baseline: Measurement
    ) -> tuple[dict[str, Any], Candidate | None]:
        """One row, and what it measured."""
        study = self.study
        try:
            scaled = at_budget(policy, budget, study.geometry)
            point: Candidate = candidate(scaled, study.geometry, study.tokens, name, parity=self.parity)
            found = self.measure(point.canonical)
        except Infeasible as error:
            return {"state": "infeasible", "reason": str(error)}, None
        except BadInput as error:
            return {"state": "refused", "reason": str(error)}, None
        if isinstance(found, str):
            return {"state": "failed", "reason": found, "digest": point.digest}, None
        numbers = self._numbers(found, baseline)
        one = 1 / study.tokens if study.tokens else CLOSE
        reached = not scaled.stages or numbers["budget"] > float(budget) - one
        return {"state": "measured", "digest": point.digest, "reached": reached, **numbers}, point

    def _time(self, rows: list[dict[str, Any]], points: Sequence[Candidate | None]) -> None:
        """Adds the timings to the rows that were measured."""
        todo = [(row, point) for row, point in zip(rows, points, strict=True) if point is not None]
        for done, (row, point) in enumerate(todo):
            self.observer.update(self._progress("timing", rows, done, len(todo)))
            row.update(self._timing(point))
        if todo:
            self.observer.update(self._progress("timing", rows, len(todo), len(todo)))

    def measure(self, canonical: str | None) -> Measurement | str:
        """The measurement, remembered or new; the reason where it failed."""
        from autoprune.executors.classify import attempt

        request = EvalRequest(canonical, "holdout", self.labels, self.limit)
        key = self.context.key(request)
        if (known := self.memory.find(key)) is not None:
            return known
        outcome = attempt(self.evaluator, request)
        if isinstance(outcome, Failed):
            return outcome.message.split("\n")[0]
        self.memory.remember(key, request, outcome.measurement)
        return outcome.measurement

    def _numbers(self, found: Measurement, baseline: Measurement) -> dict[str, Any]:
        from autoprune.search.certify import interval

        base = baseline.values[self.score]
        estimate = interval(found, self.score, self.confidence)
        return {
            "budget": found.values["budget"],
            self.score: asdict(estimate),
            "retained": estimate.value / base if base > 0 else None,
            "by_type": self._by_type(found),
            **{label: found.values[label] for label in LOOKED_AT if label != "budget"},
        }

    def _by_type(self, found: Measurement) -> dict[str, float]:
        types = [record.type or "" for record in self.study.splits.holdout]
        grouped: dict[str, list[float]] = defaultdict(list)
        for kind, value in zip(types, found.samples[self.score], strict=False):  # `limit` takes the first of them
            grouped[kind].append(value)
        return {kind: sum(values) / len(values) for kind, values in sorted(grouped.items()) if kind}

    def _timing(self, point: Candidate) -> dict[str, Any]:
        taken = self.evaluator.prefill(point.canonical, "holdout", BATCH, ROUNDS)
        return {"prefill_ratio": asdict(taken.prefill), "selection_share": asdict(taken.selection)}


def _agreement(rows: Sequence[Mapping[str, Any]], score: str) -> list[Agreement]:
    """How far the other measures order the measured policies as the score does: all of them, then those of one target,
    where there are several."""
    from autoprune.search.agreement import agreement

    better = {label: info.direction for label in LOOKED_AT if (info := measures.find(label)) is not None}
    measured = [row for row in rows if row["state"] == "measured"]
    targets = sorted({row["target"] for row in measured}, reverse=True)
    found: list[Agreement] = []
    for target in [None, *(targets if len(targets) > 1 else ())]:
        chosen = [row for row in measured if target in (None, row["target"])]
        scores = [{score: row[score]["value"]} for row in chosen]
        found += agreement(chosen, scores, better, (score,), target)
    return found


def _with_measures(worker: WorkerSpec, names: Sequence[str]) -> WorkerSpec:
    """The worker with exactly these measures, at their default options: comparisons stay comparable."""
    return replace(worker, measures=tuple(with_defaults(name) for name in names))


def _saved(study: Prepared, document: dict[str, Any], digest: str) -> Comparison:
    """comparison.json and comparison.png beside the studies, and a run in MLflow. What was asked for names the folder:
    the same comparison again replaces its files, another one has its own."""
    loaded = study.checked.loaded
    folder = state.study_folder(loaded, f"{loaded.spec.name}-comparison-{digest}")
    (folder / "comparison.json").write_text(json.dumps(document, indent=2, ensure_ascii=False))
    files = [folder / "comparison.json"]
    if any(row["state"] == "measured" for row in document["rows"]):
        from autoprune.figures import comparison_figure, save

        files.append(save(comparison_figure(document), folder / "comparison.png"))
    notes = [f"comparison in {folder}"]
    uri = state.mlflow_uri(loaded)
    if uri is not None:
        from autoprune.registry.comparison import log_comparison

        notes.append(log_comparison(uri, document, files))
    return Comparison(document, folder, tuple(notes))
