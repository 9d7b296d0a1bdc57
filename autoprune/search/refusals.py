"""When a strategy makes no sense for a study, said before anything is measured."""

from __future__ import annotations

from typing import Any

from autoprune.errors import BadInput
from autoprune.measures import registry as measures
from autoprune.policy.bound import BUDGET
from autoprune.search.anchor import middle
from autoprune.search.schedule import Form
from autoprune.search.strategy import Declared


def no_quality(declared: Declared, options: Any) -> str | None:
    """Nothing says what pruning may lose, or `measure` names something else."""
    goals = [c.measure for c in declared.constraints] + [o.measure for o in declared.objectives]
    known = dict.fromkeys(m.label for m in goals if (info := measures.find(m.name)) is not None and info.by_record)
    if not known:
        return "objectives and constraints are all costs: nothing says what pruning may lose"
    if options.measure is not None and options.measure not in known:
        return f"measure: {options.measure!r} is no quality of this study; there are: {', '.join(known)}"
    return None


def no_form(declared: Declared, options: Any) -> str | None:
    """A schedule cannot stand in place of the space's stages."""
    space = declared.space
    document = space.fill(middle(space.parameters)).dump()
    try:
        Form.of(document, space.geometry.depth, space.sites, space.geometry.tokens_per_image)
    except BadInput as error:
        return str(error)
    return None


def no_constraint(declared: Declared, options: Any) -> str | None:
    """Without a constraint on a quality the smallest budget of all is as good as any."""
    quality = [
        c for c in declared.constraints if (info := measures.find(c.measure.name)) is not None and info.by_record
    ]
    return None if quality else "it looks for the smallest budget within the constraints; none says what may be lost"


def no_range(declared: Declared, options: Any) -> str | None:
    """Neither the budget nor a keep is left open."""
    space = declared.space
    names = {p.name for p in space.parameters if p.kind != "choice"}
    if BUDGET in names or (space.budget is None and space.keeps & names):
        return None
    return "the space leaves neither its budget nor any keep open: there is nothing to bisect"
