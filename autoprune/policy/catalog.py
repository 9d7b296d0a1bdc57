"""Names to files: policies, search spaces and objectives by name. User folders come first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from autoprune.document.problems import suggest
from autoprune.errors import BadInput

Kind = Literal["policies", "search_spaces", "objectives"]
_ONE = {"policies": "policy", "search_spaces": "search space", "objectives": "set of objectives"}


def shipped(kind: Kind) -> tuple[Path, ...]:
    """Where the project's own content is: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    return (package.parent / kind, package / "catalog" / kind)


def _files(kind: Kind, folders: Sequence[str | Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    checkout, wheel = shipped(kind)
    own = [checkout] if (checkout.parent / "pyproject.toml").is_file() else []
    for folder in [*map(Path, folders), *own, wheel]:
        if folder.is_dir():
            for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
                found.setdefault(path.stem, path)
    return found


def names(kind: Kind, folders: Sequence[str | Path] = ()) -> tuple[str, ...]:
    """Every name there is, sorted."""
    return tuple(sorted(_files(kind, folders)))


def find(kind: Kind, name: str, folders: Sequence[str | Path] = ()) -> Path:
    """The file of that name; a folder given earlier hides later ones. Raises BadInput for an unknown name."""
    found = _files(kind, folders)
    if name in found:
        return found[name]
    known = f"known: {', '.join(sorted(found))}" if found else f"no folder has any {kind}"
    raise BadInput(f"unknown {_ONE[kind]} {name!r}{suggest(name, found)}; {known}", code="unknown-name")
