"""Why a study came out as it did: one small file per question, each a function of what was measured.

`explain` runs them all; their data stand in the front document under `explanations`, their lines beside it for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoprune.search.explanations import beyond, constant, edges, importance, stopped, violations
from autoprune.search.explanations.evidence import Evidence, Explanation

QUESTIONS: Mapping[str, Callable[[Evidence], Explanation]] = {
    "stopped": stopped.explain,
    "beyond": beyond.explain,
    "violations": violations.explain,
    "edges": edges.explain,
    "constant": constant.explain,
    "importance": importance.explain,
}


def explain(evidence: Evidence) -> tuple[dict[str, Any], list[str]]:
    """-> (what was found by question, the same in lines)."""
    found = {name: question(evidence) for name, question in QUESTIONS.items()}
    return {name: dict(e.data) for name, e in found.items()}, [line for e in found.values() for line in e.lines]
