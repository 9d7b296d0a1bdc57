"""Records the store tests write, also from processes of their own."""

from __future__ import annotations

from typing import Any

from autoprune.ports import EvalRequest, Measurement, TrialRecord
from autoprune.store.store import Store
from autoprune.store.study_log import StudyLog

ODD_FLOATS = (0.1 + 0.2, 1e-308, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3, 123456789.000000001)
KEY = "ab" * 32


def new_study(store: Store, study_id: str = "llava-0001", **changes: Any) -> StudyLog:
    given: dict[str, Any] = {
        "name": "llava",
        "digest": "d1",
        "spec": {"trials": 8},
        "resolved": {"trials": 8, "seed": 0},
    }
    return store.create_study(study_id, **(given | changes))


def record(number: int = 0, **changes: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "number": number,
        "origin": "trial",
        "name": f"trial {number}",
        "state": "complete",
        "policy": {"schema": "autoprune/policy/1", "stages": [{"at": "llm:2", "keep": "1/3", "merge": None}]},
        "canonical": '{"stages":[{"at":"llm:2"}]}',
        "digest": f"digest {number}",
        "params": {"l1": 2, "front": ODD_FLOATS[0], "how": "top", "flag": True, "nothing": None},
        "values": {f"m{i}": value for i, value in enumerate(ODD_FLOATS)},
        "constraints": {"exact_match >= 0.97 * baseline": -ODD_FLOATS[5]},
        "sampler_number": number + 3,
        "evaluation_key": KEY,
        "cached": True,
        "reason": "größer als erlaubt — 'quoted'",
        "seconds": 1.25,
    }
    return TrialRecord(**(given | changes))


def measurement(value: float = ODD_FLOATS[0]) -> Measurement:
    return Measurement(
        values={"exact_match": value, "kv_bytes": 2**53 + 0.0},
        samples={"exact_match": ODD_FLOATS},
        images=(0, 0, 1, 2, 2, 3, 4),
        records=tuple("abcdefg"),
        seconds=0.1,
    )


def request(**changes: Any) -> EvalRequest:
    given: dict[str, Any] = {"policy": None, "split": "holdout", "measures": ("exact_match",), "limit": 7, "tag": "t"}
    return EvalRequest(**(given | changes))
