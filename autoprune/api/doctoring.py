"""`autoprune doctor`: is everything there that a search needs, and what to do if not. It looks, and changes nothing."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoprune.api import installation, state
from autoprune.api.installation import Finding
from autoprune.errors import AutoPruneError, BadInput
from autoprune.spec.load import LoadedSpec, load

TIGHT, ENOUGH = 100 * 2**20, 2 * 2**30
"""Bytes that must be free on a disk, and that should be."""
LATER = "is made by the first search"


def doctor(spec: str | Path | None = None) -> list[dict[str, str]]:
    """What was found, line by line: `{"name", "state": ok | warn | fail, "said", "todo"}`.

    With a spec also its own places: model, records, device, databases. Without one the nearest `.autoprune/` is looked
    at, where there is one.
    """
    findings = [*_installed()]
    loaded: LoadedSpec | None = None
    if spec is not None:
        loaded, about = _read(Path(spec))
        findings += about
    looks: list[Callable[[], Iterator[Finding]]] = [
        installation.torchvision,
        lambda: installation.devices(loaded),
        lambda: installation.ray(loaded),
        lambda: _places(loaded),
    ]
    for look in looks:
        findings += look()
    return [finding.to_json() for finding in findings]


def _installed() -> Iterator[Finding]:
    """Libraries that are as they should be share a line."""
    found = list(installation.versions())
    good = [f"{f.name} {f.said}" for f in found if f.state == "ok"]
    yield Finding("libraries", "ok", f"{len(good)} in their tested ranges: {', '.join(good)}")
    yield from (f for f in found if f.state != "ok")


def _read(path: Path) -> tuple[LoadedSpec | None, list[Finding]]:
    from autoprune.check import check

    try:
        loaded = load(path)
    except BadInput as error:
        return None, [Finding("spec", "fail", str(error), "correct the spec: everything else was looked at without it")]
    try:
        warnings = check(path).warnings
    except BadInput as error:
        return loaded, [Finding("spec", "fail", str(error), "correct it; `autoprune validate` shows the same")]
    return loaded, [Finding("spec", "ok", str(path)), *(Finding("spec", "warn", str(w)) for w in warnings)]


# --------------------------------------------------------------------------------------------------- databases and disk
def _places(loaded: LoadedSpec | None) -> Iterator[Finding]:
    home = _home() if loaded is None else loaded.state_folder
    yield from _disk(home)
    if loaded is None and home is None:
        yield Finding("databases", "ok", "no .autoprune/ here or above: give a spec to have its databases looked at")
        return
    store = f"sqlite:///{home}/autoprune.db" if loaded is None else state.store_url(loaded)
    sampler = _sampler_url(loaded, home)
    yield from _store(store)
    yield from _sampler(sampler)
    yield from _registry(loaded, home)


def _home() -> Path | None:
    here = Path.cwd()
    return next((f / state.FOLDER for f in (here, *here.parents) if (f / state.FOLDER).is_dir()), None)


def _disk(home: Path | None) -> Iterator[Finding]:
    """Room where the studies lie; a disk that is full stops a search."""
    folder = home or Path.cwd()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < ENOUGH:
        yield Finding("disk", "fail" if free < TIGHT else "warn", said, f"make room: {ENOUGH / 2**30:g} GiB are enough")
    else:
        yield Finding("disk", "ok", said)


def _absent(url: str) -> str | None:
    """The file of a SQLite URL that is not there yet."""
    path = url.partition(":///")[2].partition("?")[0]
    return path if url.startswith("sqlite") and not Path(path).is_file() else None


def _store(url: str) -> Iterator[Finding]:
    from autoprune.store.condition import condition

    if (path := _absent(url)) is not None:
        yield Finding("store", "ok", f"{path} {LATER}")
        return
    try:
        found = condition(url)
    except AutoPruneError as error:
        yield Finding("store", "fail", str(error), "see above; studies continue when it is back")
        return
    if not found.is_current:
        todo = "the next command that opens it brings it up to date; make a copy before, if older versions use it too"
        yield Finding("store", "warn", f"{found.where}: tables of revision {found.revision}, not {found.head}", todo)
    else:
        yield Finding("store", "ok", f"{found.where}: {found.studies} studies, tables are up to date")
    if found.waiting:
        said = f"{found.waiting} results wait to be published"
        yield Finding("outbox", "warn", said, "`autoprune sync` publishes them, as does the next search")
    for study in found.abandoned:
        said = f"study {study} is marked as running, and nobody drives it: its driver died"
        yield Finding("study", "warn", said, "`autoprune search` with its spec continues it")
    for line in found.driven:
        yield Finding("study", "ok", line)


def _sampler_url(loaded: LoadedSpec | None, home: Path | None) -> str:
    if loaded is not None and not state.store_url(loaded).startswith("sqlite"):
        return ""  # a schema beside the store's: the store's line speaks for the server
    return f"sqlite:///{(home or Path()) / 'optuna.db'}"


def _sampler(url: str) -> Iterator[Finding]:
    if not url:
        return
    if (path := _absent(url)) is not None:
        yield Finding("sampler", "ok", f"{path} {LATER}")
        return
    from autoprune.search.sampler_storage import storage_of

    try:
        storage_of(url)
    except Exception as error:  # noqa: BLE001  (Optuna raises RuntimeError, SQLAlchemy's errors and others)
        todo = "move the file away: the sampler's memory is rebuilt from the store"
        yield Finding("sampler", "fail", f"{url}: {str(error).splitlines()[0]}", todo)
    else:
        yield Finding("sampler", "ok", f"{url.removeprefix('sqlite:///')}: Optuna can open it")


def _registry(loaded: LoadedSpec | None, home: Path | None) -> Iterator[Finding]:
    if importlib.util.find_spec("mlflow") is None:
        return  # said with the libraries
    from autoprune.registry.client import check_reachable, shown
    from autoprune.registry.locate import tracking_uri

    try:
        uri: Any = tracking_uri() if loaded is None else state.mlflow_uri(loaded)
    except BadInput:
        yield Finding("MLflow", "ok", f"{home}/mlflow.db {LATER}")
        return
    if (path := _absent(uri)) is not None:
        yield Finding("MLflow", "ok", f"{path} {LATER}")
        return
    try:
        check_reachable(uri)
    except BadInput as error:
        yield Finding("MLflow", "fail", str(error), "searches that run go on without it, and publish when it is back")
    else:
        yield Finding("MLflow", "ok", shown(uri))
