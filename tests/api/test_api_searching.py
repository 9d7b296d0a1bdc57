"""How a run of a study ends in the store, without a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.api import searching
from autoprune.errors import AutoPruneError, LeaseLost
from autoprune.outage import HURRY, PATIENCE, patience
from autoprune.ports import SilentObserver


class Log:
    """Notes the states it is given, and how long each was allowed to wait for the database."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.waits: list[float] = []

    def set_state(self, state: str) -> None:
        self.states.append(state)
        self.waits.append(patience())


def a_run(monkeypatch: pytest.MonkeyPatch, folder: Path, publish: Any, drive: Any = lambda *_: "front") -> Any:
    monkeypatch.setattr("autoprune.search.driver.run", drive)
    monkeypatch.setattr(searching, "replace", lambda plan, **_: plan)
    monkeypatch.setattr(searching.state, "optuna_url", lambda _: "")
    run = object.__new__(searching._Run)
    run.loaded = SimpleNamespace(spec=SimpleNamespace(search=SimpleNamespace(explain=False)))  # type: ignore[assignment]
    run.log, run.observer, run.folder = Log(), SilentObserver(), folder  # type: ignore[assignment]
    run.instead = (None, None)
    run.publisher, run.stop = None, lambda: False  # type: ignore[assignment]
    run.study = SimpleNamespace(study_id="s")  # type: ignore[assignment]
    monkeypatch.setattr("autoprune.search.explanations.watch.Watch", lambda *_: None)
    monkeypatch.setattr(searching, "executor_of", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(searching._Run, "_publish", publish)
    monkeypatch.setattr(searching._Run, "_write", lambda *_: None)
    monkeypatch.setattr(searching._Run, "_notes", lambda *_: [])
    return run


def test_a_study_is_complete_only_after_it_has_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    during: list[list[str]] = []

    def publish(run: Any, _front: Any) -> dict[str, Any]:
        during.append(list(run.log.states))
        return {}

    run = a_run(monkeypatch, tmp_path, publish)
    run.run(None)
    assert during == [["running"]]
    assert run.log.states == ["running", "complete"]
    assert run.log.waits == [PATIENCE, PATIENCE]


@pytest.mark.parametrize(
    ("error", "states"),
    [
        (KeyboardInterrupt(), ["running", "interrupted"]),
        (AutoPruneError("the disk is full"), ["running", "failed"]),
        (LeaseLost("the lease expired"), ["running"]),
    ],
)
@pytest.mark.parametrize("when", ["search", "publish"])
def test_what_ends_a_run_is_noted_without_waiting_long(
    error: BaseException, states: list[str], when: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def end(*_: Any) -> None:
        raise error

    run = a_run(monkeypatch, tmp_path, end, end) if when == "search" else a_run(monkeypatch, tmp_path, end)
    with pytest.raises(type(error)):
        run.run(None)
    assert run.log.states == states
    assert run.log.waits[1:] == [HURRY] * (len(states) - 1)
