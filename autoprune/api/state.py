"""Where things are kept: the store, Optuna's database, MLflow, and the study's own folder."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, BadInput, Located
from autoprune.spec.load import LoadedSpec, load

if TYPE_CHECKING:
    from autoprune.store.store import Store

FOLDER = ".autoprune"
FIGURES = (".png", ".svg", ".pdf")


def store_url(loaded: LoadedSpec) -> str:
    """The spec's own URL, else `.autoprune/autoprune.db` beside it."""
    url = loaded.spec.output.store
    return f"sqlite:///{loaded.state_folder / 'autoprune.db'}" if url is None else _beside(loaded, url)


def _beside(loaded: LoadedSpec, url: str) -> str:
    """A SQLite file is named relative to the spec, like every path in it; other URLs stay as they are."""
    scheme, mark, path = url.partition(":///")
    relative = mark and scheme.partition("+")[0] == "sqlite" and path not in ("", ":memory:")
    return f"{scheme}:///{loaded.path(path)}" if relative else url


def optuna_url(loaded: LoadedSpec) -> str:
    """The sampler's memory: its own file, or its own schema on the store's server (two Alembic histories never mix)."""
    url = loaded.spec.output.store
    if url is None or url.startswith("sqlite"):
        _make(loaded.state_folder)
        return f"sqlite:///{loaded.state_folder / 'optuna.db'}"
    from autoprune.store.engine import in_schema

    return in_schema(url, "optuna")


def mlflow_uri(loaded: LoadedSpec) -> str | None:
    """The spec's URI, else MLFLOW_TRACKING_URI, else `.autoprune/mlflow.db`; None without mlflow installed."""
    if importlib.util.find_spec("mlflow") is None:
        return None
    from autoprune.registry.locate import embedded

    if loaded.spec.output.tracking_uri is not None:
        return _beside(loaded, loaded.spec.output.tracking_uri)
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded(loaded.state_folder)


def open_existing(where: str | None, study: str | None) -> tuple[Store, str | None]:
    """The store that `--store`, a spec file or the nearest `.autoprune/` names, and the study asked for.

    `study` may be a spec file: then its store is opened and its name is the study. Raises BadInput if there is none.
    """
    from autoprune.store import open_store

    if study is not None and study.endswith((".yaml", ".yml")):
        loaded = load(study)
        return open_store(_existing(where or store_url(loaded))), loaded.spec.name
    if where is not None:
        return open_store(_existing(where)), study
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER / "autoprune.db").is_file():
            return open_store(f"sqlite:///{folder / FOLDER / 'autoprune.db'}"), study
    raise BadInput(
        f"no store: give --store URL or a spec file, or work in or below a folder with {FOLDER}/; "
        f"looked upward from {here}"
    )


def _existing(url: str) -> str:
    """Looking must not create: a SQLite file has to be there already."""
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise BadInput(f"no store at {url}: nothing was searched there yet")
    return url


def check_machine(loaded: LoadedSpec) -> None:
    """Raises BadInput for libraries and devices that the spec needs and this machine lacks."""
    from autoprune.pruning.loaded import refuse_untested

    refuse_untested(version("transformers"))
    beside = loaded.state_folder if loaded.state_folder.is_dir() else loaded.folder
    if not os.access(beside, os.W_OK):
        raise AutoPruneError(f"{beside} is not writable: a study keeps its state in {FOLDER}/ beside the spec")
    with loaded.at(("model", "device")):
        check_device(loaded.spec.model.device)


def check_device(device: str) -> None:
    """Raises BadInput for a device that torch does not see here."""
    if device == "cpu":
        return
    import torch

    kind, _, number = device.partition(":")
    if kind == "cuda" and torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count():
        return
    if kind == "mps" and torch.backends.mps.is_available():
        return
    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    raise BadInput(
        f"device {device!r} is not there; this machine has {', '.join(['cpu', *there])}", code="no-such-device"
    )


def check_executor(kind: str) -> None:
    """Raises BadInput for an executor whose library is not installed."""
    if kind in ("ray", "ray-tune") and importlib.util.find_spec("ray") is None:
        raise BadInput(
            f"executor {kind}: Ray is not installed (pip install 'autoprune[ray]'); inline needs nothing",
            code="not-installed",
        )


def lacking(loaded: LoadedSpec) -> tuple[Located, ...]:
    """What a search of this spec needs and this machine lacks; another one may have it."""
    spec, found = loaded.spec, []
    for path, look, needed in (
        (("model", "device"), check_device, spec.model.device),
        (("search", "executor"), check_executor, spec.search.executor.kind),
    ):
        try:
            look(needed)
        except BadInput as error:
            found.append(loaded.source.problem(path, error.code, str(error)))
    return tuple(found)


def check_figure(path: Path | None) -> None:
    """Raises BadInput for a file no figure can be written to, before anything is computed for it."""
    if path is not None and path.suffix.lower() not in FIGURES:
        raise BadInput(f"a figure is written as {', '.join(FIGURES)}; not {path.name!r}")
    if path is not None and not path.parent.is_dir():
        raise BadInput(f"no such folder: {path.parent}", code="no-such-file")


def study_folder(loaded: LoadedSpec, study_id: str) -> Path:
    """`.autoprune/studies/<id>/`, made if needed."""
    return _make(loaded.state_folder / "studies" / study_id)


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


def user_folders(kind: str) -> tuple[Path, ...]:
    """The user's own `policies/`, … where no spec is named: in the current folder, and beside the nearest `.autoprune/`
    upward (which lies beside its spec)."""
    here = Path.cwd()
    home = next((folder for folder in (here, *here.parents) if (folder / FOLDER).is_dir()), here)
    return tuple(dict.fromkeys((here / kind, home / kind)))


def summary(found: Any) -> Mapping[str, Any]:
    """A study summary as plain data."""
    return {key: value if isinstance(value, int | float | dict) else str(value) for key, value in asdict(found).items()}
