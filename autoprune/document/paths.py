"""Where the paths in documents may lead (docs/security.md).

A relative path stays in the project of the document that it stands in, links followed; what is to lead elsewhere is
written absolute, or with `~`, by the hand of who runs it.
"""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.errors import Mistake

MARKS = (".git", "pyproject.toml")


def project(folder: Path) -> Path:
    """The folder that relative paths stay in: the nearest at or above `folder` with a `.git` or a `pyproject.toml`, or
    `folder` itself."""
    here = folder.resolve()
    return next((p for p in (here, *here.parents) if any((p / mark).exists() for mark in MARKS)), here)


def followed(text: str, folder: Path) -> Path:
    """The path that `text` means in a document in `folder`. Raises Mistake for one that leaves the project, and for
    what no path can be."""
    try:
        given = Path(text).expanduser()
        path = given if given.is_absolute() else folder / given
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # what is not there, whoever wants to read it says
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, a loop of links, an unknown user's home
        raise Mistake("not-a-path", f"{text[:60]!r} is no path: {getattr(error, 'strerror', None) or error}") from error
    if given.is_absolute():
        return path
    root = project(folder)
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise Mistake("not-a-path", f"{text!r} is no path: {error}") from error
    if not real.is_relative_to(root):
        by = "by a link " if ".." not in given.parts else ""
        raise Mistake("path-leaves-folder", f"{text!r} leads {by}out of {root}; write the absolute path if it is meant")
    return path


def leaves(text: str, folder: Path) -> bool:
    """Whether a relative path goes out of the project by `..`. Links are not looked at: image folders are full of
    them."""
    if ".." not in Path(text).parts or Path(text).is_absolute():
        return False
    return not Path(os.path.normpath(folder.resolve() / text)).is_relative_to(project(folder))


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def own_file(folder: Path, name: str) -> Path:
    """The file `name` of a folder that came from elsewhere. Raises Mistake where it is a link, or no plain file."""
    path = folder / name
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise Mistake("path-leaves-folder", f"{path} is not a plain file; nothing is followed out of {folder}")
    return path
