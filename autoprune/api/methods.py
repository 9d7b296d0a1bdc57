"""The catalog as a list of methods: where each prunes, what it must see of a run, how surely it follows its paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoprune.api.state import user_folders
from autoprune.document.yaml import read
from autoprune.policy import catalog
from autoprune.policy.document import Policy
from autoprune.policy.model import MixUse, ScoreUse, Stage, Use, uses
from autoprune.pruning import parts
from autoprune.pruning.lookup import RegisteredParts

BLIND = ("random", "stride", "lattice", "top", "drop")  # parts that look at nothing themselves


def list_methods() -> list[dict[str, Any]]:
    """`[{"name", "class", "paper", "sites", "signal_tier", "confidence"}]`, the user's own `policies/` included.

    class: `baseline` looks at nothing, `vision` prunes before the language model, `llm` inside it, `both`. The signal
    tier is the dearest of a method's parts: T0 features, T1 one attention row, T2 text rows, T3 a whole map, T4 an
    extra pass.
    """
    listed, folders, known = [], user_folders("policies"), RegisteredParts()
    for name in catalog.names("policies", folders):
        policy = Policy.from_source(read(catalog.find("policies", name, folders)), known)
        sites = _sites(policy)
        listed.append(
            {
                "name": name,
                "class": _class(policy, sites),
                "paper": policy.paper,
                "sites": sites,
                "signal_tier": max((info.tier for info in _parts(policy)), default="T0"),
                "confidence": policy.confidence,
            }
        )
    return listed


def _sites(policy: Policy) -> list[str]:
    written = [s.at.text if isinstance(s, Stage) else f"llm:{s.along[0]}..{s.along[1]}" for s in policy.stages]
    return list(dict.fromkeys(written))


def _class(policy: Policy, sites: list[str]) -> str:
    if all(
        info.name in BLIND or (info.kind, info.name) in (("selector", "top"), ("merger", "drop"))
        for info in _parts(policy)
    ):
        return "baseline"
    before = {site in ("projector", "input", "llm:0") for site in sites}
    return "both" if len(before) == 2 else "vision" if before == {True} else "llm"


def _parts(policy: Policy) -> Iterator[parts.PartInfo]:
    """Every part a policy uses."""
    for stage, pick in uses(policy.stages):
        if pick.score is not None:
            yield from (info for name in _criteria(policy, pick.score) if (info := parts.find("criterion", name)))
        for kind, use in (("selector", pick.select), ("merger", stage.merge)):
            found = parts.find(kind, use.name)  # type: ignore[arg-type]
            if found is not None:
                yield found


def _criteria(policy: Policy, score: ScoreUse) -> Iterator[str]:
    named = policy.criteria.get(score.name, score) if isinstance(score, Use) else score
    if isinstance(named, MixUse):
        for name, _ in named.weights:
            yield from _criteria(policy, Use(name)) if name in policy.criteria else (name,)
    else:
        yield named.name
