"""A small model on disk and an MLflow registry with an alias to move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving_support import Registry, model

from autoprune.models import fingerprint


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model")
    model().save_pretrained(target)
    return target


@pytest.fixture
def live(saved_model: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(saved_model).eval()


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database; making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    code = f"from autoprune.registry.tracking import check_reachable; check_reachable('sqlite:///{path}')"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return path


@pytest.fixture
def registry(empty_registry: Path, saved_model: Path, tmp_path: Path) -> Registry:
    (tmp_path / "mlflow.db").write_bytes(empty_registry.read_bytes())
    return Registry(tmp_path, fingerprint(saved_model))
