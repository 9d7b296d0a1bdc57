"""Versions and aliases of registered policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import AutoPruneError, BadInput
from autoprune.pruning.saved import digest_of
from autoprune.registry import aliases, names, policies
from autoprune.registry import client as mlflow_client

pytestmark = pytest.mark.mlflow


@pytest.fixture
def run_id(uri: str, tmp_path: Path) -> str:
    client = mlflow_client.connect(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "art").as_uri())
    return str(client.create_run(experiment).info.run_id)


def _tags(digest: str, study: str = "s1") -> dict[str, str]:
    return {names.DIGEST_TAG: digest * 64, names.STUDY_TAG: study, "exact_match": "0.91"}


def _register(uri: str, run_id: str, folder: Path, digest: str, study: str = "s1", name: str = "pol") -> int:
    return policies.register(uri, name, folder, run_id=run_id, tags=_tags(digest, study))


def test_registers_plain_files_under_the_candidate_alias(uri, run_id, saved_policy, tmp_path):
    assert _register(uri, run_id, saved_policy, "a") == 1
    (version,) = policies.versions(uri, "pol")
    assert version.aliases == ("candidate",)
    assert version.tags["exact_match"] == "0.91"
    assert version.run_id == run_id
    folder = policies.download("models:/pol@candidate", uri, tmp_path / "d")
    assert {p.name for p in folder.iterdir()} == {"policy.yaml", "metadata.json", "front.json", "MLmodel"}
    assert (folder / "policy.yaml").read_text() == (saved_policy / "policy.yaml").read_text()
    from mlflow.models import Model

    assert list(Model.load(str(folder / "MLmodel")).flavors) == [names.FLAVOR, "python_function"]
    assert {p.name for p in saved_policy.iterdir()} == {"policy.yaml", "metadata.json", "front.json"}, (
        "the source is not touched"
    )


def test_the_same_policy_of_the_same_study_is_the_same_version(uri, run_id, saved_policy):
    assert [_register(uri, run_id, saved_policy, "a") for _ in range(2)] == [1, 1]
    assert _register(uri, run_id, saved_policy, "b") == 2
    assert _register(uri, run_id, saved_policy, "a", study="s2") == 3
    assert [v.aliases for v in policies.versions(uri, "pol")] == [(), (), ("candidate",)]


def test_a_reference_is_resolved_without_listing_the_versions(uri, run_id, saved_policy, monkeypatch):
    _register(uri, run_id, saved_policy, "a")
    aliases.promote(uri, "pol", 1)
    monkeypatch.setattr(policies, "_all_versions", lambda *_: pytest.fail("all versions were listed"))
    for reference in ("models:/pol@champion", "models:/pol/1"):
        found = policies.resolve(reference, uri)
        assert (found.version, found.aliases) == (1, ("candidate", "champion"))


def test_unknown_names_versions_and_aliases(uri, run_id, saved_policy):
    _register(uri, run_id, saved_policy, "a")
    aliases.promote(uri, "pol", 1)
    with pytest.raises(BadInput, match=r"no registered policy 'poll'.*registered: pol; did you mean 'pol'\?"):
        policies.versions(uri, "poll")
    with pytest.raises(BadInput, match=r"no alias 'champoin'.*did you mean 'champion'\?"):
        policies.download("models:/pol@champoin", uri)
    with pytest.raises(BadInput, match="has no version 7; it has 1"):
        aliases.promote(uri, "pol", 7)
    with pytest.raises(BadInput, match="has no version 7; it has 1"):
        policies.resolve("models:/pol/7", uri)
    with pytest.raises(BadInput, match="is not a policy URI"):
        policies.resolve("models:/pol", uri)
    with pytest.raises(BadInput, match=f"runs:/{'0' * 32}/policy is not at"):
        policies.download(f"runs:/{'0' * 32}/policy", uri)


def test_what_cannot_be_registered(uri, run_id, saved_policy, tmp_path):
    with pytest.raises(BadInput, match=rf"needs the tags {names.STUDY_TAG}"):
        policies.register(uri, "pol", saved_policy, run_id=run_id, tags={names.DIGEST_TAG: "a"})
    with pytest.raises(BadInput, match="not a saved policy"):
        _register(uri, run_id, tmp_path / "none", "a")
    with pytest.raises(BadInput, match="cannot name a registered policy"):
        _register(uri, run_id, saved_policy, "a", name="it's")
    mlflow_client.connect(uri).create_registered_model("classifier")
    with pytest.raises(BadInput, match="models of another kind"):
        _register(uri, run_id, saved_policy, "a", name="classifier")
    assert policies.registered(uri) == []


def test_a_run_s_folder_can_be_downloaded_too(uri, run_id, saved_policy):
    _register(uri, run_id, saved_policy, "a")
    folder = policies.download(f"runs:/{run_id}/policies/{digest_of(saved_policy)[:16]}", uri)
    assert (folder / "policy.yaml").is_file()


def test_reading_makes_no_database(tmp_path):
    with pytest.raises(BadInput, match="there is no MLflow database"):
        policies.versions(f"sqlite:///{tmp_path}/typo.db", "pol")
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_is_away_is_an_outage(refusing):
    with pytest.raises(AutoPruneError, match="no connection") as caught:
        policies.versions(refusing, "pol")
    assert not isinstance(caught.value, BadInput)
