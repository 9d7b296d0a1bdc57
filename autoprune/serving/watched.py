"""Where a policy comes from, looked at again and again: what is there now, fetched only when it is something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api.policies import load_policy
from autoprune.registry.reference import ModelReference, is_uri, parse

if TYPE_CHECKING:
    from autoprune.pruning.loaded import LoadedPolicy


class Watched:
    """A policy's reference, as `load_policy` takes it. The registry is found once: what a process does later to its
    folder or environment does not move it."""

    def __init__(self, reference: str | Path, tracking_uri: str | None, options: Mapping[str, Any]) -> None:
        """Raises BadInput for a reference that is none, or a registry that is nowhere."""
        self.reference, self._options = str(reference), dict(options)
        self._model = parse(self.reference) if is_uri(self.reference) else None
        if self._model is not None:
            from autoprune.registry.locate import tracking_uri as locate

            tracking_uri = locate(tracking_uri)
        self._tracking_uri = tracking_uri

    def version(self) -> str | None:
        """The registered version that the reference means now; None for what has no versions."""
        if not isinstance(self._model, ModelReference) or self._tracking_uri is None:
            return None
        if self._model.version is not None:
            return str(self._model.version)
        from autoprune.registry.policies import resolve

        return str(resolve(self.reference, self._tracking_uri).version)

    def load(self, version: str | None) -> LoadedPolicy:
        """The policy of a version, whatever its alias means by then."""
        named = self.reference
        if version is not None and isinstance(self._model, ModelReference):
            named = f"models:/{self._model.name}/{version}"
        return load_policy(named, tracking_uri=self._tracking_uri, **self._options)
