"""Read a spec file: typed data, goals, and the documents it names, with every mistake positioned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.document.problems import Path as KeyPath
from autoprune.document.problems import Problems
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput, Located
from autoprune.policy import catalog
from autoprune.ports import MeasureRequest
from autoprune.spec.expressions import ExpressionError, parse_constraint, parse_objective
from autoprune.spec.goals import Constraint, Objective
from autoprune.spec.models import Spec
from autoprune.spec.paths import astray, is_path
from autoprune.spec.salvage import salvage


@dataclass(frozen=True)
class LoadedSpec:
    """A spec that reads well by itself; `check` holds it against the registries, the records and the model.

    `objective_source` and `space_source` are the documents that goals and space stand in (the spec itself if inline);
    `objective_paths` and `constraint_paths` say where in them each goal stands. Of a spec that was read partly,
    `problems` are the mistakes so far, `broken` the paths of the spec where something else stands for what is wrong,
    and `named` the measures of constraints that go wrong after them; all are empty after `load`.
    """

    spec: Spec
    source: Source
    folder: Path
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    select: Objective | None
    objective_source: Source
    space_source: Source
    objective_paths: tuple[KeyPath, ...] = ()
    constraint_paths: tuple[KeyPath, ...] = ()
    named: tuple[tuple[KeyPath, MeasureRequest], ...] = ()
    problems: tuple[Located, ...] = ()
    broken: frozenset[KeyPath] = frozenset()

    def is_broken(self, *path: str | int) -> bool:
        """Whether the spec's own value at the path, or one around it, was wrong: then nothing follows from it."""
        return any(path[: len(wrong)] == wrong for wrong in self.broken)

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
            raise BadInput(problems=[self.source.problem(path, error.code, str(error))]) from error


def load(path: str | Path) -> LoadedSpec:
    """Read and type a spec. Raises BadInput with all mistakes of the spec and the documents it names."""
    loaded = load_partly(path)
    if loaded.problems:
        raise BadInput(problems=loaded.problems)
    return loaded


def load_partly(path: str | Path) -> LoadedSpec:
    """Read a spec as far as it goes: mistakes are in `problems`. Raises BadInput where there is no spec to read."""
    path = Path(path)
    source = read(path)
    if not isinstance(source.data, dict):
        problems = Problems()
        problems.add((), "wrong-type", "a spec is a mapping; `autoprune init` writes a commented one")
        problems.raise_for(source)
    read_well = salvage(source.data)
    spec, broken = read_well.spec, set(read_well.broken)
    folder = path.resolve().parent
    found = Problems(read_well.problems).located(source)
    for key, mistake in astray(spec, folder, broken):
        found.append(source.problem(key, mistake.code, str(mistake)))
        broken.add(key)
    objective_source, values, prefix = _objective_document(spec, source, folder, found, broken)
    skipped = {p for p in broken if p[: len(prefix)] == prefix} if objective_source is source else set()
    objectives = _objectives(values, prefix, objective_source, found, skipped)
    named: list[tuple[KeyPath, MeasureRequest]] = []
    constraints = _constraints(spec, source, found, broken, named)
    select = _select(spec, source, found, broken)
    space_source = None if ("search_space",) in broken else _space_document(spec, source, folder, found)
    if space_source is None:
        broken.add(("search_space",))
        space_source = source
    return LoadedSpec(
        spec,
        source,
        folder,
        tuple(objectives.values()),
        tuple(constraints.values()),
        select,
        objective_source,
        space_source,
        tuple(objectives),
        tuple(constraints),
        tuple(named),
        tuple(found),
        frozenset(broken),
    )


def _objective_document(
    spec: Spec, source: Source, folder: Path, found: list[Located], broken: set[KeyPath]
) -> tuple[Source, Sequence[Any], tuple[str | int, ...]]:
    """-> (document, objectives as written, their key path in it)."""
    if ("objectives",) in broken:
        return source, (), ()
    if not isinstance(spec.objectives, str):
        return source, spec.objectives, ("objectives",)
    try:
        document = read(_named(spec.objectives, "objectives", folder))
    except BadInput as error:
        found.extend(error.problems or [source.problem(("objectives",), error.code, str(error))])
        return source, (), ()
    data = document.data
    listed = data.get("objectives") if isinstance(data, dict) else None
    if not isinstance(listed, list) or data.get("schema") != "autoprune/objectives/1":
        found.append(
            document.problem(
                (),
                "wrong-schema",
                "an objectives document has `schema: autoprune/objectives/1` and a list `objectives`",
            )
        )
        return document, (), ()
    return document, listed, ("objectives",)


def _named(text: str, kind: catalog.Kind, folder: Path) -> Path:
    """A path (anything that looks like one) relative to the spec, else a catalog name."""
    if is_path(text):
        return folder / Path(text).expanduser()
    return catalog.find(kind, text, (folder / kind,))


def _objectives(
    values: Sequence[Any], prefix: KeyPath, document: Source, found: list[Located], skipped: set[KeyPath]
) -> dict[KeyPath, Objective]:
    """Key path -> objective; `skipped` are paths whose mistakes are known."""
    read_well: dict[KeyPath, Objective] = {}
    before = len(found)
    for i, value in enumerate(values):
        path = (*prefix, i)
        if path in skipped:
            continue
        try:
            objective = parse_objective(value)
        except ExpressionError as error:
            found.append(document.problem(path, error.code, str(error), offset=error.offset))
            continue
        if any(objective.label == other.label for other in read_well.values()):
            found.append(document.problem(path, "repeated", f"{objective.label} is already an objective"))
        read_well[path] = objective
    if not values and prefix and not skipped and len(found) == before:
        found.append(document.problem(prefix, "empty-value", "a search needs at least one objective"))
    if len(values) > 3:
        found.append(
            document.problem(
                prefix, "too-many-objectives", f"{len(values)} objectives; a front of more than 3 is not supported"
            )
        )
    return read_well


def _constraints(
    spec: Spec, source: Source, found: list[Located], broken: set[KeyPath], named: list[tuple[KeyPath, MeasureRequest]]
) -> dict[KeyPath, Constraint]:
    """Key path -> constraint; `named` gets the measures of those that go wrong after it."""
    read_well: dict[KeyPath, Constraint] = {}
    for i, text in enumerate(spec.constraints):
        path = ("constraints", i)
        if path in broken:
            continue
        try:
            constraint = parse_constraint(text)
        except ExpressionError as error:
            if error.measure is not None:
                named.append((path, error.measure))
            found.append(source.problem(path, error.code, str(error), offset=error.offset))
            continue
        if any(constraint.text == other.text for other in read_well.values()):
            found.append(source.problem(path, "repeated", f"'{constraint.text}' stands here twice"))
            continue
        read_well[path] = constraint
    return read_well


def _select(spec: Spec, source: Source, found: list[Located], broken: set[KeyPath]) -> Objective | None:
    if spec.output.select is None:
        return None
    try:
        return parse_objective(spec.output.select)
    except ExpressionError as error:
        broken.add(("output", "select"))
        found.append(source.problem(("output", "select"), error.code, str(error), offset=error.offset))
        return None


def _space_document(spec: Spec, source: Source, folder: Path, found: list[Located]) -> Source | None:
    if isinstance(spec.search_space, dict):
        return source.sub(("search_space",))
    try:
        return read(_named(spec.search_space, "search_spaces", folder))
    except BadInput as error:
        found.extend(error.problems or [source.problem(("search_space",), error.code, str(error))])
        return None
