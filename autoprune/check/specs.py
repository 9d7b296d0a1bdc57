"""A spec held against everything that can be known without running it: registries, records, the model's config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from autoprune.check.goals import Goals, shared_device
from autoprune.check.records import scanned
from autoprune.check.spaces import idle, space_of
from autoprune.document.problems import from_pydantic, suggest
from autoprune.document.yaml import Source
from autoprune.errors import BadInput, Located
from autoprune.measures.least import unmeetable
from autoprune.models import read_geometry
from autoprune.models.folder import locate, only_pickled
from autoprune.policy.arms import arms
from autoprune.policy.geometry import Geometry
from autoprune.policy.space import BoundSpace, Space
from autoprune.ports import MeasureRequest
from autoprune.search import strategy as strategies
from autoprune.search.fitting import misfit, searched
from autoprune.search.quick import quickened
from autoprune.spec.expressions import request
from autoprune.spec.goals import Constraint, Objective
from autoprune.spec.load import LoadedSpec, load_partly
from autoprune.spec.models import StrategySpec

NO_LAYERS = "auto has nothing to narrow: no parameter of the space that is searched is a layer"
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
        unmet, places = [], 0
        for arm, space in self.spaces.items():
            loaded, bound = replace(self.loaded, space_source=self.documents[arm]), space.bind(geometry)
            wrong = misfit(loaded, self.strategy, bound, self.objectives, self.constraints)
            found.extend(wrong)
            asked = bound if wrong else searched(self.strategy, self.documents[arm].data, bound)
            unmet.append(unmeetable(loaded, asked, self.constraints))
            places += len(asked.slots)
        if self.loaded.spec.search.layers == "auto" and not places:
            found.append(self.loaded.source.problem(("search", "layers"), "nothing-to-narrow", NO_LAYERS))
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


def check(path: str | Path, *, quick: bool = False) -> Checked:
    """Read and check a spec, or what a quick search makes of it. Raises BadInput with every mistake found, each
    positioned."""
    loaded = load_partly(path)
    goals = Goals(loaded)
    objectives = goals.objectives()
    constraints = goals.constraints()
    select = goals.select(objectives)
    for name in ALWAYS:
        if not any(known.name == name for known in goals.by_label.values()):
            goals.fill(request(name), loaded.source, ("objectives",), 0)
    studied = tuple(goals.by_label.values())
    screen = goals.screen()
    found = goals.found
    found.extend(shared_device(loaded, goals.by_label.values()))
    warnings: list[Located] = []
    folder, geometry = _model(loaded, found, warnings)
    if geometry is not None:
        found.extend(goals.layers(geometry.depth))
        if "flash" in loaded.spec.model.attn_implementation and "flash_attention" in geometry.lacks:
            found.append(
                loaded.source.problem(
                    ("model", "attn_implementation"), "unsupported-by-model", geometry.lacks["flash_attention"]
                )
            )
    documents = {} if loaded.is_broken("search_space") else arms(loaded.space_source, found)
    read_well = {arm: space_of(replace(loaded, space_source=each), geometry, found) for arm, each in documents.items()}
    spaces = {arm: space for arm, space in read_well.items() if space is not None}
    strategy = _strategy(loaded, found)
    if quick and not found:
        strategy = quickened(strategy)
    problems, records = scanned(loaded, goals.needs_answers)
    found.extend(problems)
    if geometry is not None and not found:
        most = max((len(r.images) for r in records), default=0)
        unreached = (idle(documents[arm], space, geometry, most) for arm, space in spaces.items())
        warnings.extend(dict.fromkeys(warning for each in unreached for warning in each))
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
        found.append(loaded.source.problem(path, "unknown-strategy", message))
        return asked
    try:
        options = info.options.model_validate(asked.options).model_dump(mode="json")
    except ValidationError as error:
        for problem in from_pydantic(error, (*path, asked.name), model=info.options, data=asked.options):
            found.append(loaded.source.problem(problem.path, problem.code, problem.message, key=problem.key))
        return asked
    return StrategySpec(name=asked.name, options=options)


def _model(loaded: LoadedSpec, found: list[Located], warnings: list[Located]) -> tuple[Path | None, Geometry | None]:
    if loaded.is_broken("model", "path"):
        return None, None
    source, name = loaded.source, model_name(loaded)
    try:
        folder = locate(name, loaded.spec.model.revision)
        if only_pickled(folder):
            message = f"{folder} holds its weights as pickles only, which are never read; save them as safetensors"
            found.append(source.problem(("model", "path"), "not-safetensors", message))
        return folder, read_geometry(folder)
    except BadInput as error:
        if is_hub_id(name):
            warnings.append(source.problem(("model", "path"), error.code, f"{error}; model checks skipped"))
        else:
            found.extend(error.problems or [source.problem(("model", "path"), error.code, str(error))])
    return None, None


def model_name(loaded: LoadedSpec) -> str:
    """The model's folder relative to the spec if it is one, else the hub id as it is."""
    text = loaded.spec.model.path
    folder = loaded.path(text)
    return str(folder) if folder.is_dir() or not is_hub_id(text) else text


def is_hub_id(text: str) -> bool:
    """`owner/name`, which is no path: paths start with '.', '/' or '~', or have another number of slashes."""
    return re.fullmatch(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+", text) is not None
