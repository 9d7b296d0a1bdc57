"""Which figures a study's run carries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.policy.budget import lengths
from autoprune.policy.canonical import from_json
from autoprune.ports import TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = 7
logger = logging.getLogger("autoprune.registry")


def pictures(
    document: Mapping[str, Any],
    trials: Sequence[TrialRecord],
    points: Sequence[tuple[int, float]],
    tokens: int | None = None,
) -> dict[str, Figure]:
    """File name -> figure, for whatever there is something to draw of: the front, the hypervolume, the schedules.
    `tokens`: N where it is the same for all samples, else schedules are not drawn."""
    from autoprune import figures

    drawn: dict[str, Figure] = {}
    if document.get("members"):
        try:
            drawn["front.png"] = figures.front_figure(document, trials=trials)
        except ValueError as error:  # two measures to draw against each other aren't there: the document goes out alone
            logger.warning("the front has no figure: %s", error)
    if points:
        drawn["hypervolume.png"] = figures.hypervolume_figure(points)
    if tokens is not None and (lengths := _schedules(document, trials, tokens)):
        drawn["schedules.png"] = figures.schedule_figure(lengths, tokens=tokens)
    return drawn


def _schedules(document: Mapping[str, Any], trials: Sequence[TrialRecord], tokens: int) -> dict[str, Sequence[int]]:
    """Visual tokens entering each layer under the front's members (at most as many as can be told apart, evenly along
    the front); those whose counts depend on the image have no one schedule."""
    canonical = {trial.digest: trial.canonical for trial in trials if trial.canonical}
    known = [(m, canonical[m["digest"]]) for m in document.get("members", []) if m.get("digest") in canonical]
    resolved = [(member, from_json(text)) for member, text in known]
    fixed = [(member, policy) for member, policy in resolved if not policy.adaptive]
    step = max(1, -(-len(fixed) // _LINES))
    return {
        f"{i}. {member['policy']}{' (selected)' if member.get('selected') else ''}": lengths(policy, tokens)
        for i, (member, policy) in enumerate(fixed, start=1)
        if (i - 1) % step == 0 or member.get("selected")
    }
