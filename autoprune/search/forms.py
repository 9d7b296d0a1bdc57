"""The ways to choose tokens that a search space has, and how far its own policies reach."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.policy.bound import BUDGET
from autoprune.policy.budget import Infeasible
from autoprune.search.anchor import anchor, form
from autoprune.search.schedule import Form, Schedule, schedule_of

if TYPE_CHECKING:
    from autoprune.search.plan import Proposals
    from autoprune.search.strategy import Task


def forms(task: Task, most: int) -> tuple[Form, ...]:
    """At most so many different ones: that of the best point known, then those with one choice of it at another option.
    Raises BadInput, with the first reason, where the space has none."""
    found: dict[str, Form] = {}
    refused: BadInput | Infeasible | None = None
    for values in _options(anchor(task), task.proposals):
        try:
            made = form(task, values)
        except (BadInput, Infeasible) as error:
            refused = refused or error
            continue
        found.setdefault(_signature(made), made)
        if len(found) == most:
            break
    if not found:
        raise BadInput(f"no schedule can stand in this space: {refused}")
    return tuple(found.values())


def _options(values: Mapping[str, Any], proposals: Proposals) -> Iterator[Mapping[str, Any]]:
    yield values
    for p in proposals.parameters:
        for option in p.choices:
            yield {**values, p.name: option}


def _signature(form: Form) -> str:
    """Forms with the same one make the same policies of every schedule."""
    falling = {layer: Fraction(1, i + 2) * form.start.at(layer) for i, layer in enumerate(form.layers)}
    return json.dumps(form.document(Schedule.of(form.depth, falling)), sort_keys=True, default=str)


@dataclass(frozen=True)
class Reach:
    """Between which budgets the space's policies lie, and the least of N that one of them leaves (above 0)."""

    low: Fraction
    high: Fraction
    keep: Fraction


LEAST = Fraction(1, 50)  # a ladder of keeps needs an end above 0


def reach(proposals: Proposals) -> Reach:
    """The budgets that the space asks for, else those of its policies with all numbers at their low or high ends, from
    which the least keep is read off as well."""
    budgets, keeps = [], []
    for values in _ends(proposals):
        try:
            kept = schedule_of(proposals.candidate(values).canonical, proposals.tokens)
        except (BadInput, Infeasible):
            continue
        budgets.append(kept.budget(proposals.tokens))
        keeps.append(kept.layers[-1])
    least = max(LEAST, Fraction(1, proposals.tokens or 1000))
    keep = min(max(min(keeps, default=least), least), Fraction(1, 2))
    asked = next((p for p in proposals.parameters if p.name == BUDGET), None)
    if asked is not None and asked.low is not None and asked.high is not None:
        return Reach(Fraction(asked.low), Fraction(asked.high), keep)
    return Reach(min(budgets, default=least), max(budgets, default=Fraction(1)), keep)


def _ends(proposals: Proposals) -> Iterator[Mapping[str, Any]]:
    for end in ("low", "high"):
        yield {p.name: p.choices[0] if p.kind == "choice" else getattr(p, end) for p in proposals.parameters}
