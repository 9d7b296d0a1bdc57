"""A handle follows its alias between requests, and goes on with the last good policy whatever happens to the rest."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving_support import Registry, difference, generate, inputs, made, model
from transformers import LogitsProcessor, LogitsProcessorList

import autoprune
from autoprune.errors import AutoPruneError, BadInput, PolicyMismatch
from autoprune.models import Fingerprint
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.registry import aliases
from autoprune.serving.backoff import Backoff

CHAMPION = "models:/pruner@champion"


def kept(live: Any) -> int:
    """How many of 36 tokens a request leaves in the last layer."""
    with autoprune.using() as used:
        generate(live, inputs(9), 2)
    return used.run.lengths[-1][0]


@pytest.mark.mlflow
def test_a_new_champion_is_served_from_the_next_request_on(registry: Registry, live: Any) -> None:
    registry.publish(registry.certified("1/2"))
    base = generate(live, inputs(9), 2)
    with autoprune.PolicyHandle(CHAMPION, refresh=None, tracking_uri=registry.uri) as handle:
        with handle.attach(live) as session:
            assert kept(live) == 18
            first = handle.status()
            assert (first.version, first.policy, first.swaps, first.models) == ("1", "keep 1/2", 0, 1)
            assert not handle.refresh_now()
            registry.publish(registry.certified("1/4"))
            assert kept(live) == 18
            assert handle.refresh_now()
            assert kept(live) == 9
            status = handle.status()
            assert (status.version, status.policy, status.swaps, status.checks) == ("2", "keep 1/4", 1, 2)
            assert (status.error, status.failures, status.running, status.uncertified) == ("", 0, 0, ())
            assert status.since > first.since
            assert status.served == {
                "prefills": 3,
                "samples": 3,
                "tokens": 108,
                "entered": 3 * 72 + (2 * 18 + 9) * 4,
                "unpruned": 648,
                "guarded": {},
                "budget": (216 + 180) / 648,
            }
            assert session.stats.prefills == 3
            assert json.loads(json.dumps(status.to_json()))["version"] == "2"
        assert handle.status().served["prefills"] == 3
        assert handle.status().models == 0
    assert difference(generate(live, inputs(9), 2), base) == 0.0


@pytest.mark.mlflow
def test_the_thread_follows_the_alias(registry: Registry, live: Any) -> None:
    registry.publish(registry.certified("1/2"))
    with (
        autoprune.PolicyHandle(CHAMPION, refresh="0.05s", tracking_uri=registry.uri) as handle,
        handle.attach(live),
    ):
        registry.publish(registry.certified("1/4"))
        until(lambda: handle.status().version == "2")
        assert kept(live) == 9
    assert not any(t.name == "autoprune-refresh" for t in threading.enumerate())


def until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class Move(LogitsProcessor):
    """Publishes and refreshes in the middle of a generation."""

    def __init__(self, move: Any) -> None:
        self.move = move

    def __call__(self, ids: Any, scores: Any) -> Any:
        if self.move is not None:
            move, self.move = self.move, None
            move()
        return scores


@pytest.mark.mlflow
def test_a_running_request_ends_under_the_version_it_began_with(registry: Registry, live: Any) -> None:
    registry.publish(registry.certified("1/2"))
    batch = inputs(9, 14)
    with registry.certified("1/2").attach(live):
        half = generate(live, batch, 5)
    with autoprune.PolicyHandle(CHAMPION, refresh=None, tracking_uri=registry.uri) as handle, handle.attach(live):
        moved = []

        def move() -> None:
            registry.publish(registry.certified("1/4"))
            moved.append((handle.refresh_now(), handle.status().running))

        found = generate(live, batch, 5, logits_processor=LogitsProcessorList([Move(move)]))
        assert moved == [(True, 1)]
        assert difference(found, half) == 0.0
        assert kept(live) == 9


def stored(registry: Registry, keep: str) -> Path:
    (found,) = [p for p in registry.artifacts.glob("**/policy.yaml") if keep in p.read_text()]
    return found


def damaged(registry: Registry) -> str:
    registry.publish(registry.certified("1/4"))
    stored(registry, "1/4").write_text("stages: [")
    return "was changed after it was saved"


def other_model(registry: Registry) -> str:
    registry.publish(made("1/4", Fingerprint("1" * 64, "2" * 64)))
    return "made for another architecture"


def too_deep(registry: Registry) -> str:
    registry.publish(registry.certified("1/4", at="llm:9"))
    return "llm:9"


@pytest.mark.mlflow
@pytest.mark.parametrize("spoil", [damaged, other_model, too_deep])
def test_a_version_that_cannot_be_used_is_not(
    spoil: Any, registry: Registry, live: Any, caplog: pytest.LogCaptureFixture
) -> None:
    registry.publish(registry.certified("1/2"))
    with autoprune.PolicyHandle(CHAMPION, refresh=None, tracking_uri=registry.uri) as handle, handle.attach(live):
        reason = spoil(registry)
        with caplog.at_level(logging.INFO, "autoprune.serving"):
            assert [handle.refresh_now() for _ in range(3)] == [False] * 3
        status = handle.status()
        refused = None if spoil is damaged else "2"
        assert (status.version, status.rejected, status.failures, status.checks) == ("1", refused, 3, 3)
        assert reason in status.error
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert reason in caplog.text
        assert "version 1 stays in force" in caplog.text
        assert kept(live) == 18
        registry.publish(registry.certified("1/4", protect="last"))
        assert handle.refresh_now()
        status = handle.status()
        assert (status.version, status.rejected, status.error, status.failures) == ("3", None, "", 3)
        assert kept(live) == 9


@pytest.mark.mlflow
def test_a_version_whose_files_are_mended_is_served_without_a_restart(registry: Registry, live: Any) -> None:
    registry.publish(registry.certified("1/2"))
    with (
        autoprune.PolicyHandle(CHAMPION, refresh="0.05s", tracking_uri=registry.uri) as handle,
        handle.attach(live),
    ):
        registry.publish(registry.certified("1/4"), promote=False)
        file = stored(registry, "1/4")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        aliases.promote(registry.uri, "pruner", 2)
        until(lambda: "was changed after it was saved" in handle.status().error)
        assert handle.status().rejected is None
        file.write_bytes(whole)
        until(lambda: handle.status().version == "2")
        assert handle.status().error == ""


def test_a_version_that_cannot_be_fetched_is_tried_ever_more_seldom() -> None:
    backoff = Backoff()
    tried = []
    for check in range(40):
        if not backoff.sits_out("2"):
            tried.append(check)
            backoff.failed("2")
    assert tried == [0, 1, 3, 7, 15, 23, 31, 39]
    assert not backoff.sits_out("3")


@pytest.mark.mlflow
def test_a_version_that_a_model_refused_is_looked_at_again_without_it(registry: Registry, live: Any) -> None:
    registry.publish(registry.certified("1/2"))
    with autoprune.PolicyHandle(CHAMPION, refresh=None, tracking_uri=registry.uri) as handle:
        with handle.attach(live):
            registry.publish(registry.certified("1/4", at="llm:9"))
            assert not handle.refresh_now()
            assert handle.status().rejected == "2"
        assert handle.status().rejected is None


@pytest.mark.mlflow
def test_the_registry_may_be_away(registry: Registry, live: Any, caplog: pytest.LogCaptureFixture) -> None:
    registry.publish(registry.certified("1/2"))
    database, away = registry.folder / "mlflow.db", registry.folder / "away.db"
    with autoprune.PolicyHandle(CHAMPION, refresh=None, tracking_uri=registry.uri) as handle, handle.attach(live):
        database.rename(away)
        with caplog.at_level(logging.INFO, "autoprune.serving"):
            assert [handle.refresh_now() for _ in range(3)] == [False] * 3
            assert kept(live) == 18
            status = handle.status()
            assert (status.version, status.failures, status.rejected) == ("1", 3, None)
            assert "no MLflow database" in status.error
            away.replace(database)
            assert not handle.refresh_now()
        assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
        assert "can be read again" in caplog.records[1].message
        assert handle.status().error == ""
    database.unlink()
    with pytest.raises(AutoPruneError, match="no MLflow database"):
        autoprune.PolicyHandle(CHAMPION, tracking_uri=registry.uri)


@pytest.mark.mlflow
def test_an_alias_taken_away_keeps_the_last_good_version(registry: Registry, live: Any) -> None:
    from autoprune.registry import client

    registry.publish(registry.certified("1/2"))
    with autoprune.PolicyHandle(CHAMPION, refresh=None, tracking_uri=registry.uri) as handle, handle.attach(live):
        client.connect(registry.uri).delete_registered_model_alias("pruner", "champion")
        assert not handle.refresh_now()
        assert "no alias 'champion'" in handle.status().error
        assert kept(live) == 18


# ------------------------------------------------------------------------------------------- without a registry
def test_a_folder_is_followed_too(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle, handle.attach(live):
        assert not handle.refresh_now()
        made("1/4").save_pretrained(tmp_path / "p")
        assert handle.refresh_now()
        assert kept(live) == 9
        assert handle.status().version is None


def test_strict_holds_for_later_versions(tmp_path: Path, live: Any, registry: Registry) -> None:
    registry.certified("1/2").save_pretrained(tmp_path / "p")
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle, handle.attach(live, strict=True):
        made("1/4", Fingerprint(registry.print.architecture, "0" * 64)).save_pretrained(tmp_path / "p")
        assert not handle.refresh_now()
        assert "not certified for this model" in handle.status().error
        assert kept(live) == 18


def test_an_uncertified_policy_says_so(tmp_path: Path, live: Any, registry: Registry, caplog: Any) -> None:
    made("1/2", Fingerprint(registry.print.architecture, "0" * 64)).save_pretrained(tmp_path / "p")
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle:
        with handle.attach(live):
            assert "the weights differ" in handle.status().uncertified[0]
            assert "uncertified here" in caplog.text
            registry.certified("1/4").save_pretrained(tmp_path / "p")
            assert handle.refresh_now()
            assert handle.status().uncertified == ()
        made("1/2", Fingerprint("1" * 64, "2" * 64)).save_pretrained(tmp_path / "p")
        handle.refresh_now()
        with pytest.raises(PolicyMismatch, match="another architecture"):
            handle.attach(live)


def test_a_version_that_one_model_cannot_run_is_used_for_none(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    other = model("qwen2_vl")
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle, handle.attach(live), handle.attach(other):
        made("1/4", positions="compact").save_pretrained(tmp_path / "p")
        assert not handle.refresh_now()
        assert "compact" in handle.status().error
        assert kept(live) == 18
        made("1/4").save_pretrained(tmp_path / "p")
        assert handle.refresh_now()
        assert kept(live) == 9


def test_what_a_guard_did_is_in_the_status_and_words_are_asked_for(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    rules = [
        {"when": {"tokens_below": 36}, "use": "none"},
        {"when": {"prompt": "read"}, "use": {"budget": 0.9}},
    ]
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle:
        with handle.attach(live):
            made("1/4", guard=rules).save_pretrained(tmp_path / "p")
            assert not handle.refresh_now()
            assert "rule about prompts" in handle.status().error
            assert kept(live) == 18
        with handle.attach(live, prompt=""):
            assert handle.refresh_now()
            assert kept(live) == 9
            with autoprune.using(prompt="please read it") as used:
                generate(live, inputs(9), 2)
            assert used.budget().mean == pytest.approx(
                (72 + 30 * 4) / 216
            )  # one token more in four layers is above 0.9
            assert handle.status().served["guarded"] == {"prompt 'read': budget 0.9": 1}


def test_closing_waits_for_requests(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    batch = inputs(9)
    with made("1/2").attach(live):
        expected = generate(live, batch, 4)
    handle = autoprune.PolicyHandle(tmp_path / "p", refresh=None)
    attached = handle.attach(live)
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go.wait(60)

    found: list[Any] = []
    held = LogitsProcessorList([Move(hold)])
    thread = threading.Thread(target=lambda: found.append(generate(live, batch, 4, logits_processor=held)))
    thread.start()
    begun.wait(60)
    with pytest.raises(AutoPruneError, match="still runs"):
        handle.close(timeout=0.01)
    assert attached.attached
    closing = threading.Thread(target=handle.close)
    closing.start()
    go.set()
    thread.join(60)
    closing.join(60)
    assert difference(found[0], expected) == 0.0
    assert not attached.attached
    attached.detach()
    handle.close()
    with pytest.raises(AutoPruneError, match="handle is closed"):
        handle.attach(live)


def test_detaching_ends_while_requests_keep_coming(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    batch = inputs(9)
    plain = generate(live, batch, 3)
    with made("1/2").attach(live):
        pruned = generate(live, batch, 3)
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go.wait(60)

    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle:
        attached = handle.attach(live)
        found: list[Any] = []
        held = LogitsProcessorList([Move(hold)])
        first = threading.Thread(target=lambda: found.append(generate(live, batch, 3, logits_processor=held)))
        first.start()
        begun.wait(60)
        detaching = threading.Thread(target=attached.detach)
        detaching.start()
        until(lambda: attached.session._requests._closings)
        late: list[Any] = []
        detach_amid = Move(lambda: (go.set(), first.join(60), detaching.join(60)))
        amid = LogitsProcessorList([detach_amid])
        assert difference(generate(live, batch, 3), plain) == 0.0, "begun while it is being detached: unpruned"
        late.append(generate(live, batch, 3, logits_processor=amid))
        assert not attached.attached
        assert difference(found[0], pruned) == 0.0, "begun before: pruned to its end"
        assert difference(late[0], plain) == 0.0, "detaching did not wait for it, and did not tear it"
        assert difference(generate(live, batch, 3), plain) == 0.0


def test_a_request_that_began_before_attach_ends_unpruned(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    batch = inputs(9)
    plain = generate(live, batch, 3)
    early = live.generate
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle:
        attach = LogitsProcessorList([Move(lambda: handle.attach(live))])
        assert difference(generate(live, batch, 3, logits_processor=attach), plain) == 0.0
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
        found = early(**batch, **options, output_logits=True, return_dict_in_generate=True)
        assert difference(found, plain) == 0.0
        assert handle.status().served["prefills"] == 0
        assert kept(live) == 18


def test_closing_restores_every_model_it_can(tmp_path: Path, live: Any) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    handle = autoprune.PolicyHandle(tmp_path / "p", refresh=None)
    attached, other = handle.attach(live), handle.attach(model("qwen2_vl"))

    def close() -> None:
        with pytest.raises(AutoPruneError, match="still runs"):
            handle.close(timeout=0.01)

    generate(live, inputs(9), 2, logits_processor=LogitsProcessorList([Move(close)]))
    assert attached.attached
    assert not other.attached
    handle.close()
    assert not attached.attached


@pytest.mark.parametrize("refresh", ["soon", "0s", -1, "10 parsecs"])
def test_a_refresh_is_a_duration(refresh: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"refresh: .*duration"):
        autoprune.PolicyHandle(tmp_path, refresh)


def test_a_reference_to_nothing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no policy file or folder"):
        autoprune.PolicyHandle(tmp_path / "none")
    with pytest.raises(BadInput, match="is not a policy URI"):
        autoprune.PolicyHandle("models:/pruner")


def test_serving_imports_only_what_it_needs(tmp_path: Path, saved_model: Path) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    code = """
import sys
import autoprune
handle = autoprune.PolicyHandle(sys.argv[1], refresh="60s")
from transformers import LlavaForConditionalGeneration
with handle.attach(LlavaForConditionalGeneration.from_pretrained(sys.argv[2])), autoprune.using(None):
    pass
handle.close()
unwanted = ("optuna", "ray", "sqlalchemy", "mlflow", "alembic", "matplotlib", "typer", "rich", "datasets")
print([n for n in unwanted if n in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p"), str(saved_model)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_the_policy_in_force_can_be_asked_for(tmp_path: Path) -> None:
    made("1/2").save_pretrained(tmp_path / "p")
    with autoprune.PolicyHandle(tmp_path / "p", refresh=None) as handle:
        assert handle.policy == LoadedPolicy.from_pretrained(tmp_path / "p")
