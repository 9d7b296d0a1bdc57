"""What MLflow is told about a study, taken from the store alone; and all of it once more (`autoprune sync`)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api import state
from autoprune.errors import AutoPruneError, BadInput
from autoprune.ports import MeasureRequest
from autoprune.spec.goals import Constraint, Objective
from autoprune.spec.load import load

if TYPE_CHECKING:
    from autoprune.registry.outbox import StudyInfo
    from autoprune.store.study_log import StudyLog


def study_info(log: StudyLog) -> StudyInfo:
    """The study as its parent run describes it. Passwords in addresses are left out."""
    from autoprune.registry.client import shown
    from autoprune.registry.outbox import StudyInfo

    resolved = json.loads(shown(json.dumps(log.resolved())))
    text = log.spec_text() or json.dumps(log.spec(), indent=2, ensure_ascii=False)  # JSON is YAML
    return StudyInfo(
        study_id=log.study_id,
        name=log.name(),
        spec_text=shown(text),
        resolved=resolved,
        digests=resolved.get("digests", {}),
        objectives=tuple(Objective(_measure(o), o["direction"]) for o in resolved["objectives"]),
        constraints=tuple(Constraint(**{**c, "measure": _measure(c)}) for c in resolved["constraints"]),
        registered_model=resolved["output"]["register"],
    )


def _measure(goal: Mapping[str, Any]) -> MeasureRequest:
    return MeasureRequest(**goal["measure"])


def sync(study: str | None = None, store: str | None = None, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """Make MLflow show what the store knows: runs, fronts, versions that are missing are made, what is there stays.

    `study`: a name, an id (or its beginning), or a spec file; default: all studies of the store. Each is
    `{"study", "rows", "trouble"}`. Raises BadInput where MLflow cannot be reached, AutoPruneError where a driver is at
    work on a study (it publishes by itself).
    """
    from autoprune.registry.rebuild import WholeStory
    from autoprune.registry.tracking import MlflowPublisher, check_reachable

    opened, wanted = state.open_existing(store, study)
    with opened:
        ids = [found.id for found in opened.studies()] if wanted is None else [opened.resolve(wanted)]
        if not ids:
            raise BadInput("the store is empty: nothing was searched yet")
        uri = _uri(study, tracking_uri)
        check_reachable(uri)
        done = []
        for study_id in reversed(ids):  # the oldest first, as it was
            log = opened.study(study_id)
            with log.lease(f"{socket.gethostname()}:{os.getpid()} (sync)"):
                story = WholeStory(log, uri)
                count = len(story.outbox())
                MlflowPublisher(story, uri, study_info(log)).flush()
            kinds = {row.id: row.kind for row in story.outbox()}
            trouble = [f"{kinds[i]}: {reason}" for i, reason in story.trouble.items() if i in kinds]
            done.append({"study": study_id, "rows": count - len(kinds), "waiting": len(kinds), "trouble": trouble})
    return done


def _uri(study: str | None, tracking_uri: str | None) -> str:
    """Argument, spec, MLFLOW_TRACKING_URI, the nearest `.autoprune/` (whose database may have to be made)."""
    from autoprune.registry.client import require
    from autoprune.registry.locate import embedded
    from autoprune.registry.locate import tracking_uri as locate

    require()
    if tracking_uri is None and study is not None and study.endswith((".yaml", ".yml")):
        return str(state.mlflow_uri(load(study)))
    try:
        return locate(tracking_uri)
    except AutoPruneError:
        here = Path.cwd()
        homes = [folder / state.FOLDER for folder in (here, *here.parents) if (folder / state.FOLDER).is_dir()]
        if not homes:
            raise
        return embedded(homes[0])
