"""The goals of a spec: every measure that it names, with its options filled in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from autoprune.document.problems import from_pydantic, suggest
from autoprune.document.yaml import Source
from autoprune.errors import BadInput, Located
from autoprune.measures import registry as measures
from autoprune.measures.requests import parse
from autoprune.ports import MeasureRequest
from autoprune.spec.expressions import request, uses_points
from autoprune.spec.goals import Constraint, Objective
from autoprune.spec.load import LoadedSpec


class Goals:
    """Fills the options of every measure the spec names, collecting mistakes."""

    def __init__(self, loaded: LoadedSpec) -> None:
        self.loaded = loaded
        self.found = list(loaded.problems)
        self.by_label: dict[str, MeasureRequest] = {}
        self.needs_answers: str = ""
        self.places: dict[str, tuple[Source, tuple[str | int, ...]]] = {}

    def fill(
        self, measure: MeasureRequest, document: Source, path: tuple[str | int, ...], offset: int
    ) -> MeasureRequest:
        info = measures.find(measure.name)
        if info is None:
            known = measures.names()
            message = f"unknown measure {measure.name!r}; known: {', '.join(known)}{suggest(measure.name, known)}"
            self.found.append(document.problem(path, "unknown-measure", message, offset=offset))
            return measure
        if info.unpruned:
            message = f"{measure.name} describes the unpruned model; known: {', '.join(measures.names())}"
            self.found.append(document.problem(path, "not-a-goal", message, offset=offset))
            return measure
        try:
            config = info.config.model_validate(dict(measure.options))
        except ValidationError as error:
            for problem in from_pydantic(error, (*path, measure.name), model=info.config, data=dict(measure.options)):
                self.found.append(document.problem(problem.path, problem.code, problem.message, key=problem.key))
            return measure
        if "answers" in info.needs_of(config) and not self.needs_answers:
            self.needs_answers = measure.name
        filled = replace(measure, options=config.model_dump(mode="json"))
        self.by_label[filled.label] = filled
        self.places.setdefault(filled.label, (document, (*path, measure.name, "layers")))
        return filled

    def layers(self, depth: int) -> list[Located]:
        """Measures that look at layers which the model does not have."""
        found = []
        for label, measure in self.by_label.items():
            try:
                parse(measure).states(depth)
            except BadInput as error:
                document, path = self.places[label]
                found.append(document.problem(path, error.code, str(error)))
        return found

    def objectives(self) -> tuple[Objective, ...]:
        source = self.loaded.objective_source
        filled = []
        for whole, objective in zip(self.loaded.objective_paths, self.loaded.objectives, strict=True):
            written = source.data["objectives"][whole[-1]]
            path, offset = _measure_place(whole, written, objective.measure.name)
            if (wrong := _wrong_way(objective)) is not None:
                self.found.append(source.problem(whole, "wrong-direction", wrong))
            filled.append(replace(objective, measure=self.fill(objective.measure, source, path, offset)))
        return tuple(filled)

    def constraints(self) -> tuple[Constraint, ...]:
        """A constraint by a bare name means the objective of that name, options included, where there is just one."""
        source, filled = self.loaded.source, []
        for path, named in self.loaded.named:
            if self._known_as(named) is None:
                self.fill(named, source, path, 0)
        for path, constraint in zip(self.loaded.constraint_paths, self.loaded.constraints, strict=True):
            measure = self._known_as(constraint.measure) or self.fill(constraint.measure, source, path, 0)
            info = measures.find(measure.name)
            if info is not None and info.bounded is None and uses_points(constraint.text):
                message = f"{measure.name} has no points: only measures in [0, 1] do; write '%' instead"
                self.found.append(
                    source.problem(path, "wrong-unit", message, offset=max(constraint.text.find("point"), 0))
                )
            elif info is not None and info.bounded is not None and not constraint.relative:
                low, high = info.bounded
                if not low <= constraint.shift <= high:
                    message = f"{measure.name} lies between {low:g} and {high:g}; {constraint.shift:g} does not"
                    self.found.append(source.problem(path, "out-of-range", message))
            filled.append(replace(constraint, measure=measure))
        return tuple(filled)

    def select(self, objectives: tuple[Objective, ...]) -> Objective:
        chosen = self.loaded.select or next((o for o in objectives if _is_cost(o.measure.name)), None)
        if chosen is None:
            return Objective(self.fill(request("budget"), self.loaded.source, ("objectives",), 0), "minimize")
        measure = self._known_as(chosen.measure)
        if measure is None:
            offset = (self.loaded.spec.output.select or "").find(chosen.measure.name)
            measure = self.fill(chosen.measure, self.loaded.source, ("output", "select"), max(offset, 0))
        if measures.find(measure.name) is not None and not _is_cost(measure.name):
            message = f"selection is by a cost, never by a score measured on the holdout; costs: {', '.join(_costs())}"
            self.found.append(self.loaded.source.problem(("output", "select"), "not-a-cost", message))
        elif self.loaded.select is not None and (wrong := _wrong_way(chosen)) is not None:
            self.found.append(self.loaded.source.problem(("output", "select"), "wrong-direction", wrong))
        return replace(chosen, measure=measure)

    def screen(self) -> Objective | None:
        """The measure that drops proposals early, and which way it gets better."""
        source, path = self.loaded.source, ("search", "screen")
        asked = self.loaded.spec.search.screen
        if asked is None:
            return None
        most = self.loaded.spec.calibration.search
        if asked.records >= most and not self.loaded.is_broken("calibration", "search"):
            message = f"a screen is on fewer than the {most} records of the search"
            self.found.append(source.problem((*path, "records"), "screen-too-large", message))
        written = asked.measure
        if isinstance(written, dict):
            (name, options), *more = written.items() or [("", {})]
            if more or not isinstance(options, dict):
                message = "a screen's measure is MEASURE or {MEASURE: {option: value}}"
                self.found.append(source.problem((*path, "measure"), "wrong-type", message))
                return None
        else:
            name, options = written, {}
        measure = self.fill(request(name, options), source, (*path, "measure"), 0)
        info = measures.find(name)
        if info is None:
            return None
        if not info.by_record:
            message = f"{name} is a {'cost' if info.cost else 'timing'}: a screen is a measure of the records"
            self.found.append(source.problem((*path, "measure"), "not-a-screen", message))
        return Objective(measure, "minimize" if info.direction == "lower" else "maximize")

    def _known_as(self, measure: MeasureRequest) -> MeasureRequest | None:
        same = [known for known in self.by_label.values() if known.name == measure.name]
        return same[0] if len(same) == 1 and not measure.options else None


def _wrong_way(goal: Objective) -> str | None:
    """The message for a goal that asks for the worse end of its measure."""
    info = measures.find(goal.measure.name)
    better = {"higher": "maximize", "lower": "minimize"}
    if info is None or better[info.direction] == goal.direction:
        return None
    return f"{info.name} is better when {info.direction}; write '{better[info.direction]} {info.name}'"


def _measure_place(path: tuple[str | int, ...], written: Any, name: str) -> tuple[tuple[str | int, ...], int]:
    """Where the measure's name stands in an objective as written."""
    if isinstance(written, str):
        return path, max(written.find(name), 0)
    return (*path, next(iter(written))), 0


def _is_cost(name: str) -> bool:
    info = measures.find(name)
    return info is not None and not info.by_record


def _costs() -> tuple[str, ...]:
    return tuple(name for name in measures.names() if _is_cost(name))


def shared_device(loaded: LoadedSpec, wanted: Iterable[MeasureRequest], kind: str | None = None) -> list[Located]:
    """A timing on a device that others share times them, too. `kind`: an executor instead of the spec's."""
    timed = [one.name for one in wanted if (info := measures.find(one.name)) is not None and info.timed]
    executor, device = loaded.spec.search.executor, loaded.spec.model.device
    alone = executor.pool.gpus_per_worker >= 1 if device.startswith("cuda") else executor.pool.workers == 1
    if not timed or (kind or executor.kind) not in ("ray", "ray-tune") or alone:
        return []
    message = (
        f"{timed[0]} is a timing, which whoever shares a GPU with the worker would corrupt: give each worker a "
        f"whole one (gpus_per_worker: 1, not {executor.pool.gpus_per_worker:g})"
        if device.startswith("cuda")
        else f"{timed[0]} is a timing, which workers that share the processor would corrupt: give each worker a GPU of "
        "its own (device cuda, gpus_per_worker: 1), or use one worker, or executor inline"
    )
    return [loaded.source.problem(("search", "executor"), "shared-device", message)]
