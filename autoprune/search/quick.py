"""The quick search: references, a table of sensitivities, its best schedules verified; nothing is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.search.strategies.sensitivity import SensitivityOptions
from autoprune.search.tabulate import PHASE
from autoprune.search.verifying import VERIFY
from autoprune.spec.models import StrategySpec

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord
    from autoprune.search.plan import StudyPlan

NAME = "sensitivity"


def quickened(asked: StrategySpec) -> StrategySpec:
    """What a quick search does in place of a strategy; options of `sensitivity` itself stay as they are. Another
    strategy is another study."""
    given = asked.options if asked.name == NAME else {}
    options = SensitivityOptions.model_validate({**given, "then": "none"})
    return StrategySpec(name=NAME, options=options.model_dump(mode="json"))


def remarks(plan: StudyPlan, asked: StrategySpec, records: Sequence[TrialRecord]) -> list[str]:
    """What a quick search did, and what the strategy that was asked for would add."""
    measured = [r for r in records if r.origin != "baseline" and r.state in ("complete", "partial")]
    entries = [r for r in measured if r.phase == PHASE]
    verified = [r for r in measured if r.phase == VERIFY]
    cost, spent = (sum(r.share for r in some if not r.cached) for some in (entries, measured))
    limits = sorted({r.limit for r in entries if r.limit is not None})
    if entries:
        table = f"a table of {len(entries)} entries on {limits[0]} records each ({cost:.1f} trials)"
        did = f"{table}, and {len(verified)} of its schedules measured in full; {spent:.1f} of {plan.trials} trials"
    else:
        did = f"nothing but references: the share of {plan.trials} trials that a table may cost pays for none"
    names = [p.name for p in plan.proposals.parameters]
    full = f"a full search (without --quick: {asked.name}) has the other {max(0.0, plan.trials - spent):.1f} trials"
    return [f"quick: {did}", f"{full} for the {len(names)} parameters of the space: {', '.join(names)}"]
