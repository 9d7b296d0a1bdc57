"""Which registry is meant, and what a policy URI names."""

from __future__ import annotations

import pytest

from autoprune.errors import BadInput
from autoprune.registry.locate import tracking_uri
from autoprune.registry.reference import ModelReference, RunReference, is_uri, parse

ENVIRONMENT = {"MLFLOW_TRACKING_URI": "http://from-environment"}


def test_the_argument_wins_then_the_environment_then_the_nearest_folder(tmp_path):
    home = tmp_path / "project" / ".autoprune"
    home.mkdir(parents=True)
    (home / "mlflow.db").touch()
    inside = tmp_path / "project" / "a" / "b"
    inside.mkdir(parents=True)
    assert tracking_uri("sqlite:///x.db", environ=ENVIRONMENT, start=inside) == "sqlite:///x.db"
    assert tracking_uri(environ=ENVIRONMENT, start=inside) == "http://from-environment"
    assert tracking_uri(environ={}, start=inside) == f"sqlite:///{home}/mlflow.db"


def test_a_nearer_folder_wins_if_it_has_a_registry(tmp_path):
    outer, inner = tmp_path / ".autoprune", tmp_path / "sub" / ".autoprune"
    for home in (outer, inner):
        home.mkdir(parents=True)
    (outer / "mlflow.db").touch()
    assert tracking_uri(environ={}, start=tmp_path / "sub") == f"sqlite:///{outer}/mlflow.db"
    (inner / "mlflow.db").touch()
    assert tracking_uri(environ={}, start=tmp_path / "sub") == f"sqlite:///{inner}/mlflow.db"


def test_none_is_an_error_that_names_the_three(tmp_path):
    (tmp_path / ".autoprune").mkdir()
    with pytest.raises(BadInput) as caught:
        tracking_uri(environ={"MLFLOW_TRACKING_URI": ""}, start=tmp_path)
    message = str(caught.value)
    for word in ("argument", "MLFLOW_TRACKING_URI", ".autoprune/mlflow.db", str(tmp_path), "has no mlflow.db"):
        assert word in message


def test_policy_uris():
    assert parse("models:/pol@champion") == ModelReference("pol", "champion", None)
    assert parse("models:/my pol/3") == ModelReference("my pol", None, 3)
    assert parse("runs:/abc/policies/x/") == RunReference("abc", "policies/x")
    assert is_uri("models:/x@y")
    assert not is_uri("policies/fastv.yaml")


@pytest.mark.parametrize("uri", ["models:/", "models:/a", "models:/a/b", "models:/a@b/c", "models:/a@", "runs:/x", "x"])
def test_bad_policy_uris(uri):
    with pytest.raises(BadInput, match="is not a policy URI"):
        parse(uri)
