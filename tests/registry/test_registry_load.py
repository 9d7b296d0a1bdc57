"""Loading a policy from everywhere it can be, and what that imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.errors import BadInput
from autoprune.measures.device import best_device, device_name
from autoprune.policy import catalog
from autoprune.policy.document import Policy
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.saved import digest_of
from autoprune.registry import aliases, names, policies, timings
from autoprune.registry import client as mlflow_client
from autoprune.registry.load import load_policy

DOCUMENT = {
    "schema": "autoprune/policy/1",
    "name": "chosen",
    "stages": [{"at": "llm:1", "keep": "1/2", "score": {"llm_attention": {"from": "last"}}}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "saved"
    LoadedPolicy(Policy.parse(DOCUMENT), None, {"budget": 0.5}).save_pretrained(target)
    return target


def _registered(uri: str, folder: Path, tmp_path: Path) -> str:
    client = mlflow_client.connect(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "art").as_uri())
    run_id = str(client.create_run(experiment).info.run_id)
    tags = {names.DIGEST_TAG: "a" * 64, names.STUDY_TAG: "s"}
    policies.register(uri, "pol", folder, run_id=run_id, tags=tags)
    aliases.promote(uri, "pol", "candidate")
    return run_id


@pytest.mark.mlflow
def test_by_alias_version_and_run(uri, folder, tmp_path):
    run_id = _registered(uri, folder, tmp_path)
    expected = LoadedPolicy.from_pretrained(folder)
    for name in ("models:/pol@champion", "models:/pol/1", f"runs:/{run_id}/policies/{digest_of(folder)[:16]}"):
        assert load_policy(name, uri) == expected
    assert load_policy("models:/pol@champion", uri).metadata == {"budget": 0.5}


@pytest.mark.mlflow
def test_the_registry_is_found_from_the_current_folder(uri, folder, tmp_path, monkeypatch):
    _registered(uri, folder, tmp_path)
    below = tmp_path / "deep" / "down"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert load_policy("models:/pol@champion").policy.name == "chosen"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(BadInput, match="no MLflow database"):
        load_policy("models:/pol@champion")


@pytest.mark.mlflow
def test_what_was_damaged_in_the_registry_is_not_loaded(uri, folder, tmp_path):
    _registered(uri, folder, tmp_path)
    (stored,) = tmp_path.glob("art/**/policy.yaml")
    stored.write_text(stored.read_text().replace("chosen", "altered"))
    with pytest.raises(BadInput, match="was changed after it was saved"):
        load_policy("models:/pol@champion", uri)


def test_folders_and_documents(folder, tmp_path):
    assert load_policy(folder).metadata == {"budget": 0.5}
    alone = load_policy(folder / "policy.yaml")
    assert (alone.policy.name, alone.fingerprint, dict(alone.metadata)) == ("chosen", None, {})
    as_json = tmp_path / "p.json"
    as_json.write_text(json.dumps(DOCUMENT))
    assert load_policy(str(as_json)).policy == alone.policy


def test_catalog_names_and_own_folders(folder, tmp_path, monkeypatch):
    name = catalog.names("policies")[0]
    assert load_policy(name).policy.name
    own = tmp_path / "own"
    own.mkdir()
    (own / f"{name}.yaml").write_text((folder / "policy.yaml").read_text())
    assert load_policy(name, folders=[own]).policy.name == "chosen"
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert load_policy(name).policy.name != "chosen", "an unrelated folder of that name does not hide the catalog"
    assert load_policy("saved").policy.name == "chosen"


def test_what_does_not_exist_is_said(tmp_path):
    with pytest.raises(BadInput, match=r"unknown policy 'fastvv'.*did you mean 'fastv'"):
        load_policy("fastvv")
    for path in (tmp_path / "no.yaml", tmp_path / "none"):
        with pytest.raises(BadInput, match="no policy file or folder"):
            load_policy(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="not a saved policy"):
        load_policy(tmp_path / "empty")
    with pytest.raises(BadInput, match="not from URLs"):
        load_policy("https://host/policy.yaml")
    with pytest.raises(BadInput, match="is not a policy URI"):
        load_policy("models:/pol")


def test_a_wrong_document_is_refused_with_its_position(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("schema: autoprune/policy/1\nname: x\nstages:\n  - {at: llm:1, keeep: 1/2}\n")
    with pytest.raises(BadInput, match=r"bad\.yaml:4:\d+: stages\[0\]\.keeep"):
        load_policy(path)


def test_importing_and_loading_is_light():
    """No file needs MLflow; only `models:/` and `runs:/` do."""
    code = (
        "import sys; from autoprune.registry.load import load_policy; load_policy('fastv');"
        "print(sorted({'torch', 'mlflow', 'optuna', 'ray', 'sqlalchemy', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_mlflow_a_registered_policy_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_client, "installed", lambda: False)
    with pytest.raises(BadInput, match=r"pip install 'autoprune\[mlflow\]'"):
        load_policy("models:/pol@champion", "http://127.0.0.1:1")


@pytest.mark.mlflow
def test_a_registered_front_is_chosen_from_by_budget_bounds_and_times(uri, saved_policy, tmp_path):
    _registered(uri, saved_policy, tmp_path)
    assert load_policy("models:/pol@champion", uri).policy.name == "strong"
    assert load_policy("models:/pol@champion", uri, budget=0.6).policy.name == "middle"
    assert load_policy("models:/pol/1", uri, bounds=["exact_match >= 0.97 * baseline"]).policy.name == "gentle"
    with pytest.raises(BadInput, match="'autoprune policy time' does"):
        load_policy("models:/pol@champion", uri, max_prefill_ms=80)
    times = {f"{'gentle':x<64}": 90.0, f"{'middle':x<64}": 79.0}
    timings.keep("models:/pol/1", uri, {"device": device_name(best_device()), "prefill_ms": times})
    assert load_policy("models:/pol@champion", uri, max_prefill_ms=80).policy.name == "middle"
    with pytest.raises(BadInput, match="no registered version"):
        timings.keep("models:/pol@champion", uri, {"device": "d", "prefill_ms": {}})
