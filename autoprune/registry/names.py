"""The names under which AutoPrune's things are found again in MLflow."""

from __future__ import annotations

import hashlib
import re

STUDY_TAG = "autoprune.study_id"
TRIAL_TAG = "autoprune.trial"
DIGEST_TAG = "autoprune.policy_digest"
ARTIFACT_TAG = "autoprune.artifact"
CAUSE_TAG = "autoprune.cause"
LINEAGE_TAG = "autoprune.parent"
RETUNE_TAG = "autoprune.retune"
MOVE_TAG = "autoprune.move"
TIMING_TAG = "autoprune.prefill_ms"
FRONT_TAG = "autoprune.front"
STATE_TAG = "autoprune.state"
KIND_TAG = "autoprune.kind"
POLICY_KIND = "policy"
PARENT_TAG = "mlflow.parentRunId"
RUN_NAME_TAG = "mlflow.runName"

HYPERVOLUME = "hypervolume"
FLAVOR = "autoprune_policy"
PYFUNC_LOADER = "autoprune.serving.pyfunc"

# Why a version was made.
SEARCH, RECERTIFIED, RETUNED = "search", "recertified", "retuned"

CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS = "previous"

_SPELLED = {">=": "ge", "<=": "le", "*": "x", "%": "percent", "±": "plus-minus", "|": "or"}
_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)


def key(text: str) -> str:
    """`text` as MLflow accepts it for a metric or parameter (letters, digits and `_-. :/`, at most 250 characters).

    Operators are spelled out; whatever else must go is replaced, and a short hash keeps two such names apart.
    """
    spelled = text
    for symbol, word in _SPELLED.items():
        spelled = spelled.replace(symbol, word)
    clean = _FORBIDDEN.sub("_", spelled).strip("/. ") or "_"
    clean = re.sub(r"/{2,}", "/", clean)
    if clean == spelled and len(clean) <= 250:
        return clean
    return f"{clean[:240]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
