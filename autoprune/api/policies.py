"""Policies by name: load, list, show, compare, promote, export."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api.methods import sites
from autoprune.api.state import user_folders
from autoprune.document.yaml import read
from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy import catalog
from autoprune.policy.diff import diff
from autoprune.policy.document import Policy

if TYPE_CHECKING:
    from autoprune.pruning.loaded import LoadedPolicy


def load_policy(
    uri: str | Path,
    *,
    tracking_uri: str | None = None,
    budget: float | None = None,
    max_prefill_ms: float | None = None,
    bounds: Sequence[str] = (),
) -> LoadedPolicy:
    """A policy to attach: `models:/name@alias`, `models:/name/3`, a folder, a YAML file, or a catalog name.

    A registered version holds a whole front. `budget=0.25` (share of the visual tokens), `max_prefill_ms=80` (as
    `autoprune policy time` measured it on this machine) and `bounds=["exact_match >= 0.98 * baseline"]` pick the
    certified member that fits: the gentlest where a cost is limited, else the cheapest.

    The tracking URI of `models:/` is the argument, else MLFLOW_TRACKING_URI, else the nearest `.autoprune/` upward. A
    name in `policies/` of the current folder, or beside that `.autoprune/`, comes before one of the catalog.
    Raises BadInput where there is no such policy, it is corrupt, or none fits.
    """
    from autoprune.registry.load import load_policy as load

    return load(
        str(uri),
        tracking_uri=tracking_uri,
        folders=user_folders("policies"),
        budget=budget,
        max_prefill_ms=max_prefill_ms,
        bounds=tuple(bounds),
    )


def list_policies(tracking_uri: str | None = None) -> dict[str, Any]:
    """The catalog (the user's own `policies/` included), and the registered versions where a registry is found."""
    listed, folders = [], user_folders("policies")
    for name in catalog.names("policies", folders):
        policy = Policy.from_source(read(catalog.find("policies", name, folders)))
        listed.append({"name": name, "sites": ", ".join(sites(policy)), "paper": policy.paper or ""})
    return {"catalog": listed, "registered": _registered(tracking_uri)}


def _registered(tracking_uri: str | None) -> list[dict[str, Any]]:
    from autoprune.registry.locate import tracking_uri as locate

    if importlib.util.find_spec("mlflow") is None:
        return []
    from autoprune.registry.policies import registered, versions

    try:
        uri = locate(tracking_uri)
        found = registered(uri)
    except AutoPruneError:
        if tracking_uri is not None or os.environ.get("MLFLOW_TRACKING_URI"):
            raise
        return []  # nobody asked for a registry, and the catalog can be listed without one
    return [
        {
            "name": model.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "policy": version.tags.get("autoprune.policy", ""),
        }
        for model in found
        for version in versions(uri, model.name)
    ]


def show_policy(uri: str, tracking_uri: str | None = None) -> dict[str, Any]:
    """A policy's document, as YAML and as data, and its metadata."""
    loaded = load_policy(uri, tracking_uri=tracking_uri)
    return {"document": loaded.policy.dump(), "yaml": loaded.policy.to_yaml(), "metadata": dict(loaded.metadata)}


def diff_policies(a: str, b: str, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """What differs between two policies, by key path."""
    first, second = (load_policy(uri, tracking_uri=tracking_uri).policy for uri in (a, b))
    return [{"path": c.path, "before": c.before, "after": c.after} for c in diff(first, second)]


def promote(uri: str, tracking_uri: str | None = None, *, by: str | None = None) -> dict[str, Any]:
    """Make `models:/name@alias` or `models:/name/3` the champion; the champion so far becomes `previous`. `by`: what
    the record of the move says of who did it (default: this user)."""
    from autoprune.registry import aliases
    from autoprune.registry.locate import tracking_uri as locate
    from autoprune.registry.reference import ModelReference, parse

    reference = parse(uri)
    if not isinstance(reference, ModelReference):
        raise BadInput(
            f"{uri!r} is no registered version; write models:/NAME@candidate or models:/NAME/3", code="not-a-uri"
        )
    moved = aliases.promote(locate(tracking_uri), reference.name, reference.version or str(reference.alias), by=by)
    return {"name": moved.name, "champion": moved.version, "previous": moved.previous}


def rollback(name: str, tracking_uri: str | None = None, *, by: str | None = None) -> dict[str, Any]:
    """Make the previous champion of a registered policy (`NAME` or `models:/NAME`) the champion again; the one it
    replaces becomes `previous`."""
    from autoprune.registry import aliases
    from autoprune.registry.locate import tracking_uri as locate

    moved = aliases.rollback(locate(tracking_uri), _name(name), by=by)
    return {"name": moved.name, "champion": moved.version, "previous": moved.previous}


def policy_history(name: str, tracking_uri: str | None = None) -> dict[str, Any]:
    """The versions of a registered policy with where each came from and what was proven of it, and every move of the
    champion, newest first (`registry/history.py` says what is in it)."""
    from autoprune.registry.history import history
    from autoprune.registry.locate import tracking_uri as locate

    return history(locate(tracking_uri), _name(name))


def _name(text: str) -> str:
    """`NAME`, `models:/NAME` and `models:/NAME@alias` all mean the registered policy."""
    from autoprune.registry.reference import ModelReference, is_uri, parse

    if not is_uri(text):
        return text
    bare = text.removeprefix("models:/")
    if bare != text and bare and not set(bare) & set("@/"):
        return bare
    reference = parse(text)
    if not isinstance(reference, ModelReference):
        raise BadInput(f"{text!r} names no registered policy; write NAME or models:/NAME", code="not-a-uri")
    return reference.name


def export_policy(uri: str, folder: str | Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """Write a policy as plain files. Refuses a folder that holds something else."""
    loaded = load_policy(uri, tracking_uri=tracking_uri)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target} exists and is not an empty folder")
    try:
        loaded.save_pretrained(target)
    except OSError as error:
        raise AutoPruneError(f"{target} cannot be written: {error.strerror}") from error
    return {"folder": str(target), "files": sorted(path.name for path in target.iterdir())}
