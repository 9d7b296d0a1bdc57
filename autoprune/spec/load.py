"""Read a spec file: typed data, goals, and the documents it names, with every mistake positioned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoprune.document.problems import Problems, from_pydantic
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput, Located
from autoprune.policy import catalog
from autoprune.spec.expressions import ExpressionError, parse_constraint, parse_objective
from autoprune.spec.goals import Constraint, Objective
from autoprune.spec.models import Spec


@dataclass(frozen=True)
class LoadedSpec:
    """A spec that reads well by itself; `check` holds it against the registries, the records and the model.

    `objective_source` and `space_source` are the documents that goals and space stand in (the spec itself if inline).
    """

    spec: Spec
    source: Source
    folder: Path
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    select: Objective | None
    objective_source: Source
    space_source: Source

    @property
    def state_folder(self) -> Path:
        """Where everything embedded lives: `.autoprune/` beside the spec."""
        return self.folder / ".autoprune"

    def path(self, text: str) -> Path:
        """A path of the spec, relative to the spec's own folder."""
        given = Path(text).expanduser()
        return given if given.is_absolute() else (self.folder / given)

    @contextmanager
    def at(self, path: tuple[str, ...]) -> Iterator[None]:
        """A BadInput without a position that is raised inside stands at this key, where the spec has it."""
        try:
            yield
        except BadInput as error:
            if error.problems or path not in self.source.places:
                raise
            raise BadInput(problems=[self.source.problem(path, str(error))]) from error


def load(path: str | Path) -> LoadedSpec:
    """Read and type a spec. Raises BadInput with all mistakes of the spec and the documents it names."""
    path = Path(path)
    source = read(path)
    spec = _typed(source)
    folder = path.resolve().parent
    found: list[Located] = []
    objective_source, values, prefix = _objective_document(spec, source, folder, found)
    objectives = _objectives(values, prefix, objective_source, found)
    constraints = _constraints(spec, source, found)
    select = _select(spec, source, found)
    space_source = _space_document(spec, source, folder, found)
    if found or space_source is None:
        raise BadInput(problems=found)
    return LoadedSpec(spec, source, folder, objectives, constraints, select, objective_source, space_source)


def _typed(source: Source) -> Spec:
    problems = Problems()
    if not isinstance(source.data, dict):
        problems.add((), "a spec is a mapping; `autoprune init` writes a commented one")
        problems.raise_for(source)
    try:
        return Spec.model_validate(source.data)
    except ValidationError as error:
        problems.extend(from_pydantic(error, model=Spec))
    problems.raise_for(source)
    raise AssertionError("unreachable")  # raise_for raised: there was at least one problem


def _objective_document(
    spec: Spec, source: Source, folder: Path, found: list[Located]
) -> tuple[Source, Sequence[Any], tuple[str | int, ...]]:
    """-> (document, objectives as written, their key path in it)."""
    if not isinstance(spec.objectives, str):
        return source, spec.objectives, ("objectives",)
    try:
        document = read(_named(spec.objectives, "objectives", folder))
    except BadInput as error:
        found.extend(error.problems or [source.problem(("objectives",), str(error))])
        return source, (), ()
    data = document.data
    listed = data.get("objectives") if isinstance(data, dict) else None
    if not isinstance(listed, list) or data.get("schema") != "autoprune/objectives/1":
        found.append(
            document.problem((), "an objectives document has `schema: autoprune/objectives/1` and a list `objectives`")
        )
        return document, (), ()
    return document, listed, ("objectives",)


def _named(text: str, kind: catalog.Kind, folder: Path) -> Path:
    """A path (anything that looks like one) relative to the spec, else a catalog name."""
    if text.endswith((".yaml", ".yml")) or "/" in text:
        return folder / Path(text).expanduser()
    return catalog.find(kind, text, (folder / kind,))


def _objectives(
    values: Sequence[Any], prefix: tuple[str | int, ...], document: Source, found: list[Located]
) -> tuple[Objective, ...]:
    read_well: list[Objective] = []
    for i, value in enumerate(values):
        try:
            objective = parse_objective(value)
        except ExpressionError as error:
            found.append(document.problem((*prefix, i), str(error), offset=error.offset))
            continue
        if any(objective.label == other.label for other in read_well):
            found.append(document.problem((*prefix, i), f"{objective.label} is already an objective"))
        read_well.append(objective)
    if not values and not found:
        found.append(document.problem(prefix, "a search needs at least one objective"))
    if len(read_well) > 3:
        found.append(document.problem(prefix, f"{len(read_well)} objectives; a front of more than 3 is not supported"))
    return tuple(read_well)


def _constraints(spec: Spec, source: Source, found: list[Located]) -> tuple[Constraint, ...]:
    read_well: list[Constraint] = []
    for i, text in enumerate(spec.constraints):
        try:
            constraint = parse_constraint(text)
        except ExpressionError as error:
            found.append(source.problem(("constraints", i), str(error), offset=error.offset))
            continue
        if any(constraint.text == other.text for other in read_well):
            found.append(source.problem(("constraints", i), f"'{constraint.text}' stands here twice"))
            continue
        read_well.append(constraint)
    return tuple(read_well)


def _select(spec: Spec, source: Source, found: list[Located]) -> Objective | None:
    if spec.output.select is None:
        return None
    try:
        return parse_objective(spec.output.select)
    except ExpressionError as error:
        found.append(source.problem(("output", "select"), str(error), offset=error.offset))
        return None


def _space_document(spec: Spec, source: Source, folder: Path, found: list[Located]) -> Source | None:
    if isinstance(spec.search_space, dict):
        return source.sub(("search_space",))
    try:
        return read(_named(spec.search_space, "search_spaces", folder))
    except BadInput as error:
        found.extend(error.problems or [source.problem(("search_space",), str(error))])
        return None
