"""Every reason to measure again, and none where nothing has changed."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.models.fingerprint import Fingerprint
from autoprune.retune.triggers import Facts, commit_of, triggers
from autoprune.spec.retuning import WATCHED

OLD = Facts(Fingerprint("arch", "weights", "c1"), "records")
DAY = 86400.0


def kinds(new: Facts = OLD, **more: Any) -> list[str]:
    settings = {"when": WATCHED, "moved_by_others": False, "age": DAY, "max_age": None, **more}
    return [one.kind for one in triggers(OLD, new, **settings)]


def test_nothing_has_changed() -> None:
    assert kinds() == []
    assert kinds(max_age=2 * DAY) == []


@pytest.mark.parametrize(
    ("new", "kind"),
    [
        (Facts(Fingerprint("other", "other", "c2"), "records"), "architecture"),
        (Facts(Fingerprint("arch", "other", "c2"), "records"), "weights"),
        (Facts(Fingerprint("arch", "weights", "c2"), "records"), "revision"),
        (Facts(Fingerprint("arch", "weights", "c1"), "others"), "calibration"),
    ],
)
def test_one_thing_has_changed(new: Facts, kind: str) -> None:
    assert kinds(new) == [kind]
    unwatched = tuple(one for one in WATCHED if one != ("calibration" if kind == "calibration" else "model"))
    assert kinds(new, when=unwatched) == []


def test_an_alias_that_others_moved_and_age() -> None:
    assert kinds(moved_by_others=True) == ["alias"]
    assert kinds(moved_by_others=True, when=("model",)) == []
    assert kinds(age=DAY, max_age=DAY, when=()) == ["age"]


def test_a_branch_of_the_hub_that_moved_on_is_another_revision() -> None:
    """The spec says `main` both times; the cache's folders say which commit that was."""
    commits = [commit_of(f"/hub/models--a--b/snapshots/{one}") for one in ("1a", "2b")]
    old, new = (Facts(Fingerprint("arch", "weights", "main"), "records", one) for one in commits)
    settings = {"when": WATCHED, "moved_by_others": False, "age": 0.0, "max_age": None}
    (found,) = triggers(old, new, **settings)  # type: ignore[arg-type]
    assert (found.kind, "1a -> 2b" in found.text) == ("revision", True)
    assert triggers(new, new, **settings) == []  # type: ignore[arg-type]
    assert commit_of("/models/mine") is None
