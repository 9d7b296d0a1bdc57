"""Which figures a study's run carries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.ports import TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("autoprune.registry")


def pictures(
    document: Mapping[str, Any], trials: Sequence[TrialRecord], points: Sequence[tuple[int, float]]
) -> dict[str, Figure]:
    """File name -> figure, for whatever there is something to draw of: the front, the hypervolume, the schedules."""
    from autoprune import figures

    drawn: dict[str, Figure] = {}
    if document.get("members"):
        try:
            drawn["front.png"] = figures.front_figure(document, trials=trials)
        except ValueError as error:  # two measures to draw against each other aren't there: the document goes out alone
            logger.warning("the front has no figure: %s", error)
    if points:
        drawn["hypervolume.png"] = figures.hypervolume_figure(points)
    lengths = {f"policy {i}": m["lengths"] for i, m in enumerate(document.get("members", [])) if m.get("lengths")}
    if lengths:
        drawn["schedule.png"] = figures.schedule_figure(lengths)
    return drawn
