"""A document by itself, checked as what it is: a spec, a policy or a search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoprune.check.spaces import checked_space, refused
from autoprune.check.specs import Checked, check
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput, Located
from autoprune.models import read_geometry
from autoprune.models.folder import locate
from autoprune.policy.arms import arms
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.holes import holes
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.refusals import refusals

Kind = Literal["spec", "policy", "space"]
KINDS: Mapping[str, Kind] = {"autoprune/spec/1": "spec", "autoprune/policy/1": "policy", "autoprune/space/1": "space"}
SPEC_KEYS = ("model", "calibration", "search_space", "objectives")
SPACE_KEYS = ("params", "budget", "order", "warm_start", "arms")


@dataclass(frozen=True)
class CheckedDocument:
    """A policy or a space without mistakes, on the model where one was given."""

    kind: Kind
    rows: tuple[tuple[str, str], ...]
    warnings: tuple[Located, ...] = ()

    def summary(self) -> list[tuple[str, str]]:
        """What it is, for people."""
        return list(self.rows)


def check_any(path: str | Path, model: str | None = None) -> Checked | CheckedDocument:
    """Check a document; `model`: a folder or hub id, for a policy or a space (a spec names its own). Raises BadInput
    with every mistake found, each positioned."""
    source = read(path)
    kind = kind_of(source.data)
    if kind == "spec":
        if model is not None:
            raise BadInput("--model is for policies and search spaces: a spec names its model itself", code="conflict")
        return check(path)
    geometry = None if model is None else read_geometry(locate(model))
    rows = [("model", str(model))] if model is not None else []
    found: list[Located] = []
    if kind == "policy":
        rows = [*_policy(source, geometry, found), *rows]
    else:
        rows = [*_space(source, Path(path).resolve().parent, geometry, found), *rows]
    if found:
        raise BadInput(problems=sorted(dict.fromkeys(found), key=lambda p: (p.file, p.line, p.column)))
    return CheckedDocument(kind, tuple(rows))


def kind_of(data: Any) -> Kind:
    """What a document is: what its `schema` says, else what its keys say."""
    if not isinstance(data, Mapping):
        return "spec"
    said = str(data.get("schema", ""))
    if said in KINDS:
        return KINDS[said]
    if not {"stages", "arms"} & set(data) or any(key in data for key in SPEC_KEYS):
        return "spec"
    open_values = any(True for key in ("stages", "criteria") for _ in holes(data.get(key)))
    return "space" if open_values or any(key in data for key in SPACE_KEYS) else "policy"


def _policy(source: Source, geometry: Geometry | None, found: list[Located]) -> list[tuple[str, str]]:
    policy = Policy.from_source(source, RegisteredParts(), geometry)
    if geometry is not None:
        found += [source.problem(p.path, p.code, p.message, key=p.key) for p in refusals(policy, geometry)]
        known = {p.message for p in found}
        found += [
            source.problem(("stages",), "unsupported-by-model", why)
            for why in refused(policy, geometry)
            if why not in known
        ]
    return [("policy", policy.name), ("stages", str(len(policy.stages)))]


def _space(source: Source, folder: Path, geometry: Geometry | None, found: list[Located]) -> list[tuple[str, str]]:
    rows = []
    for arm, document in arms(source, found).items():
        space = checked_space(document, folder, geometry, found)
        if space is not None:
            bound = None if geometry is None or found else space.bind(geometry)
            free = [p.name for p in (space.params if bound is None else bound.parameters)]
            rows.append((f"arm {arm}" if arm else f"space {space.name}", ", ".join(free) or "no holes"))
    return rows
