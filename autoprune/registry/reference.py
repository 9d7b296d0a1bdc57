"""Policy URIs, taken apart without MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoprune.errors import BadInput

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_RUN = re.compile(r"runs:/(?P<run>[^/]+)/(?P<path>.+)")
_SCHEMES = ("models:", "runs:")


@dataclass(frozen=True)
class ModelReference:
    """A registered policy by alias or by version (exactly one is set)."""

    name: str
    alias: str | None
    version: int | None


@dataclass(frozen=True)
class RunReference:
    """A folder among a run's artifacts."""

    run_id: str
    path: str


def is_uri(text: str) -> bool:
    """Whether `text` means something in MLflow rather than a file or a catalog name."""
    return text.startswith(_SCHEMES)


def parse(uri: str) -> ModelReference | RunReference:
    """The parts of a policy URI; BadInput if it has none of the three forms."""
    if match := _MODEL.fullmatch(uri):
        version = match["version"]
        return ModelReference(match["name"], match["alias"], None if version is None else int(version))
    if (match := _RUN.fullmatch(uri)) and ".." not in match["path"].split("/"):
        return RunReference(match["run"], match["path"].strip("/"))
    raise BadInput(
        f"{uri!r} is not a policy URI; it must be models:/<name>@<alias>, models:/<name>/<version> "
        "or runs:/<run id>/<folder>",
        code="not-a-uri",
    )
