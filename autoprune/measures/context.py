"""What an evaluation's numbers depend on beside the request: the key under which they are remembered. Torch-free."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

from autoprune.calibration.digest import calibration_digest
from autoprune.calibration.records import load_records
from autoprune.measures.device import device_name
from autoprune.measures.requests import requested
from autoprune.models.fingerprint import fingerprint
from autoprune.ports import EvaluationContext, WorkerSpec

LIBRARIES = ("autoprune", "torch", "transformers", "tokenizers")


def evaluation_context(spec: WorkerSpec) -> EvaluationContext:
    """The context of a worker's evaluations. Batch size and threads are left out (they change rounding only), and so
    is the device, unless a measure is a timing.

    The calibration digest covers the records and how they are split. Raises BadInput.
    """
    source = spec.calibration
    content = source.digest or calibration_digest(load_records(source.records, source.images))
    splitting = [content, source.search, source.holdout, source.stratify_by, source.seed]
    model = fingerprint(spec.model_path, spec.revision)
    wanted = requested(spec.measures)
    return EvaluationContext(
        model_fingerprint=f"{model.architecture}:{model.weights}",
        calibration_digest=hashlib.sha256(json.dumps(splitting).encode()).hexdigest(),
        dtype=spec.dtype,
        attn_implementation=spec.attn_implementation,
        libraries={name: version(name) for name in LIBRARIES},
        measure_versions={label: one.version for label, one in wanted.items()},
        device=device_name(spec.device) if any(one.info.timed for one in wanted.values()) else "",
    )
