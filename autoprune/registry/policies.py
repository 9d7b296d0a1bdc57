"""Policies in MLflow's model registry: plain files, versions, and the aliases candidate, champion, previous.

A version is a folder of a run's artifacts with a hand-made `MLmodel` that names our flavor: nothing in it is code,
nothing is pickled. MLflow's alias is the truth for what is served (it is the only state that lives nowhere else).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.document.problems import suggest
from autoprune.errors import BadInput
from autoprune.pruning.saved import digest_of, read_folder
from autoprune.registry import client as mlflow_client
from autoprune.registry import names
from autoprune.registry.flavor import write_mlmodel
from autoprune.registry.page import page, tags_of
from autoprune.registry.reference import ModelReference, RunReference, parse

_NAME = re.compile(r"[\w.\- ]+")
_VALUE = 5000  # MLflow's limit on a version's tag


@dataclass(frozen=True)
class PolicyVersion:
    """One version of a registered policy."""

    name: str
    version: int
    source: str
    run_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    created: int = 0


@dataclass(frozen=True)
class RegisteredPolicy:
    """A registered policy's name, its aliases (alias -> version) and its newest version (0 = none yet)."""

    name: str
    aliases: Mapping[str, int]
    latest: int


# ------------------------------------------------------------------------------------------------------------- writing
def register(
    tracking_uri: str,
    name: str,
    folder: Path,
    *,
    run_id: str,
    tags: Mapping[str, str],
    alias: str | None = names.CANDIDATE,
) -> int:
    """Make a version of `name` from the files in `folder` and point `alias` at it; returns the version.

    `candidate` only moves forward: a finished search that runs again finds its own version and maybe a newer candidate.

    `tags` must hold the policy's digest and the study's id (`names.DIGEST_TAG`, `names.STUDY_TAG`): a version that has
    the same two and the same files (policy, metadata and the whole front) is that version, and no second one is made.
    `names.CAUSE_TAG` (default: a search) and `names.LINEAGE_TAG` (default: the champion, if there is one) say where it
    came from; measurements and verdicts become tags by themselves.

    Raises BadInput for missing tags, a folder without a sound policy or a name that belongs to other models;
    AutoPruneError when MLflow fails.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a registered policy: letters, digits, '.', '_', '-' and spaces only")
    missing = [tag for tag in (names.DIGEST_TAG, names.STUDY_TAG) if not tags.get(tag)]
    if missing:
        raise BadInput(f"a policy version needs the tags {', '.join(missing)}")
    saved = read_folder(folder)
    tags = {names.CAUSE_TAG: names.SEARCH, **tags_of(saved), **tags, names.ARTIFACT_TAG: digest_of(folder)}
    with mlflow_client.service(tracking_uri, f"registering {name!r}") as client:
        model = _ensure_registered(client, name)
        version = _find(client, name, tags)
        if version is None:
            if (champion := aliases_of(model).get(names.CHAMPION)) is not None:
                tags = {names.LINEAGE_TAG: str(champion), **tags}
            source = _upload(client, run_id, folder, tags[names.ARTIFACT_TAG])
            accepted = {names.key(tag): str(value)[:_VALUE] for tag, value in tags.items()}
            made = client.create_model_version(name, source=source, run_id=run_id, tags=accepted)
            version = int(made.version)
        client.update_model_version(name, str(version), page(saved, name, version))
        if alias is not None and not (alias == names.CANDIDATE and aliases_of(model).get(alias, 0) > version):
            client.set_registered_model_alias(name, alias, str(version))
    return version


def annotate(tracking_uri: str, name: str, version: int, tag: str, value: str) -> None:
    """Set a tag of a version; what it said before is replaced."""
    with mlflow_client.service(tracking_uri, f"noting something of {name!r} version {version}") as client:
        client.set_model_version_tag(name, str(version), names.key(tag), value[:_VALUE])


# ------------------------------------------------------------------------------------------------------------- reading
def registered(tracking_uri: str) -> list[RegisteredPolicy]:
    """All registered policies by name (other models in the same registry are left out)."""
    with mlflow_client.service(tracking_uri, "listing the registered policies") as client:
        models = [client.get_registered_model(m.name) for m in _all_models(client) if _is_ours(m)]
        return [RegisteredPolicy(m.name, aliases_of(m), _latest(client, m.name)) for m in models]


def versions(tracking_uri: str, name: str) -> list[PolicyVersion]:
    """All versions of a registered policy, oldest first. Raises BadInput for an unknown name."""
    with mlflow_client.service(tracking_uri, f"listing the versions of {name!r}") as client:
        aliases = aliases_of(_model(client, tracking_uri, name))
        found = [_version(v, aliases) for v in _all_versions(client, name)]
        return sorted(found, key=lambda v: v.version)


def resolve(uri: str, tracking_uri: str) -> PolicyVersion:
    """The version that `models:/name@alias` or `models:/name/3` means. Raises BadInput with a suggestion if unknown."""
    reference = parse(uri)
    if not isinstance(reference, ModelReference):
        raise BadInput(
            f"{uri!r} names a run; only models:/<name>@<alias> and models:/<name>/<version> have a version",
            code="not-a-uri",
        )
    with mlflow_client.service(tracking_uri, f"resolving {uri}") as client:
        aliases = aliases_of(_model(client, tracking_uri, reference.name))
        number = reference.version if reference.alias is None else aliases.get(reference.alias)
        found = None if number is None else _get_version(client, reference.name, number)
        if found is not None:
            return _version(found, aliases)
        if reference.alias is not None:
            raise BadInput(
                f"{reference.name!r} has no alias {reference.alias!r}; it has {', '.join(sorted(aliases)) or 'none'}"
                f"{suggest(reference.alias, sorted(aliases))}",
                code="unknown-name",
            )
        numbers = ", ".join(str(n) for n in sorted(int(v.version) for v in _all_versions(client, reference.name)))
    raise BadInput(
        f"{reference.name!r} has no version {reference.version}; it has {numbers or 'none'}", code="unknown-name"
    )


def download(uri: str, tracking_uri: str, into: Path | None = None) -> Path:
    """Copy a policy's files into a folder (a new temporary one by default) and return it.

    `uri` is `models:/<name>@<alias>`, `models:/<name>/<version>` or `runs:/<run id>/<folder>`. Raises BadInput for one
    that isn't there, or whose files are not those that were registered.
    """
    reference = parse(uri)
    registered_as = None
    if isinstance(reference, RunReference):
        source = f"runs:/{reference.run_id}/{reference.path}"
    else:
        version = resolve(uri, tracking_uri)
        source, registered_as = version.source, version.tags.get(names.ARTIFACT_TAG)
        if names.DIGEST_TAG not in version.tags:
            raise BadInput(f"{uri} is not a policy: the version has no {names.DIGEST_TAG} tag", code="not-a-policy")
    target = into or Path(tempfile.mkdtemp(prefix="autoprune-policy-"))
    with mlflow_client.service(tracking_uri, f"fetching {uri}"):
        from mlflow.artifacts import download_artifacts

        try:
            found = download_artifacts(artifact_uri=source, dst_path=str(target), tracking_uri=tracking_uri)
        except Exception as error:
            if into is None:
                shutil.rmtree(target, ignore_errors=True)
            if not mlflow_client.is_missing(error):
                raise
            where = mlflow_client.shown(tracking_uri)
            raise BadInput(f"{uri} is not at {where}: {mlflow_client.one_line(error)}", code="unknown-name") from error
    if registered_as is not None and digest_of(Path(found)) != registered_as:
        if into is None:
            shutil.rmtree(target, ignore_errors=True)
        raise BadInput(f"{uri} was changed after it was saved: its files are not those that were registered")
    return Path(found)


def aliases_of(model: Any) -> dict[str, int]:
    """alias -> version of a registered model as MLflow gives it."""
    return {alias: int(version) for alias, version in dict(model.aliases).items()}


# ------------------------------------------------------------------------------------------------------------- details
def _ensure_registered(client: Any, name: str) -> Any:
    model = _get(client, name)
    if model is None:
        return client.create_registered_model(name, tags={names.KIND_TAG: names.POLICY_KIND})
    if not _is_ours(model):
        raise BadInput(f"the registered model {name!r} holds models of another kind; choose another name for policies")
    return model


def _model(client: Any, tracking_uri: str, name: str) -> Any:
    model = _get(client, name)
    if model is None:
        known = [m.name for m in _all_models(client) if _is_ours(m)]
        raise BadInput(
            f"there is no registered policy {name!r} at {mlflow_client.shown(tracking_uri)}; "
            f"registered: {', '.join(known) or 'none'}{suggest(name, known)}",
            code="unknown-name",
        )
    return model


def _get(client: Any, name: str) -> Any:
    """The registered model, or None."""
    try:
        return client.get_registered_model(name)
    except Exception as error:
        if not mlflow_client.is_missing(error):
            raise
        return None


def _get_version(client: Any, name: str, number: int) -> Any:
    """The version, or None."""
    try:
        return client.get_model_version(name, str(number))
    except Exception as error:
        if not mlflow_client.is_missing(error):
            raise
        return None


def _upload(client: Any, run_id: str, folder: Path, digest: str) -> str:
    """Put the folder and its `MLmodel` among the run's artifacts; returns where."""
    place = f"policies/{digest[:16]}"
    with tempfile.TemporaryDirectory(prefix="autoprune-register-") as scratch:
        copy = Path(scratch) / "policy"
        shutil.copytree(folder, copy)
        write_mlmodel(copy, run_id, place)
        client.log_artifacts(run_id, str(copy), place)
    return f"{client.get_run(run_id).info.artifact_uri}/{place}"


def _find(client: Any, name: str, tags: Mapping[str, str]) -> int | None:
    """The version that has the same policy, study and files."""
    wanted = {tag: tags[tag] for tag in (names.DIGEST_TAG, names.STUDY_TAG, names.ARTIFACT_TAG)}
    same = [int(v.version) for v in _all_versions(client, name) if wanted.items() <= dict(v.tags).items()]
    return min(same, default=None)


def _all_models(client: Any) -> list[Any]:
    return sorted(_pages(lambda token: client.search_registered_models(page_token=token)), key=lambda m: str(m.name))


def _all_versions(client: Any, name: str) -> list[Any]:
    query = f"name='{name}'"
    return _pages(lambda token: client.search_model_versions(query, page_token=token))


def _pages(fetch: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = fetch(token)
        found.extend(page)
        if not (token := page.token):
            return found


def _latest(client: Any, name: str) -> int:
    return max((int(v.version) for v in _all_versions(client, name)), default=0)


def _is_ours(model: Any) -> bool:
    return bool(dict(model.tags).get(names.KIND_TAG) == names.POLICY_KIND)


def _version(found: Any, aliases: Mapping[str, int]) -> PolicyVersion:
    number = int(found.version)
    return PolicyVersion(
        name=found.name,
        version=number,
        source=found.source,
        run_id=found.run_id or None,
        tags=dict(found.tags),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
        created=int(found.creation_timestamp or 0),
    )
