"""Errors a user can act on. The CLI shortens these and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.codes import Code
from autoprune.redact import redacted


class AutoPruneError(Exception):
    """A failure the user can understand from its message alone (exit code 1). Passwords never are part of it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


@dataclass(frozen=True)
class Located:
    """One mistake in a document: where it is, what kind it is, what is wrong, what would be right. Lines and columns
    start at 1. `autoprune explain CODE` says more about its kind."""

    file: str
    line: int
    column: int
    path: str
    code: Code
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", redacted(self.message))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        said = f"{self.message} [{self.code}]"
        return f"{where}: {self.path}: {said}" if self.path else f"{where}: {said}"


class Mistake(ValueError):
    """A value is wrong; where it stands is known to who reads it. `offset` is the character inside a text where it
    goes wrong."""

    def __init__(self, code: Code, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.offset = offset

    def __reduce__(self) -> tuple[type[Mistake], tuple[Code, str, int]]:
        return type(self), (self.code, str(self), self.offset)


class BadInput(AutoPruneError):
    """The user's input cannot be used (exit code 2). Carries every mistake found, not only the first. `code` is what
    kind it is, also where it has no position."""

    kind: Code = "bad-input"

    def __init__(self, message: str = "", problems: Sequence[Located] = (), *, code: Code | None = None) -> None:
        self.problems = tuple(problems)
        self.code: Code = code or (self.problems[0].code if self.problems else self.kind)
        super().__init__(message or "\n".join(str(p) for p in self.problems))


class PolicyMismatch(BadInput):
    """A policy was made for another architecture, family or library version than the model at hand."""

    kind = "policy-mismatch"


class LeaseLost(AutoPruneError):
    """Another driver took the study over while this one slept: it may write nothing more, not even to clean up."""


class NothingPublishable(AutoPruneError):
    """A search finished without a certified policy (exit code 1); the report says why."""
