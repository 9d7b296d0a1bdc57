"""How often a version is tried again that could not be fetched."""

from __future__ import annotations

MOST = 8  # checks from one try to the next, at most


class Backoff:
    """What is wrong with a registry, an artifact store or a timing may be mended while the version stays the same, so
    it is tried again: after 1, 2, 4 and then every `MOST` checks."""

    def __init__(self) -> None:
        self._version: str | None = None
        self._failures = self._left = 0

    def failed(self, version: str) -> None:
        """A try to fetch this version came to nothing."""
        self._failures = self._failures + 1 if version == self._version else 1
        self._version = version
        self._left = min(2 ** (self._failures - 1), MOST) - 1

    def sits_out(self, version: str) -> bool:
        """Whether this check is one to leave it alone at; counts it."""
        if version != self._version or self._left == 0:
            return False
        self._left -= 1
        return True
