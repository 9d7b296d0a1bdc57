"""Which parameters decide whether a policy is among the best by an objective?

PED-ANOVA (Watanabe, Bansal & Hutter, IJCAI 2023) as Optuna has it: how differently each parameter is distributed among
the best quarter than among all. No random numbers, no further library.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.search import sampler
from autoprune.search.explanations.evidence import Evidence, Explanation, by_arm

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from autoprune.spec.goals import Objective

BEST = 0.25  # the share of trials that counts as good
FEWEST = 20  # so that the good ones are at least five (what Optuna advises)
SHOWN = 3


def explain(evidence: Evidence) -> Explanation:
    """See `_explain`; of each arm by itself."""
    return by_arm(evidence, _explain)


def _explain(evidence: Evidence) -> Explanation:
    """Per objective each parameter's share (they sum to 1), the largest first; or `too_few` with what there is and what
    is needed. Feasible or not, every measured point that the space has made counts."""
    dimensions = sampler.Dimensions(evidence.plan.proposals.parameters)
    points = [
        (r.values, p) for r in evidence.complete if r.params and (p := dimensions.to_optuna(r.params)) is not None
    ]
    if not dimensions.parameters:
        return Explanation({})
    if len(points) < FEWEST:
        said = f"parameter importance: too few trials ({len(points)} of the {FEWEST} it takes)"
        return Explanation({"too_few": {"trials": len(points), "needed": FEWEST}}, (said,))
    found: dict[str, dict[str, float]] = {}
    for objective in evidence.plan.objectives:
        if len({values[objective.label] for values, _ in points}) > 1:
            found[objective.label] = _shares(points, objective, dimensions.distributions())
    return Explanation(found, tuple(_line(label, shares) for label, shares in found.items() if shares))


def _shares(
    points: list[tuple[Mapping[str, float], dict[str, Any]]],
    objective: Objective,
    distributions: dict[str, BaseDistribution],
) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sign = 1.0 if objective.direction == "minimize" else -1.0
    study = optuna.create_study()
    for values, params in points:
        value = sign * values[objective.label]
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is still called experimental
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST))
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))}


def _line(label: str, shares: Mapping[str, float]) -> str:
    first = ", ".join(f"{name} {share:.2f}" for name, share in list(shares.items())[:SHOWN])
    rest = len(shares) - SHOWN
    return f"what decides {label}: {first}" + (
        f" ({rest} more: {sum(list(shares.values())[SHOWN:]):.2f})" if rest > 0 else ""
    )
