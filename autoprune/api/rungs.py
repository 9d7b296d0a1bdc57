"""The rungs and the screen of a checked spec, as the driver climbs them."""

from __future__ import annotations

import math

from autoprune.check import Checked
from autoprune.measures import registry as measures
from autoprune.ports import MeasureRequest
from autoprune.search.plan import Rung
from autoprune.spec.goals import Objective


def rungs(checked: Checked) -> tuple[Rung, ...]:
    """The screen, then the rungs from the fewest records to the most; those that would be all records are left out."""
    search, records = checked.loaded.spec.search, checked.loaded.spec.calibration.search
    limits = sorted({max(1, math.floor(share * records + 0.5)) for share in search.rungs} - {records})
    labels = tuple(m.label for m in checked.measures)
    own = [Rung(limit, labels, checked.objectives, checked.constraints, search.drop) for limit in limits]
    return (*_screen(checked), *own)


def _screen(checked: Checked) -> list[Rung]:
    """Compared by its measure and the costs among the objectives: so it drops what is worse than others as cheap."""
    asked, screen = checked.loaded.spec.search.screen, checked.screen
    if asked is None or screen is None:
        return []
    goals = [o for o in checked.objectives if _is_cost(o.measure)]
    goals = goals or [Objective(next(m for m in checked.measures if m.name == "budget"), "minimize")]
    bounds = tuple(c for c in checked.constraints if _is_cost(c.measure))
    labels = tuple(dict.fromkeys([screen.label, *(o.label for o in goals), *(c.label for c in bounds)]))
    return [Rung(asked.records, labels, (screen, *goals), bounds, asked.drop, "screened")]


def _is_cost(measure: MeasureRequest) -> bool:
    info = measures.find(measure.name)
    return info is not None and info.cost
