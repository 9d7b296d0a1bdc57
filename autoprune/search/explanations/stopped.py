"""Why did the search stop asking?"""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.search.explanations.evidence import Evidence, Explanation, plural

WHY: Mapping[str, str] = {
    "trials": "all trials are done",
    "time": "the time limit passed before the configured number of trials",
    "exhausted": "the search space holds no further policy with an effect of its own",
    "finished": "the strategy has nothing more to ask",
    "interrupted": "the user interrupted it",
}


def explain(evidence: Evidence) -> Explanation:
    """The reason, and how far the search had come. Partial evaluations count toward the trials by their share."""
    states = [r.state for r in evidence.points]
    counts = {state: states.count(state) for state in ("complete", "partial", "failed", "infeasible")}
    beside = "".join(f", {count} {state}" for state, count in counts.items() if count and state != "complete")
    trials = plural(evidence.plan.trials, "trial")
    line = f"stopped: {WHY[evidence.reason]}; {counts['complete']} of {trials} complete{beside}"
    return Explanation({"reason": evidence.reason, "trials": evidence.plan.trials, **counts}, (line,))
