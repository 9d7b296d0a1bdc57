"""A search space held against the parts and a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from autoprune.document.problems import Problem
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput, Located
from autoprune.models.limits import BIAS
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy, Stage
from autoprune.policy.geometry import Geometry
from autoprune.policy.space import Space
from autoprune.policy.space_check import at_its_definition
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import Unusable, make_plan
from autoprune.pruning.refusals import refusals
from autoprune.spec.load import LoadedSpec


def space_of(loaded: LoadedSpec, geometry: Geometry | None, found: list[Located]) -> Space | None:
    """The space that a spec, or an arm of it, searches; mistakes are added to `found`."""
    source = loaded.space_source
    space = checked_space(source, loaded.folder, geometry, found)
    if space is not None and "flash" in loaded.spec.model.attn_implementation:
        biased = [i for i, stage in enumerate(source.data["stages"]) if stage.get("attend") is not None]
        found.extend(source.problem(("stages", i, "attend"), "unsupported-by-model", BIAS) for i in biased)
    return space


def checked_space(source: Source, folder: Path, geometry: Geometry | None, found: list[Located]) -> Space | None:
    """The space in a document, whose own policies lie in `folder`; None, or mistakes added to `found`."""
    try:
        space = Space.from_source(source, RegisteredParts(), geometry)
    except BadInput as error:
        found.extend(error.problems or [source.problem((), error.code, str(error))])
        return None
    if geometry is not None:
        found.extend(source.problem(p.path, p.code, p.message, key=p.key) for p in _unusable(space, geometry))
    for i, name in enumerate(space.warm_start):
        try:
            path = catalog.find("policies", name, (folder / "policies",))
            if geometry is not None:
                _reference(path, geometry)
        except BadInput as error:
            found.extend(source.problem(("warm_start", i), error.code, line) for line in str(error).split("\n"))
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
        found += [
            Problem(("stages",), "unsupported-by-model", why)
            for why in refused(bound.fill(point), geometry)
            if why not in known
        ]
    return list(dict.fromkeys(found))


def idle(source: Source, space: Space, geometry: Geometry, images: int) -> list[Located]:
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
                found.append(
                    at_its_definition(Problem((*stage.keep.path, "tokens"), "nothing-dropped", message), bound, point)
                )
    return [source.problem(p.path, p.code, p.message) for p in dict.fromkeys(found)]


def refused(policy: Policy, geometry: Geometry) -> Sequence[str]:
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
