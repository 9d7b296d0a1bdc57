"""Where strategies stand that vary only some of a space's parameters: the best known point of the space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoprune.search.schedule import Form

if TYPE_CHECKING:
    from autoprune.policy.parameters import Parameter
    from autoprune.ports import TrialRecord
    from autoprune.search.strategy import Task


def anchor(task: Task) -> dict[str, Any]:
    """The reference that the space expresses, meets every constraint and has the best first objective; where there is
    none, the middle of every range and each first option."""
    first = task.objectives[0]
    sign = 1 if first.direction == "minimize" else -1

    def feasible(record: TrialRecord) -> bool:
        return record.state == "complete" and all(slack <= 0 for slack in record.constraints.values())

    names = {p.name for p in task.proposals.parameters}
    known = [r for r in task.known("references") if r.arm == task.arm and set(r.params) == names and feasible(r)]
    if known:
        return dict(min(known, key=lambda r: sign * r.values[first.label]).params)
    return middle(task.proposals.parameters)


def middle(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """The middle of every range, and each first option."""
    return {p.name: p.choices[0] if p.kind == "choice" else p.middle for p in parameters}


def gentle(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same where every stage keeps as much as it may."""
    parameters = task.proposals.parameters
    return {**values, **{p.name: p.high for p in parameters if p.name in task.proposals.keeps and p.kind != "choice"}}


def form(task: Task, values: Mapping[str, Any]) -> Form:
    """How the policy at these values chooses its tokens, wherever the space allows stages."""
    proposals = task.proposals
    made = Form.of(proposals.filled(values), proposals.depth, proposals.sites, proposals.tokens)
    return replace(made, values=dict(values))
