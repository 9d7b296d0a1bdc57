"""The policy document (DESIGN of `autoprune/policy/1`): ordered stages and what they were made for. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Problems, shown, suggest
from autoprune.policy.guard import Guard, read_guard
from autoprune.policy.holes import holes, shown_hole
from autoprune.policy.model import AnyStage, CurveStage, KeepSpec, MixUse, Pick, ScoreUse, Stage, Use
from autoprune.policy.parity import NONE, Parity, read_parity
from autoprune.policy.read_fields import check_keys, one_of
from autoprune.policy.read_picks import read_score
from autoprune.policy.reading import read_stage

if TYPE_CHECKING:
    from autoprune.document.yaml import Source
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.lookup import PartLookup

__all__ = ["SCHEMA", "CurveStage", "KeepSpec", "MixUse", "Pick", "Policy", "Stage", "Use"]

SCHEMA = "autoprune/policy/1"
KEYS = (
    "schema",
    "name",
    "paper",
    "claims",
    "literal",
    "parity",
    "confidence",
    "assumed",
    "criteria",
    "stages",
    "guard",
)
CONFIDENCES = ("high", "low")


@dataclass(frozen=True)
class Policy:
    """What is pruned where, and how. `claims` and `literal` are documentation: they never change what
    the engine does. `confidence` says how surely the document follows its paper, `assumed` what had to be guessed.
    `criteria` are names for scores, used by the stages. `parity` is for parity runs alone. `guard`: which samples are
    pruned less."""

    name: str
    stages: tuple[AnyStage, ...]
    criteria: Mapping[str, ScoreUse] = field(default_factory=dict)
    paper: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    literal: Mapping[str, Any] = field(default_factory=dict)
    confidence: str = "high"
    assumed: str = ""
    parity: Parity = NONE
    guard: Guard = ()

    @classmethod
    def from_source(cls, source: Source, parts: PartLookup | None = None, geometry: Geometry | None = None) -> Policy:
        """The policy in a document; with `geometry`, held against that model. Raises BadInput with every mistake at its
        position."""
        return _checked(source.data, parts, geometry, source)

    @classmethod
    def parse(cls, data: Mapping[str, Any], parts: PartLookup | None = None) -> Policy:
        """The policy in plain data (what `dump` gives). Raises BadInput with every mistake."""
        return _checked(data, parts, None, None)

    def dump(self) -> dict[str, Any]:
        """Plain JSON-able data; `parse` gives an equal policy back. Curves stay curves."""
        from autoprune.policy.writing import dump

        return dump(self)

    def to_yaml(self) -> str:
        from autoprune.document.yaml import write

        return write(self.dump())


def _checked(data: Any, parts: PartLookup | None, geometry: Geometry | None, source: Source | None) -> Policy:
    from autoprune.policy.beside import problems_beside

    found = Problems()
    policy = read_partly(data, found)
    if policy is not None:
        found.extend(problems_beside(list(found), policy, parts, geometry))
    found.raise_for(source)
    if policy is None:
        raise AssertionError("a policy is missing without a problem")
    return policy


def read_partly(data: Any, found: Problems) -> Policy | None:
    """The policy with what reads well of its stages and criteria: mistakes in `found` hide no others. None where
    there is nothing to look at."""
    own = Problems()
    if not check_keys(data, (), KEYS, ("schema", "stages"), own):
        found.extend(own)
        return None
    if "schema" in data and data["schema"] != SCHEMA:
        own.add(
            ("schema",),
            "wrong-schema",
            f"must be {SCHEMA}, not {shown(data['schema'])}{suggest(data['schema'], (SCHEMA,))}",
        )
    texts = {key: _text(data, key, own) for key in ("name", "paper", "assumed")}
    confidence = _confidence(data, texts["assumed"], own)
    notes = {key: _mapping(data, key, own) for key in ("claims", "literal")}
    criteria = _criteria(data, own)
    stages = _stages(data, own)
    parity = read_parity(data["parity"], ("parity",), own) if "parity" in data else NONE
    guard = read_guard(data["guard"], ("guard",), own) if "guard" in data else ()
    open_values = [hole for key in ("stages", "criteria", "guard") for hole in holes(data.get(key), (key,))]
    for hole in open_values:
        found.add(hole.path, "hole-in-policy", f"a hole in a fixed policy: {shown_hole(hole)}", offset=hole.offset)
    found.extend(p for p in own if not any(_related(p.path, hole.path) for hole in open_values))
    return Policy(
        texts["name"],
        stages,
        criteria,
        texts["paper"],
        notes["claims"],
        notes["literal"],
        confidence,
        texts["assumed"],
        parity,
        guard,
    )


def _related(path: tuple[str | int, ...], hole: tuple[str | int, ...]) -> bool:
    """Whether a mistake at `path` only follows from the hole."""
    short = min(len(path), len(hole))
    return short > 2 and path[:short] == hole[:short]


def _text(data: Mapping[str, Any], key: str, found: Problems) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        found.add((key,), "wrong-type", f"must be text, not {shown(value)}")
        return ""
    return value


def _confidence(data: Mapping[str, Any], assumed: str, found: Problems) -> str:
    """`low` goes with what was assumed, and only with that."""
    value = data.get("confidence", "high")
    if one_of(value, ("confidence",), CONFIDENCES, found) and (value == "low") != bool(assumed):
        key = "confidence" if value == "low" else "assumed"
        found.add((key,), "conflict", "`confidence: low` and `assumed: …` stand together: what is a guess, and which")
    return str(value)


def _mapping(data: Mapping[str, Any], key: str, found: Problems) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, Mapping):
        found.add((key,), "wrong-type", f"must be a mapping, not {shown(value)}")
        return {}
    return dict(value)


def _criteria(data: Mapping[str, Any], found: Problems) -> dict[str, ScoreUse]:
    named = _mapping(data, "criteria", found)
    read = {name: read_score(value, ("criteria", name), found) for name, value in named.items()}
    return {name: score for name, score in read.items() if score is not None}


def _stages(data: Mapping[str, Any], found: Problems) -> tuple[AnyStage, ...]:
    listed = data.get("stages", [])
    if not isinstance(listed, list):
        found.add(
            ("stages",),
            "wrong-type",
            "stages are a list of at least one stage; there are none"
            if listed is None
            else f"stages are a list, not {shown(listed)}",
        )
        return ()
    read = [read_stage(value, ("stages", i), found) for i, value in enumerate(listed)]
    return tuple(stage for stage in read if stage is not None)
