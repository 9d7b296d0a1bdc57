"""A policy from wherever it is: the registry, a saved folder, a document, the catalog.

Importing this file imports neither torch nor MLflow; MLflow's client is needed for `models:/` and `runs:/` only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from autoprune.document.yaml import read
from autoprune.errors import BadInput
from autoprune.policy import catalog
from autoprune.policy.document import Policy
from autoprune.pruning.choosing import choose
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.saved import POLICY_FILE
from autoprune.registry.locate import tracking_uri as locate
from autoprune.registry.reference import ModelReference, is_uri, parse

SUFFIXES = (".yaml", ".yml", ".json")


def load_policy(
    uri_or_path: str | Path,
    tracking_uri: str | None = None,
    folders: Sequence[str | Path] = (),
    *,
    budget: float | None = None,
    max_prefill_ms: float | None = None,
    bounds: Sequence[str] = (),
) -> LoadedPolicy:
    """The policy that `uri_or_path` means, ready to attach.

    * `models:/<name>@<alias>`, `models:/<name>/<version>`, `runs:/<run id>/<folder>`: from MLflow at `tracking_uri`, or
      where `locate.tracking_uri` finds it;
    * a folder that `save_pretrained` wrote;
    * a YAML or JSON file with a policy document (made for no model in particular, so without measurements);
    * a name in `folders` or the catalog.

    With `budget`, `max_prefill_ms` or `bounds` it is the certified member of its front that fits (`choosing.choose`).
    Raises BadInput for something that doesn't exist, is corrupt or does not fit, AutoPruneError when MLflow fails.
    """
    text = str(uri_or_path)
    if budget is None and max_prefill_ms is None and not bounds:
        return _load(text, tracking_uri, folders)
    times = None
    if max_prefill_ms is not None:
        text, times = _timed(text, tracking_uri)
    loaded = _load(text, tracking_uri, folders)
    return choose(loaded, budget=budget, max_prefill_ms=max_prefill_ms, bounds=bounds, prefill_ms=times)


def _timed(text: str, tracking_uri: str | None) -> tuple[str, dict[str, float] | None]:
    """What is loaded, by version number where an alias was given, and what was timed of it on this machine."""
    from autoprune.measures.device import best_device, device_name
    from autoprune.registry import policies, timings

    where = locate(tracking_uri) if is_uri(text) else None
    if where is not None and isinstance(parse(text), ModelReference):
        version = policies.resolve(text, where)
        text = f"models:/{version.name}/{version.version}"
    return text, timings.known(text, where, device_name(best_device()))


def _load(text: str, tracking_uri: str | None, folders: Sequence[str | Path]) -> LoadedPolicy:
    if is_uri(text):
        return _from_mlflow(text, tracking_uri)
    if "://" in text:
        raise BadInput(
            f"{text!r}: policies are loaded from models:/…, runs:/…, a folder, a file or the catalog, not from URLs",
            code="not-a-uri",
        )
    path = Path(text).expanduser()
    named = path.name == text and not text.endswith(SUFFIXES)
    if (path / POLICY_FILE).is_file() or (path.is_dir() and not named):
        return LoadedPolicy.from_pretrained(path)
    if path.is_file():
        return _from_file(path)
    if not named:
        raise BadInput(f"there is no policy file or folder {path}", code="no-such-file")
    return _from_file(catalog.find("policies", text, folders))


def _from_mlflow(uri: str, tracking_uri: str | None) -> LoadedPolicy:
    from autoprune.registry.policies import download

    parse(uri)  # a misspelt URI is said before anything is looked for
    where = locate(tracking_uri)
    with tempfile.TemporaryDirectory(prefix="autoprune-policy-") as folder:
        return LoadedPolicy.from_pretrained(download(uri, where, Path(folder)))


def _from_file(path: Path) -> LoadedPolicy:
    source = read(path)
    return LoadedPolicy(Policy.from_source(source, RegisteredParts()), source=source)
