"""What was searched, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api import state
from autoprune.errors import AutoPruneError, BadInput

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord


def studies(store: str | None = None) -> list[dict[str, Any]]:
    """The studies of a store, newest first, as plain data."""
    opened, _ = state.open_existing(store, None)
    with opened:
        return [dict(state.summary(found)) for found in opened.studies()]


def front(study: str | None = None, store: str | None = None) -> dict[str, Any]:
    """A study's front document. `study`: name, id, its beginning, or a spec file; default: the latest.

    A study that has not come to a front yet shows its trials and no members.
    """
    document, _ = _front_and_trials(study, store)
    return document


def draw_front(study: str | None, figure: Path, store: str | None = None) -> None:
    """Draw a study's front into a file."""
    state.check_figure(figure)
    document, trials = _front_and_trials(study, store)
    if not document["members"]:
        raise AutoPruneError("the front has no members: there is nothing to draw")
    save_front_figure(document, trials, figure)


def save_front_figure(document: Mapping[str, Any], trials: Sequence[TrialRecord], path: Path) -> None:
    """The front's picture."""
    from autoprune.figures import front_figure, save

    save(front_figure(document, trials=trials), path)


def save_curve_figure(document: Mapping[str, Any], path: Path) -> None:
    """How the front grew, trial by trial."""
    from autoprune.figures import hypervolume_figure, save

    save(hypervolume_figure(list(enumerate(document["hypervolume"], start=1))), path)


def _front_and_trials(study: str | None, where: str | None) -> tuple[dict[str, Any], Sequence[TrialRecord]]:
    opened, wanted = state.open_existing(where, study)
    with opened:
        if wanted is None:
            known = opened.studies()
            if not known:
                raise BadInput("the store is empty: nothing was searched yet")
            wanted = known[0].id
        log = opened.study(opened.resolve(wanted))
        document, trials = log.front(), log.trials()
        return document or _unfinished(log.study_id, log.state(), trials), trials


AGAIN = "`autoprune search` with the same spec continues it"
NO_FRONT = {
    "running": f"a search is at work on this study; if it was killed, {AGAIN}",
    "failed": f"the search failed: {AGAIN}",
}


def _unfinished(study_id: str, found: str, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    counted = [t for t in trials if t.origin != "baseline"]
    complete = sum(t.state == "complete" and not t.cached for t in counted)
    return {
        "study": study_id,
        "baseline": {"holdout": {}},
        "members": [],
        "trials": {"complete": complete, "failed": sum(t.state == "failed" for t in counted), "running": 0},
        "explanation": [NO_FRONT.get(found, f"the search has not come to its end: {AGAIN}")],
        "explanations": {"stopped": {"reason": found}},
    }
