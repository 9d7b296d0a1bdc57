"""Measure requests held against the registry: a measure's declaration, its options as a typed config. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from autoprune.document.problems import suggest
from autoprune.errors import BadInput
from autoprune.measures.capture import State
from autoprune.measures.registry import MeasureInfo, Need, find, names
from autoprune.ports import MeasureRequest


@dataclass(frozen=True)
class Requested:
    """A measure with valid options, under the label it carries in results."""

    label: str
    info: MeasureInfo
    config: Any

    @property
    def needs(self) -> frozenset[Need]:
        """What it needs with these options."""
        return self.info.needs_of(self.config)

    @property
    def taken(self) -> str | None:
        """What its numbers are taken from: the pass over the records' answers, one over the model's own, a stopwatch.
        None: they are computed."""
        if self.info.cost:
            return None
        if self.info.timed:
            return f"time of {self.label}"
        return f"own answers of {self.label}" if "own_answers" in self.info.needs else "answers"

    def states(self, depth: int) -> tuple[State, ...]:
        """Which hidden states it looks at. Raises BadInput for a layer the model lacks."""
        if "states" not in self.needs:
            return ()
        try:
            return tuple(self.config.states(depth))
        except ValueError as error:
            raise BadInput(f"measure {self.label!r}: {error}", code="beyond-model") from error

    @property
    def version(self) -> str:
        """Version and options: everything of a measure that its numbers depend on."""
        return f"{self.info.version}:{self.config.model_dump_json()}"


def parse(request: MeasureRequest) -> Requested:
    """The request's measure and config. Raises BadInput for an unknown measure or option, naming what is allowed."""
    info = find(request.name)
    if info is None:
        known = ", ".join(names())
        raise BadInput(
            f"unknown measure {request.name!r}{suggest(request.name, names())}; known: {known}", code="unknown-measure"
        )
    try:
        config = info.config.model_validate(dict(request.options))
    except ValidationError as error:
        raise BadInput("\n".join(_explained(info, request.options, dict(e)) for e in error.errors())) from error
    return Requested(request.label, info, config)


def with_defaults(name: str) -> MeasureRequest:
    """A registered measure, its options filled in with their defaults."""
    return MeasureRequest(name, parse(MeasureRequest(name)).config.model_dump(mode="json"))


def requested(requests: Sequence[MeasureRequest]) -> dict[str, Requested]:
    """Requests by label. Raises BadInput with every mistake among them."""
    found: dict[str, Requested] = {}
    problems: list[str] = []
    for request in requests:
        try:
            one = parse(request)
        except BadInput as error:
            problems.append(str(error))
            continue
        if found.setdefault(request.label, one) != one:
            problems.append(f"two different measures are labelled {request.label!r}")
    if problems:
        raise BadInput("\n".join(problems))
    return found


def _explained(info: MeasureInfo, options: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = sorted(info.config.model_fields)
        shown = f"allowed: {', '.join(allowed)}" if allowed else "it has no options"
        return f"measure {info.name!r}: unknown option {key!r}{suggest(key, allowed)}; {shown}"
    return f"measure {info.name!r}: option {key!r}: {error['msg']} (found {error['input']!r})"
