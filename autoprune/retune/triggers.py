"""What has changed since the champion was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from autoprune.models.fingerprint import Fingerprint
    from autoprune.spec.retuning import Watched

Kind = Literal["architecture", "weights", "revision", "calibration", "alias", "age", "asked"]


@dataclass(frozen=True)
class Facts:
    """What a measurement stood on, or would stand on now. `calibration` covers records and splits; `commit` is the
    hub's, where the model came from there."""

    fingerprint: Fingerprint
    calibration: str | None
    commit: str | None = None


@dataclass(frozen=True)
class Trigger:
    kind: Kind
    text: str


def commit_of(folder: str | None) -> str | None:
    """The commit of a model in the hub's cache: the folder `snapshots/<commit>`."""
    path = Path(folder or "")
    return path.name if path.parent.name == "snapshots" else None


def triggers(
    old: Facts,
    new: Facts,
    *,
    when: Sequence[Watched],
    moved_by_others: bool,
    age: float,
    max_age: float | None,
) -> list[Trigger]:
    """Every reason to measure again. `age` of the champion's version and `max_age` are in seconds."""
    found = []
    if "model" in when:
        found += _model(old, new)
    if "calibration" in when and old.calibration != new.calibration:
        found.append(Trigger("calibration", "the calibration records or their splits are others"))
    if "alias" in when and moved_by_others:
        found.append(Trigger("alias", "the champion alias was moved by something else than autoprune"))
    if max_age is not None and age >= max_age:
        found.append(Trigger("age", f"the champion was measured {age / 86400:.1f} days ago"))
    return found


def _model(old: Facts, new: Facts) -> list[Trigger]:
    before, now = old.fingerprint, new.fingerprint
    if before.architecture != now.architecture:
        return [Trigger("architecture", "the model's architecture is another")]
    if before.weights != now.weights:
        return [Trigger("weights", f"the model's weights are others ({before.weights[:12]} -> {now.weights[:12]})")]
    if (old.commit or before.revision) != (new.commit or now.revision):
        was, is_now = (facts.commit or facts.fingerprint.revision for facts in (old, new))
        return [Trigger("revision", f"the hub's revision is another ({was} -> {is_now}), the weights are the same")]
    return []


def calibration_of(metadata: Mapping[str, Any]) -> str | None:
    """The digest over records and splits that a version was measured on."""
    return metadata.get("environment", {}).get("calibration_digest") or None
