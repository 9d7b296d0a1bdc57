"""A spec held against everything that can be known without running it: every registry, the records, the model's config.

Reads the real registries; torch, optuna, ray and mlflow stay out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoprune.calibration.records import Record, scan_records
from autoprune.document.problems import Problem, from_pydantic, suggest
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput, Located
from autoprune.measures import registry as measures
from autoprune.measures.least import unmeetable
from autoprune.measures.requests import parse
from autoprune.models import read_geometry
from autoprune.models.folder import locate
from autoprune.models.limits import BIAS
from autoprune.policy import catalog
from autoprune.policy.arms import arms
from autoprune.policy.budget import Infeasible
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy, Stage
from autoprune.policy.geometry import Geometry
from autoprune.policy.space import BoundSpace, Space
from autoprune.policy.space_check import at_its_definition
from autoprune.ports import MeasureRequest
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import Unusable, make_plan
from autoprune.pruning.refusals import refusals
from autoprune.search import strategy as strategies
from autoprune.search.fitting import misfit, searched
from autoprune.search.quick import quickened
from autoprune.spec.expressions import request, uses_points
from autoprune.spec.goals import Constraint, Objective
from autoprune.spec.load import LoadedSpec, load_partly
from autoprune.spec.models import StrategySpec

ALWAYS = ("budget", "prefill_flops", "kv_bytes")


@dataclass(frozen=True)
class Checked:
    """A spec that can be run. `documents` and `spaces` are by arm: one, under the empty name, where there are no arms.
    `model_folder` and `geometry` are None where the model could not be looked up."""

    loaded: LoadedSpec
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    select: Objective
    measures: tuple[MeasureRequest, ...]
    documents: Mapping[str, Source]
    spaces: Mapping[str, Space]
    model_folder: Path | None
    geometry: Geometry | None
    warnings: tuple[Located, ...]
    strategy: StrategySpec
    screen: Objective | None = None

    def bound(self, geometry: Geometry) -> dict[str, BoundSpace]:
        """The spaces that the strategy searches, for the model, by arm. Raises BadInput where it has none."""
        return {
            arm: searched(self.strategy, self.documents[arm].data, space.bind(geometry))
            for arm, space in self.spaces.items()
        }

    def misplaced(self, geometry: Geometry) -> list[Located]:
        """What makes no sense for this model: bounds that no arm can meet, a strategy that has nothing to do in one."""
        found: list[Located] = []
        unmet = []
        for arm, space in self.spaces.items():
            loaded, bound = replace(self.loaded, space_source=self.documents[arm]), space.bind(geometry)
            unmet.append(unmeetable(loaded, bound, self.constraints))
            found.extend(misfit(loaded, self.strategy, bound, self.objectives, self.constraints))
        return list(dict.fromkeys([*(problem for each in unmet if all(unmet) for problem in each), *found]))

    def summary(self) -> list[tuple[str, str]]:
        """What will be done, for people."""
        spec = self.loaded.spec
        rows = [
            ("study", spec.name),
            ("model", str(self.model_folder or spec.model.path)),
            ("objectives", ", ".join(o.text for o in self.objectives)),
            ("constraints", ", ".join(c.text for c in self.constraints) or "none"),
            ("selection", self.select.text),
            ("trials", f"{spec.search.trials} ({self.strategy.name}, {spec.search.executor.kind})"),
            ("records", f"{spec.calibration.search} to search, {spec.calibration.holdout} to certify"),
        ]
        if self.geometry is not None:
            for arm, bound in reversed(self.bound(self.geometry).items()):
                free = ", ".join(p.name for p in bound.parameters)
                rows.insert(3, (f"arm {arm}" if arm else "space", free or "no holes"))
        return rows


class _Goals:
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
            self.found.append(document.problem(path, message, offset=offset))
            return measure
        try:
            config = info.config.model_validate(dict(measure.options))
        except ValidationError as error:
            for problem in from_pydantic(error, (*path, measure.name), model=info.config, data=dict(measure.options)):
                self.found.append(document.problem(problem.path, problem.message, key=problem.key))
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
                found.append(document.problem(path, str(error)))
        return found

    def objectives(self) -> tuple[Objective, ...]:
        source = self.loaded.objective_source
        filled = []
        for whole, objective in zip(self.loaded.objective_paths, self.loaded.objectives, strict=True):
            written = source.data["objectives"][whole[-1]]
            path, offset = _measure_place(whole, written, objective.measure.name)
            if (wrong := _wrong_way(objective)) is not None:
                self.found.append(source.problem(whole, wrong))
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
                self.found.append(source.problem(path, message, offset=max(constraint.text.find("point"), 0)))
            elif info is not None and info.bounded is not None and not constraint.relative:
                low, high = info.bounded
                if not low <= constraint.shift <= high:
                    message = f"{measure.name} lies between {low:g} and {high:g}; {constraint.shift:g} does not"
                    self.found.append(source.problem(path, message))
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
            self.found.append(self.loaded.source.problem(("output", "select"), message))
        elif self.loaded.select is not None and (wrong := _wrong_way(chosen)) is not None:
            self.found.append(self.loaded.source.problem(("output", "select"), wrong))
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
            self.found.append(source.problem((*path, "records"), message))
        written = asked.measure
        if isinstance(written, dict):
            (name, options), *more = written.items() or [("", {})]
            if more or not isinstance(options, dict):
                message = "a screen's measure is MEASURE or {MEASURE: {option: value}}"
                self.found.append(source.problem((*path, "measure"), message))
                return None
        else:
            name, options = written, {}
        measure = self.fill(request(name, options), source, (*path, "measure"), 0)
        info = measures.find(name)
        if info is None:
            return None
        if not info.by_record:
            message = f"{name} is a {'cost' if info.cost else 'timing'}: a screen is a measure of the records"
            self.found.append(source.problem((*path, "measure"), message))
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


def check(path: str | Path, *, quick: bool = False) -> Checked:
    """Read and check a spec, or what a quick search makes of it. Raises BadInput with every mistake found, each
    positioned."""
    loaded = load_partly(path)
    goals = _Goals(loaded)
    objectives = goals.objectives()
    constraints = goals.constraints()
    select = goals.select(objectives)
    for name in ALWAYS:
        if not any(known.name == name for known in goals.by_label.values()):
            goals.fill(request(name), loaded.source, ("objectives",), 0)
    studied = tuple(goals.by_label.values())
    screen = goals.screen()
    found = goals.found
    found.extend(_shared_device(loaded, goals.by_label.values()))
    warnings: list[Located] = []
    folder, geometry = _model(loaded, found, warnings)
    if geometry is not None:
        found.extend(goals.layers(geometry.depth))
        if "flash" in loaded.spec.model.attn_implementation and "flash_attention" in geometry.lacks:
            found.append(loaded.source.problem(("model", "attn_implementation"), geometry.lacks["flash_attention"]))
    documents = {} if loaded.is_broken("search_space") else arms(loaded.space_source, found)
    read_well = {arm: _space(replace(loaded, space_source=each), geometry, found) for arm, each in documents.items()}
    spaces = {arm: space for arm, space in read_well.items() if space is not None}
    strategy = _strategy(loaded, found)
    if quick and not found:
        strategy = quickened(strategy)
    problems, records = _records(loaded, goals.needs_answers)
    found.extend(problems)
    if geometry is not None and not found:
        most = max((len(r.images) for r in records), default=0)
        idle = (_idle(documents[arm], space, geometry, most) for arm, space in spaces.items())
        warnings.extend(dict.fromkeys(warning for each in idle for warning in each))
    checked = Checked(
        loaded,
        objectives,
        constraints,
        select,
        studied,
        documents,
        spaces,
        folder,
        geometry,
        tuple(warnings),
        strategy,
        screen,
    )
    if geometry is not None and not found:
        found.extend(checked.misplaced(geometry))
    if found or not spaces:
        raise BadInput(problems=sorted(dict.fromkeys(found), key=lambda p: (p.file, p.line, p.column)))
    return checked


def _strategy(loaded: LoadedSpec, found: list[Located]) -> StrategySpec:
    """The strategy with its options filled in."""
    asked, path = loaded.spec.search.strategy, ("search", "strategy")
    if loaded.is_broken(*path):
        return asked
    info = strategies.find(asked.name)
    if info is None:
        known = strategies.names()
        message = f"unknown strategy {asked.name!r}{suggest(asked.name, known)}; known: {', '.join(known)}"
        found.append(loaded.source.problem(path, message))
        return asked
    try:
        options = info.options.model_validate(asked.options).model_dump(mode="json")
    except ValidationError as error:
        for problem in from_pydantic(error, (*path, asked.name), model=info.options, data=asked.options):
            found.append(loaded.source.problem(problem.path, problem.message, key=problem.key))
        return asked
    return StrategySpec(name=asked.name, options=options)


def _shared_device(loaded: LoadedSpec, wanted: Iterable[MeasureRequest]) -> list[Located]:
    """A timing on a device that several workers share times the others, too."""
    timed = [one.name for one in wanted if (info := measures.find(one.name)) is not None and info.timed]
    executor, device = loaded.spec.search.executor, loaded.spec.model.device
    alone = executor.ray.workers == 1 or (device.startswith("cuda") and executor.ray.gpus_per_worker >= 1)
    if not timed or executor.kind != "ray" or alone:
        return []
    shared = "a GPU" if device.startswith("cuda") else "the processor"
    message = (
        f"{timed[0]} is a timing, which workers that share {shared} would corrupt: give each worker a GPU of its own "
        "(device cuda, gpus_per_worker: 1), or use one worker, or executor inline"
    )
    return [loaded.source.problem(("search", "executor"), message)]


def _model(loaded: LoadedSpec, found: list[Located], warnings: list[Located]) -> tuple[Path | None, Geometry | None]:
    source, name = loaded.source, model_name(loaded)
    if loaded.is_broken("model", "path"):
        return None, None
    try:
        folder = locate(name, loaded.spec.model.revision)
        return folder, read_geometry(folder)
    except BadInput as error:
        if is_hub_id(name):
            warnings.append(source.problem(("model", "path"), f"{error}; model checks skipped"))
        else:
            found.extend(error.problems or [source.problem(("model", "path"), str(error))])
    return None, None


def _space(loaded: LoadedSpec, geometry: Geometry | None, found: list[Located]) -> Space | None:
    source = loaded.space_source
    try:
        space = Space.from_source(source, RegisteredParts(), geometry)
    except BadInput as error:
        found.extend(error.problems or [source.problem((), str(error))])
        return None
    if geometry is not None:
        found.extend(source.problem(p.path, p.message, key=p.key) for p in _unusable(space, geometry))
    if "flash" in loaded.spec.model.attn_implementation:
        stages = source.data["stages"]
        biased = [i for i, stage in enumerate(stages) if stage.get("attend") is not None]
        found.extend(source.problem(("stages", i, "attend"), BIAS) for i in biased)
    for i, name in enumerate(space.warm_start):
        try:
            path = catalog.find("policies", name, (loaded.folder / "policies",))
            if geometry is not None:
                _reference(path, geometry)
        except BadInput as error:
            found.extend(source.problem(("warm_start", i), line) for line in str(error).split("\n"))
    return space


def _reference(path: Path, geometry: Geometry) -> None:
    """Raises BadInput where the model cannot carry out a policy that the search is to begin with."""
    policy = Policy.from_source(read(path), RegisteredParts())
    with suppress(Infeasible):
        make_plan(resolve(policy, geometry, RegisteredParts(), geometry.tokens_per_image), geometry)


def _unusable(space: Space, geometry: Geometry) -> list[Problem]:
    """What the model cannot give to some choice of the space: a class token, a decoder layer's rows, …; and where."""
    bound = space.bind(geometry)
    gentle = {p.name: p.choices[0] if p.kind == "choice" else p.high for p in bound.parameters}
    floats = [p for p in bound.parameters if p.kind == "float"]
    middle = {**gentle, **{p.name: (float(p.low or 0) + float(p.high or 0)) / 2 for p in floats}}  # all weights count
    choices = [(p.name, option) for p in bound.parameters for option in p.choices[1:]]
    found: list[Problem] = []
    for point in (middle, *({**middle, name: option} for name, option in choices)):
        found += [at_its_definition(p, bound, point) for p in refusals(bound.fill(point), geometry)]
    known = {p.message for p in found}
    for point in (gentle, *({**gentle, name: option} for name, option in choices)):
        found += [Problem(("stages",), why) for why in _refused(bound.fill(point), geometry) if why not in known]
    return list(dict.fromkeys(found))


def _idle(source: Source, space: Space, geometry: Geometry, images: int) -> list[Located]:
    """Stages that keep more tokens, at the least that the space lets them, than `images` of the model have."""
    if geometry.tokens_per_image is None or not images:
        return []
    most, bound = geometry.tokens_per_image * images, space.bind(geometry)
    low = {p.name: p.choices[0] if p.kind == "choice" else p.low for p in bound.parameters}
    points = (low, *({**low, p.name: option} for p in bound.parameters for option in p.choices[1:]))
    found: list[Problem] = []
    for point in points:
        for stage in bound.fill(point).stages:
            if isinstance(stage, Stage) and stage.keep.kind == "tokens" and stage.keep.value > most:
                message = f"keeps {stage.keep.value} tokens; no record has more than {most}: nothing is dropped here"
                found.append(at_its_definition(Problem((*stage.keep.path, "tokens"), message), bound, point))
    return [source.problem(p.path, p.message) for p in dict.fromkeys(found)]


def _refused(policy: Policy, geometry: Geometry) -> Sequence[str]:
    """Why a model cannot carry out a policy as a whole."""
    try:
        make_plan(resolve(policy, geometry, RegisteredParts(), geometry.tokens_per_image), geometry)
    except Unusable as error:
        return [reason for _, reason in error.reasons]
    except Infeasible:
        return ()
    except BadInput as error:
        return str(error).split("\n")
    return ()


def _records(loaded: LoadedSpec, needs_answers: str) -> tuple[list[Located], Sequence[Record]]:
    """What is wrong with the records, and the good ones; none where they cannot be read here."""
    calibration = loaded.spec.calibration
    name = records_source(loaded)
    if loaded.is_broken("calibration", "records") or loaded.is_broken("calibration", "images"):
        return [], ()
    if not name.startswith("datasets:") and not Path(name).is_file():
        message = f"no such file: {name}"
        return [loaded.source.problem(("calibration", "records"), message)], ()
    images = None if calibration.images is None else str(loaded.path(calibration.images))
    if images is not None and not Path(images).is_dir():
        return [loaded.source.problem(("calibration", "images"), f"no such folder: {images}")], ()
    if name.startswith("datasets:"):
        return [], ()
    try:
        records, problems = scan_records(name, images, bool(needs_answers))
    except BadInput as error:
        return list(error.problems) or [loaded.source.problem(("calibration", "records"), str(error))], ()
    asked = calibration.search + (calibration.holdout if isinstance(calibration.holdout, int) else 2)
    counted = not any(loaded.is_broken("calibration", key) for key in ("search", "holdout"))
    if not problems and counted and asked > len(records):
        holdout = "at least 2" if calibration.holdout == "auto" else calibration.holdout
        message = f"search {calibration.search} + holdout {holdout} records are asked for, {len(records)} are there"
        problems.append(loaded.source.problem(("calibration", "search"), message))
    return _answers(loaded, needs_answers, problems, none_good=not records), records


def _answers(loaded: LoadedSpec, measure: str, problems: list[Located], none_good: bool) -> list[Located]:
    """Says which measure misses the answers: at each record, or once where no record has one."""
    missing = [p for p in problems if p.path == "answer" and p.message.startswith("missing")]
    if missing and none_good and len(missing) == len(problems):
        return [loaded.source.problem(("calibration", "records"), f"{measure} needs answers; no record has one")]
    return [replace(p, message=f"missing; {measure} compares with it") if p in missing else p for p in problems]


def model_name(loaded: LoadedSpec) -> str:
    """The model's folder relative to the spec if it is one, else the hub id as it is."""
    text = loaded.spec.model.path
    folder = loaded.path(text)
    return str(folder) if folder.is_dir() or not is_hub_id(text) else text


def is_hub_id(text: str) -> bool:
    """`owner/name`, which is no path: paths start with '.', '/' or '~', or have another number of slashes."""
    return re.fullmatch(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+", text) is not None


def records_source(loaded: LoadedSpec) -> str:
    """The records' path relative to the spec, or the `datasets:` name as it is."""
    text = loaded.spec.calibration.records
    return text if re.match(r"^datasets:", text) else str(loaded.path(text))
