"""`autoprune retune` on the reference model: nothing to do, re-certified, searched anew, refused; and cut short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli

from autoprune import load_policy
from autoprune.retune import once
from autoprune.retune.once import retune

pytestmark = [pytest.mark.mlflow, pytest.mark.e2e]
Change = Callable[[Path, float], None]


def uri_of(spec: Path) -> str:
    return f"sqlite:///{spec.parent / '.autoprune' / 'mlflow.db'}"


def history(spec: Path) -> Any:
    return cli("policy", "history", "served", "--tracking-uri", uri_of(spec), "--json").json


def lineage(spec: Path) -> list[tuple[int, str, int | None]]:
    return [(v["version"], v["cause"], v["parent"]) for v in history(spec)["versions"]]


def test_where_nothing_has_changed_nothing_is_done(served: Path) -> None:
    done = cli("retune", str(served), "--once", "--json")
    assert (done.code, done.json["result"], done.json["triggers"]) == (0, "current", [])
    assert lineage(served) == [(1, "search", None)]


def test_a_small_change_is_recertified_once(served: Path, change: Change) -> None:
    change(served, 1e-3)
    done = cli("retune", str(served), "--json")
    assert (done.code, done.json["result"]) == (0, "recertified"), done.out
    assert [t["kind"] for t in done.json["triggers"]] == ["weights"]
    assert {c["basis"] for some in done.json["comparisons"].values() for c in some} == {"paired"}
    told = history(served)
    assert told["aliases"] == {"candidate": 2, "champion": 2, "previous": 1}
    assert lineage(served) == [(2, "recertified", 1), (1, "search", None)]
    assert "weights" in told["versions"][0]["why"]
    assert told["moves"][0]["by"] == "autoprune retune"
    old, new = (load_policy(f"models:/served/{version}", tracking_uri=uri_of(served)) for version in (1, 2))
    assert old.policy.dump() == new.policy.dump()
    assert [one.policy.dump() for one in old.front] == [one.policy.dump() for one in new.front]
    assert old.fingerprint is not None
    assert new.fingerprint is not None
    assert old.fingerprint.weights != new.fingerprint.weights
    assert new.metadata["retune"]["parent"] == 1
    front = cli("front", str(served), "--json").json
    assert front["explanations"]["retune"]["decision"] == "recertify"
    assert front["holdout_uses"] == 2
    again = cli("retune", str(served), "--json")
    assert (again.code, again.json["result"]) == (0, "current")


def test_what_is_not_shown_to_be_as_good_is_searched_anew(served: Path, change: Change) -> None:
    """A margin that nothing can be shown to keep; what the search selects is then the champion itself, or refused."""
    served.write_text(served.read_text().replace("margin: 15 points", "margin: 0 points"))
    change(served, 1e-3)
    done = retune(served)
    assert [one.state for one in done.comparisons["old self"]] == ["undecided"]
    ((_, cause, parent), *_) = lineage(served)
    assert (cause, parent) == ("retuned", 1)
    (against,) = done.comparisons["champion"]
    promoted = against.basis == "same"
    assert (done.result, done.champion) == (("promoted", 2) if promoted else ("kept", 1))
    front = cli("front", str(served), "--json").json
    assert {m["policy"] for m in front["members"]}, "the old front was measured first"
    assert front["explanations"]["retune"]["decision"] == ("promote" if promoted else "keep")


def test_a_ruined_model_is_refused_and_the_champion_kept(served: Path, change: Change) -> None:
    change(served, 3.0)
    done = cli("retune", str(served), "--json")
    assert (done.code, done.json["result"], done.json["champion"]) == (1, "kept", 1)
    assert "the model itself is broken" in done.json["reason"]
    told = history(served)
    assert (told["aliases"]["champion"], len(told["versions"])) == (1, 1)
    assert "broken" in told["versions"][0]["retune"]["reason"]


def test_cut_short_before_the_promotion_it_goes_on_and_makes_no_second_version(
    served: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(served, 1e-3)

    class Cut(BaseException):
        pass

    def cut(*_: Any, **__: Any) -> Any:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(once.served, "promote", cut)
        with pytest.raises(Cut):
            retune(served)
    assert history(served)["aliases"] == {"candidate": 2, "champion": 1}
    assert retune(served).result == "recertified"
    assert history(served)["aliases"] == {"candidate": 2, "champion": 2, "previous": 1}
    assert lineage(served) == [(2, "recertified", 1), (1, "search", None)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("register: served, ", "", "[missing-key]"),
        ("register: served", "register: unserved", "no registered policy 'unserved'"),
        ("margin: 15 points", "margin: much", "[wrong-form]"),
        ("margin: 15 points", "max_age: soon", "[not-a-duration]"),
    ],
)
def test_bad_input(served: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str) -> None:
    served.write_text(served.read_text().replace(old, new))
    assert cli("retune", str(served)).code == 2
    assert said in capsys.readouterr().err


def test_without_a_champion_there_is_nothing_to_retune(served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from autoprune.registry import client

    client.connect(uri_of(served)).delete_registered_model_alias("served", "champion")
    assert cli("retune", str(served)).code == 2
    assert "has no champion" in capsys.readouterr().err


def test_an_old_champion_is_measured_again_though_nothing_changed(served: Path) -> None:
    served.write_text(served.read_text().replace("margin: 15 points", "max_age: 0.001s"))
    done = retune(served)
    assert (done.result, [t.kind for t in done.triggers]) == ("recertified", ["age"])
    assert {one.basis for one in done.comparisons["old self"]} == {"same"}
