"""Errors a user can act on. The CLI shortens these and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AutoPruneError(Exception):
    """A failure the user can understand from its message alone (exit code 1)."""


@dataclass(frozen=True)
class Located:
    """One mistake in a document: where it is, what is wrong, what would be right. Lines and columns start at 1."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class BadInput(AutoPruneError):
    """The user's input cannot be used (exit code 2). Carries every mistake found, not only the first."""

    def __init__(self, message: str = "", problems: Sequence[Located] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__(message or "\n".join(str(p) for p in self.problems))


class PolicyMismatch(BadInput):
    """A policy was made for another architecture, family or library version than the model at hand."""


class NothingPublishable(AutoPruneError):
    """A search finished without a certified policy (exit code 1); the report says why."""
