"""The `MLmodel` of a version: what MLflow reads to know what it has. No code, no pickle: names of modules only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.registry import names

NEW_TOKENS = 64
# What `mlflow.pyfunc.load_model(…, model_config={…})` may change; docs/registry.md says what each does.
CONFIG: dict[str, Any] = {
    "model": None,
    "device": "auto",
    "budget": None,
    "strict": False,
    "files": True,
}


def write_mlmodel(folder: Path, run_id: str, place: str) -> None:
    """Write `MLmodel` into a version's folder."""
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import DataType, ParamSchema, ParamSpec

    asked = ParamSchema([ParamSpec("max_new_tokens", DataType.long, NEW_TOKENS)])
    model = Model(run_id=run_id, artifact_path=place, signature=ModelSignature(params=asked))
    model.add_flavor(names.FLAVOR, loader_module="autoprune.registry.load", schema="autoprune/policy/1")
    pyfunc.add_to_model(model, loader_module=names.PYFUNC_LOADER, model_config=CONFIG)
    model.save(str(folder / "MLmodel"))
