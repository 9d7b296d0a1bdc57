"""Where things are kept: relative to the spec, not to where the command was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune import api
from autoprune.api import state
from autoprune.errors import AutoPruneError
from autoprune.spec.load import LoadedSpec, load

SPEC = """\
schema: autoprune/spec/1
name: case
model: {path: model}
calibration: {records: records.jsonl, search: 2}
search_space: fastv
objectives: [minimize budget]
"""
POLICY = """\
schema: autoprune/policy/1
name: fastv
stages: [{at: llm:1/2, keep: 1/8, score: {feature_norm: {space: keys}}}]
"""


def spec(folder: Path, output: str = "") -> LoadedSpec:
    (folder / "spec.yaml").write_text(SPEC + output)
    return load(folder / "spec.yaml")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: not the spec's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def test_everything_embedded_is_beside_the_spec(tmp_path: Path, elsewhere: Path) -> None:
    home = tmp_path / ".autoprune"
    loaded = spec(tmp_path)
    assert state.store_url(loaded) == f"sqlite:///{home / 'autoprune.db'}"
    assert state.optuna_url(loaded) == f"sqlite:///{home / 'optuna.db'}"


@pytest.mark.mlflow
def test_the_spec_comes_before_the_environment(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state.mlflow_uri(spec(tmp_path)) == f"sqlite:///{tmp_path / '.autoprune' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert state.mlflow_uri(spec(tmp_path)) == "http://server"
    assert state.mlflow_uri(spec(tmp_path, "output: {tracking_uri: 'http://mine'}")) == "http://mine"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sqlite:///runs/a.db", "sqlite:///{folder}/runs/a.db"),
        ("sqlite:////absolute/a.db", "sqlite:////absolute/a.db"),
        ("sqlite+pysqlite:///a.db", "sqlite+pysqlite:///{folder}/a.db"),
        ("postgresql+psycopg://user@host/db", "postgresql+psycopg://user@host/db"),
        ("postgresql:///db", "postgresql:///db"),
    ],
)
def test_sqlite_files_are_named_relative_to_the_spec(tmp_path: Path, elsewhere: Path, written: str, meant: str) -> None:
    loaded = spec(tmp_path, f"output: {{store: '{written}', tracking_uri: '{written}'}}")
    expected = meant.format(folder=tmp_path)
    assert state.store_url(loaded) == expected


@pytest.mark.mlflow
def test_so_is_a_relative_tracking_database(tmp_path: Path, elsewhere: Path) -> None:
    loaded = spec(tmp_path, "output: {tracking_uri: 'sqlite:///runs/m.db'}")
    assert state.mlflow_uri(loaded) == f"sqlite:///{tmp_path}/runs/m.db"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / ".autoprune").write_text("a file is in the way")
    with pytest.raises(AutoPruneError, match=r"\.autoprune.* cannot be made"):
        state.study_folder(spec(tmp_path), "case-1")
    with pytest.raises(AutoPruneError, match=r"\.autoprune.* cannot be made"):
        state.optuna_url(spec(tmp_path))


def test_own_policies_come_before_the_catalog(tmp_path: Path, elsewhere: Path) -> None:
    shipped = api.load_policy("fastv").policy
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "fastv.yaml").write_text(POLICY)
    (tmp_path / "policies" / "extra.yaml").write_text(POLICY.replace("name: fastv", "name: extra"))
    assert api.load_policy("fastv").policy == shipped  # the folder of another study is none of ours
    (tmp_path / ".autoprune").mkdir()
    assert api.load_policy("fastv").policy != shipped
    assert {"extra", "divprune"} <= {p["name"] for p in api.list_policies()["catalog"]}


def test_own_policies_in_the_current_folder(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "policies").mkdir()
    (elsewhere / "policies" / "extra.yaml").write_text(POLICY.replace("name: fastv", "name: extra"))
    assert api.load_policy("extra").policy.name == "extra"


def test_a_registry_that_was_named_and_is_away_is_said(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    assert api.list_policies()["registered"] == []  # nobody named one
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(AutoPruneError, match=r"127\.0\.0\.1:9"):
        api.list_policies()


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("running", "a search is at work on this study"),
        ("failed", "the search failed"),
        ("interrupted", "not come to its end"),
    ],
)
def test_a_study_without_a_front_says_how_it_stands(found: str, says: str) -> None:
    from autoprune.api.reading import _unfinished

    document = _unfinished("s", found, [])
    assert document["explanations"] == {"stopped": {"reason": found}}
    (line,) = document["explanation"]
    assert says in line
    assert "`autoprune search` with the same spec continues it" in line


def test_what_cannot_be_written_is_said(elsewhere: Path) -> None:
    from autoprune.figures import hypervolume_figure, save

    (elsewhere / "file").write_text("")
    with pytest.raises(AutoPruneError, match="cannot be written"):
        save(hypervolume_figure([(1, 0.5)]), elsewhere / "file" / "curve.png")
    with pytest.raises(AutoPruneError, match="cannot be written"):
        api.export_policy("fastv", elsewhere / "file" / "folder")
