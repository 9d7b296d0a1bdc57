"""Promotion and rollback: what is served, what is remembered, and what an interruption leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from front_support import CONSTRAINT

from autoprune.errors import AutoPruneError, BadInput
from autoprune.registry import aliases, names, policies
from autoprune.registry import client as mlflow_client
from autoprune.registry.aliases import Promotion
from autoprune.registry.history import history
from autoprune.search.remarks import verdict_text
from autoprune.spec.expressions import parse_constraint

pytestmark = pytest.mark.mlflow

VERDICT = verdict_text(parse_constraint(CONSTRAINT), "certified", 0.91)


@pytest.fixture
def run_id(uri: str, tmp_path: Path) -> str:
    client = mlflow_client.connect(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "art").as_uri())
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture
def register(uri: str, run_id: str, saved_policy: Path) -> Callable[..., int]:
    def one(digest: str, **more: str) -> int:
        tags = {names.DIGEST_TAG: digest * 64, names.STUDY_TAG: "s1", **more}
        return policies.register(uri, "pol", saved_policy, run_id=run_id, tags=tags)

    return one


def _served(uri: str) -> dict[str, int]:
    (listed,) = policies.registered(uri)
    return {alias: version for alias, version in listed.aliases.items() if alias != names.CANDIDATE}


def test_promotion_moves_champion_and_keeps_the_previous_one(uri, register):
    for digest in "abc":
        register(digest)
    assert aliases.promote(uri, "pol", 1) == Promotion("pol", 1, None)
    assert aliases.promote(uri, "pol", "candidate") == Promotion("pol", 3, 1)
    assert aliases.promote(uri, "pol", "champion") == Promotion("pol", 3, 1), "again changes nothing"
    (listed,) = policies.registered(uri)
    assert listed == policies.RegisteredPolicy("pol", {"candidate": 3, "champion": 3, "previous": 1}, 3)
    assert aliases.promote(uri, "pol", "previous") == Promotion("pol", 1, 3)
    assert policies.resolve("models:/pol@champion", uri).version == 1
    assert policies.resolve("models:/pol@previous", uri).version == 3


def test_the_candidate_only_moves_forward(uri, register):
    assert [register(digest) for digest in "ab"] == [1, 2]
    assert register("a") == 1, "the first search once more"
    (listed,) = policies.registered(uri)
    assert listed.aliases == {"candidate": 2}
    mlflow_client.connect(uri).delete_registered_model_alias("pol", "candidate")
    register("a")
    (listed,) = policies.registered(uri)
    assert listed.aliases == {"candidate": 1}


def test_rolling_back_goes_to_the_previous_one_and_remembers_where_it_came_from(uri, register):
    for digest in "ab":
        register(digest)
    with pytest.raises(BadInput, match="no previous champion"):
        aliases.rollback(uri, "pol")
    aliases.promote(uri, "pol", 1)
    with pytest.raises(BadInput, match="no previous champion"):
        aliases.rollback(uri, "pol")
    aliases.promote(uri, "pol", 2, by="ops")
    assert aliases.rollback(uri, "pol") == Promotion("pol", 1, 2)
    assert _served(uri) == {"champion": 1, "previous": 2}
    assert aliases.rollback(uri, "pol") == Promotion("pol", 2, 1), "and back again"
    told = history(uri, "pol")["moves"]
    assert [(m["kind"], m["before"]["champion"], m["after"]["champion"], m["state"]) for m in told] == [
        ("rollback", 1, 2, "done"),
        ("rollback", 2, 1, "done"),
        ("promote", 1, 2, "done"),
        ("promote", None, 1, "done"),
    ]
    assert told[2]["by"] == "ops"
    with pytest.raises(BadInput, match="did you mean 'pol'"):
        aliases.rollback(uri, "poll")


def test_history_says_where_versions_came_from_and_what_was_proven(uri, register):
    register("a")
    aliases.promote(uri, "pol", 1)
    register("b", **{names.CAUSE_TAG: names.RECERTIFIED})
    register("c", **{names.CAUSE_TAG: names.RETUNED, names.LINEAGE_TAG: "2"})
    told = history(uri, "pol")
    lineage = [(v["version"], v["cause"], v["parent"], v["aliases"]) for v in told["versions"]]
    assert lineage == [(3, "retuned", 2, ["candidate"]), (2, "recertified", 1, []), (1, "search", None, ["champion"])]
    version = told["versions"][0]
    assert (version["study"], version["policy"], version["budget"]) == ("s1", "strong", 0.25)
    assert version["holdout"]["exact_match"] == {"value": 0.92, "low": 0.92 - 0.02, "high": 0.92 + 0.02}
    assert version["verdicts"] == [VERDICT]
    assert version["front"] == "4 policies, 3 certified"
    assert told["aliases"] == {"candidate": 3, "champion": 1}
    assert not told["unrecorded"]


def test_an_alias_that_was_moved_by_hand_is_the_truth_and_is_told(uri, register):
    for digest in "abc":
        register(digest)
    aliases.promote(uri, "pol", 1)
    mlflow_client.connect(uri).set_registered_model_alias("pol", "champion", "3")
    assert history(uri, "pol")["unrecorded"]
    assert aliases.promote(uri, "pol", 2) == Promotion("pol", 2, 3)
    assert not history(uri, "pol")["unrecorded"]


def test_of_two_promotions_at_once_none_is_lost(uri, register, monkeypatch):
    """The second begins when the first has read where the aliases are, and before it writes."""
    for digest in "abc":
        register(digest)
    aliases.promote(uri, "pol", 1)
    read = aliases._settled

    def overtaken(client: Any, name: str) -> Any:
        found = read(client, name)
        monkeypatch.setattr(aliases, "_settled", read)
        assert aliases.promote(uri, "pol", 2) == Promotion("pol", 2, 1)
        return found

    monkeypatch.setattr(aliases, "_settled", overtaken)
    with pytest.raises(AutoPruneError, match="is being moved by somebody else"):
        aliases.promote(uri, "pol", 3)
    assert _served(uri) == {"champion": 2, "previous": 1}
    assert aliases.promote(uri, "pol", 3) == Promotion("pol", 3, 2), "and it can be done again at once"


def test_a_move_under_way_is_not_taken_back(uri, register, monkeypatch):
    for digest in "abc":
        register(digest)
    aliases.promote(uri, "pol", 1)
    with monkeypatch.context() as patched:
        _cut_after(patched, 2)
        with pytest.raises(_Cut):
            aliases.promote(uri, "pol", 2, by="ops")
    with pytest.raises(AutoPruneError, match=r"is being moved by ops \(since .*try again in \d+ s"):
        aliases.promote(uri, "pol", 3)
    assert _served(uri) == {"champion": 1, "previous": 1}


class _Cut(BaseException):
    """The process ends here."""


def _cut_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The registry takes this many writes; at the next the process is gone."""
    from mlflow import MlflowClient

    done: list[str] = []
    for method in ("set_registered_model_tag", "set_registered_model_alias"):
        real = getattr(MlflowClient, method)

        def counted(self: Any, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            if len(done) == writes:
                raise _Cut
            done.append(args[1])
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, method, counted)


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("kind", ["promote", "rollback"])
def test_a_move_that_is_cut_short_leaves_a_champion_and_is_settled_by_the_next(
    uri, register, monkeypatch, kind, writes
):
    for digest in "abc":
        register(digest)
    aliases.promote(uri, "pol", 1)
    aliases.promote(uri, "pol", 2)
    target = 3 if kind == "promote" else 1

    def move() -> Promotion:
        return aliases.promote(uri, "pol", 3) if kind == "promote" else aliases.rollback(uri, "pol")

    with monkeypatch.context() as patched:
        _cut_after(patched, writes)
        with pytest.raises(_Cut):
            move()
    monkeypatch.setattr(aliases, "_UNDER_WAY", 0)  # as if a minute had passed
    happened = writes == 3  # the record, previous, champion; only its last word is missing
    assert _served(uri)["champion"] == (target if happened else 2)
    assert (history(uri, "pol")["moves"][0]["state"] == "interrupted") == (writes in (1, 2))
    assert not history(uri, "pol")["unrecorded"]

    if kind == "promote":
        assert move() == Promotion("pol", 3, 2)
        assert _served(uri) == {"champion": 3, "previous": 2}
    elif happened:
        assert move() == Promotion("pol", 2, 1)
    else:
        assert move() == Promotion("pol", 1, 2), "previous is what it was before the attempt"
        assert _served(uri) == {"champion": 1, "previous": 2}
    assert {m["state"] for m in history(uri, "pol")["moves"]} <= {"done", "interrupted"}


def test_a_killed_process_leaves_what_was_served(uri, register, monkeypatch):
    """SIGKILL between the two alias writes."""
    for digest in "ab":
        register(digest)
    aliases.promote(uri, "pol", 1)
    code = f"""
import os, signal
from autoprune.registry import aliases, client
client.quiet()
from mlflow import MlflowClient
real = MlflowClient.set_registered_model_alias
def kill(self, name, alias, version):
    if alias == "champion":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, name, alias, version)
MlflowClient.set_registered_model_alias = kill
aliases.promote({uri!r}, "pol", 2)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -9
    monkeypatch.setattr(aliases, "_UNDER_WAY", 0)
    assert _served(uri) == {"champion": 1, "previous": 1}
    with pytest.raises(BadInput, match="no previous champion"):
        aliases.rollback(uri, "pol")
    assert _served(uri) == {"champion": 1}, "the half-done move was taken back"
    assert aliases.promote(uri, "pol", 2) == Promotion("pol", 2, 1)
    states = [(m["kind"], m["state"]) for m in history(uri, "pol")["moves"]]
    assert states == [("promote", "done"), ("promote", "interrupted"), ("promote", "done")]


def test_a_registry_that_fails_on_the_way_is_one_message(uri, register, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def broken(self: Any, name: str, alias: str, version: str) -> None:
        raise MlflowException("gone")

    register("a")
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", broken)
    with pytest.raises(AutoPruneError, match=r"promoting 'pol' failed at sqlite:.*gone"):
        aliases.promote(uri, "pol", 1)


def test_a_version_introduces_itself_in_mlflow(uri, register):
    register("a")
    made = mlflow_client.connect(uri).get_model_version("pol", "1")
    lines = made.description.splitlines()
    assert "`strong` is selected of 4 policies, 3 certified" in lines[0]
    assert sum(line.startswith("|") for line in lines) == 2 + 1 + 4
    (chosen,) = (line for line in lines if "**selected**" in line)
    assert "0.92 (0.9 to 0.94)" in chosen
    assert VERDICT in chosen
    assert 'policy = autoprune.load_policy("models:/pol/1")' in lines
    assert made.tags[names.key(f"constraint.{CONSTRAINT}")] == VERDICT
