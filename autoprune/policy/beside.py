"""Every mistake of a policy at once: in what reads well, beside what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.document.problems import Path, Problem, meant
from autoprune.policy.guard import guard_problems
from autoprune.policy.order import order_problems
from autoprune.policy.reading import CURVE_KEYS, STAGE_KEYS
from autoprune.policy.validate import part_problems
from autoprune.policy.wrong import Wrong

if TYPE_CHECKING:
    from autoprune.policy.document import Policy
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.lookup import PartLookup

KEYS = frozenset((*STAGE_KEYS, *CURVE_KEYS))


def problems(policy: Policy, parts: PartLookup, geometry: Geometry | None) -> list[Problem]:
    """Every mistake of a policy that reads well. Empty for a usable one."""
    return problems_beside((), policy, parts, geometry)


def problems_beside(
    found: Sequence[Problem],
    policy: Policy,
    parts: PartLookup | None,
    geometry: Geometry | None,
    *,
    placed: bool = True,
) -> list[Problem]:
    """Mistakes that do not follow from those in `found`: parts (with the registry), what the model does not have (with
    `geometry`), and where stages stand to each other (`placed`: their layers are those that are meant)."""
    beside: list[Problem] = []
    if parts is not None:
        beside += part_problems(policy, parts, geometry, _unread(found, policy), wrong_keys(found))
    depth = None if geometry is None else geometry.depth
    unknown = [
        p for p in beside if p.code == "unknown-part" and p.message.startswith(("unknown merger", "unknown count rule"))
    ]
    beside = [*order_problems(policy, depth, wrong_keys([*found, *unknown]), placed=placed), *beside]
    if not any(p.path[:1] == ("stages",) for p in found):
        beside += guard_problems(policy)
    places = {p.path for p in found}
    return [p for p in dict.fromkeys(beside) if p.path not in places]


def wrong_keys(found: Sequence[Problem]) -> Wrong:
    """By a stage's path the keys of it that did not read well: a misspelt one is what was meant, one that may mean
    anything is every key."""
    wrong: dict[Path, frozenset[str]] = {}
    for p in found:
        if p.path[:1] != ("stages",) or len(p.path) < 3:
            continue
        key = str(p.path[2])
        near = meant(p)
        keys = frozenset({key}) if key in KEYS else frozenset({near}) if near in KEYS else KEYS
        wrong[p.path[:2]] = wrong.get(p.path[:2], frozenset()) | keys
    return wrong


def _unread(found: Sequence[Problem], policy: Policy) -> frozenset[str] | None:
    """Names for criteria that did not read well; None where the names themselves are not known."""
    inside = [p for p in found if p.path[:1] == ("criteria",)]
    if any(len(p.path) == 1 for p in inside) or any(meant(p) == "criteria" for p in found):
        return None
    return frozenset(str(p.path[1]) for p in inside) - set(policy.criteria)
