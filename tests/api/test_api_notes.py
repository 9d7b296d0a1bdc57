"""What a search says at its end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.api.searching import _Run
from autoprune.registry.tracking import NullPublisher, Published


def notes(register: str | None, selected: bool, published: tuple[Published, ...] = ()) -> str:
    publisher = NullPublisher()
    publisher.published = published
    run: Any = SimpleNamespace(
        study=SimpleNamespace(study_id="s-1"),
        folder=Path("somewhere"),
        publisher=publisher,
        loaded=SimpleNamespace(spec=SimpleNamespace(output=SimpleNamespace(register_as=register, tracking_uri=None))),
    )
    return "\n".join(_Run._notes(run, {"members": [{"selected": selected}]}))


@pytest.mark.parametrize(
    ("register", "selected", "says"),
    [("name", True, "waits in the outbox"), ("name", False, "no policy is certified"), (None, False, "no policy is")],
)
def test_what_was_not_registered_is_said(register: str | None, selected: bool, says: str) -> None:
    assert says in notes(register, selected)


def test_what_was_registered_is_said() -> None:
    said = notes("name", True, (Published("name", 3, "d" * 64, "candidate"),))
    assert "registered models:/name@candidate (version 3)" in said
    assert "outbox" not in said


def test_nothing_is_missing_where_nothing_was_to_be_registered() -> None:
    said = notes(None, True)
    assert "not registered" not in said
    assert "MLflow" not in said
