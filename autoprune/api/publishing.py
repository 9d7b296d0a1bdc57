"""What leaves a study as a version: the selected policy with the whole front and everything they were measured with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune import __version__
from autoprune.api.proposals import PARTS
from autoprune.api.study import Prepared
from autoprune.measures.device import device_name
from autoprune.policy.document import Policy
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.saved import digest_of
from autoprune.redact import redacted

if TYPE_CHECKING:
    from autoprune.policy.front import Front


def saved(study: Prepared, front: Front, folder: Path, more: Mapping[str, Any] | None = None) -> Path:
    """The selected policy with the whole front under `folder`, in a folder named by what is in it. `more`: metadata
    beside the usual."""
    waiting = folder / "policies" / ".new"
    shutil.rmtree(waiting, ignore_errors=True)
    artifact(study, front, more or {}).save_pretrained(waiting)
    there = waiting.with_name(digest_of(waiting)[:16])
    shutil.rmtree(there, ignore_errors=True)  # the same content, perhaps from a run that was cut short
    waiting.replace(there)
    return there


def artifact(study: Prepared, front: Front, more: Mapping[str, Any]) -> LoadedPolicy:
    """The front's selected member (there is one), as it is saved and registered, with `more` in its metadata."""
    chosen = front.selected
    if chosen is None or chosen.policy is None:
        raise ValueError("a front without a selected member is not published")
    spec = study.checked.loaded.spec
    metadata = {
        **chosen.measured(),
        "study": study.study_id,
        "model": {
            "path": str(Path(study.folder).resolve()),
            "name": spec.model.path,
            "revision": spec.model.revision,
            "trust_remote_code": study.worker.trust_remote_code,
        },
        "calibration": asdict(study.calibration),
        "confidence": spec.certify.confidence,
        "environment": asdict(study.context),
        "device": device_name(study.worker.device),
        "software": {"autoprune": __version__, **study.context.libraries},
        "spec": redacted(study.checked.loaded.source.text),  # an address in it may carry a password
        **more,
    }
    return LoadedPolicy(Policy.parse(chosen.policy, PARTS), study.fingerprint, metadata, whole=front.measured_only())
