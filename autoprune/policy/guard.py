"""`guard:` of a policy: rules by which a sample is pruned less, or not at all. Data only; `pruning/guarding.py` obeys.

A rule changes how many tokens stay, never which: it is part of the policy, so what was measured and certified was
measured with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from autoprune.document.numbers import exact, text
from autoprune.document.problems import Path, Problem, Problems, shown
from autoprune.policy.patterns import why_not
from autoprune.policy.read_fields import check_keys, number

if TYPE_CHECKING:
    from autoprune.policy.document import Policy

When = Literal["tokens_below", "prompt", "entropy_above"]
WHENS = ("tokens_below", "prompt", "entropy_above")


@dataclass(frozen=True)
class Rule:
    """When it fires for a sample, and what it has then. tokens_below: it has fewer visual tokens than `limit`; prompt:
    the pattern is found in its text; entropy_above: the entropy of the scores of the first pick of stage number `stage`
    is above `limit` (1: all the same). `use`: the budget it is held at, None for no pruning."""

    when: When
    limit: Fraction = Fraction(0)
    pattern: str = ""
    stage: int = 0
    use: Fraction | None = None
    path: Path = field(default=(), compare=False, repr=False)

    @property
    def label(self) -> str:
        """How counters name it."""
        about = repr(self.pattern) if self.when == "prompt" else str(text(self.limit))
        place = f" at stage {self.stage}" if self.when == "entropy_above" else ""
        return f"{self.when} {about}{place}: {'none' if self.use is None else f'budget {text(self.use)}'}"

    def dump(self) -> dict[str, Any]:
        """Plain data; `read_guard` gives an equal rule back."""
        limit: Any = self.pattern if self.when == "prompt" else text(self.limit)
        if self.when == "entropy_above" and self.stage:
            limit = {"stage": self.stage, "value": limit}
        return {"when": {self.when: limit}, "use": "none" if self.use is None else {"budget": text(self.use)}}


Guard = tuple[Rule, ...]


def read_guard(value: Any, path: Path, found: Problems) -> Guard:
    """The key's value; every mistake is added to `found`."""
    if not isinstance(value, list):
        found.add(path, "wrong-type", f"a guard is a list of rules, not {shown(value)}")
        return ()
    read = [_rule(one, (*path, i), found) for i, one in enumerate(value)]
    return tuple(rule for rule in read if rule is not None)


def _rule(value: Any, path: Path, found: Problems) -> Rule | None:
    if not check_keys(value, path, ("when", "use"), ("when", "use"), found):
        return None
    before = len(found)
    rule = _when(value.get("when"), (*path, "when"), found) if "when" in value else None
    use = _use(value["use"], (*path, "use"), found) if "use" in value else None
    return None if rule is None or len(found) > before else replace(rule, use=use, path=path)


def _when(value: Any, path: Path, found: Problems) -> Rule | None:
    before = len(found)
    if not check_keys(value, path, WHENS, (), found) or len(found) > before:
        return None
    if len(value) != 1:
        found.add(path, "wrong-form", f"a rule has one condition, one of {', '.join(WHENS)}; this has {len(value)}")
        return None
    ((when, limit),) = value.items()
    inside = (*path, when)
    if when == "prompt":
        reason = why_not(limit)
        if reason is not None:
            found.add(inside, "wrong-form", reason)
        return Rule("prompt", pattern=str(limit))
    if when == "tokens_below":
        least = number(limit, inside, found, low=1, high=None)
        if least is not None and least.denominator != 1:
            found.add(inside, "not-a-number", f"must be a whole number of visual tokens, not {shown(limit)}")
        return None if least is None else Rule("tokens_below", least)
    stage = 0
    if isinstance(limit, Mapping):
        if not check_keys(limit, inside, ("stage", "value"), ("value",), found) or "value" not in limit:
            return None
        stage = limit.get("stage", 0)
        if not isinstance(stage, int) or isinstance(stage, bool) or stage < 0:
            found.add((*inside, "stage"), "not-a-number", f"must be the number of a stage, from 0, not {shown(stage)}")
            return None
        inside, limit = (*inside, "value"), limit["value"]
    most = number(limit, inside, found)
    return None if most is None else Rule("entropy_above", most, stage=stage)


def _use(value: Any, path: Path, found: Problems) -> Fraction | None:
    if value == "none":
        return None
    if not isinstance(value, Mapping):
        found.add(path, "not-a-choice", f"must be none or {{budget: B}}, not {shown(value)}")
        return None
    if not check_keys(value, path, ("budget",), ("budget",), found) or "budget" not in value:
        return None
    budget = number(value["budget"], (*path, "budget"), found)
    if budget == 0:
        found.add((*path, "budget"), "out-of-range", "must be above 0: a guard prunes less, never more")
    return budget


def guard_problems(policy: Policy) -> Iterator[Problem]:
    """What rules ask of stages that these do not give."""
    from autoprune.policy.model import MixUse, Stage, Use

    decided = [i for i, s in enumerate(policy.stages) if isinstance(s, Stage) and _decided(s)]
    for rule in policy.guard:
        if rule.use is not None and decided:
            said = f"stage {decided[0]} lets each sample decide its count, which no budget holds: `use: none`"
            yield Problem((*rule.path, "use"), "conflict", said)
        if rule.when != "entropy_above":
            continue
        where = (*rule.path, "when", "entropy_above")
        if rule.stage >= len(policy.stages):
            there = f"there is no stage {rule.stage}: the policy has {len(policy.stages)}, numbered from 0"
            yield Problem(where, "out-of-range", there)
            continue
        picks = policy.stages[rule.stage].pick
        score = picks[0].score if picks else None
        if isinstance(score, Use):
            score = policy.criteria.get(score.name, score)
        if score is None:
            yield Problem(where, "needs-score", f"stage {rule.stage} has no score whose entropy could be taken")
        elif isinstance(score, MixUse) and score.normalise == "rank":
            said = f"stage {rule.stage} scores by ranks, which are spread the same in every sample: normalise otherwise"
            yield Problem(where, "conflict", said)


def _decided(stage: Any) -> bool:
    return stage.keep.kind == "rule" or (stage.until is not None and stage.keep.kind == "to_budget")


def bound(guard: Guard, origins: Sequence[int]) -> Guard:
    """The rules with the numbers of stages that a model carries out, whose numbers in the document are `origins`; a
    rule about a stage that does nothing there is left out."""
    first = {origin: number for number, origin in reversed(list(enumerate(origins)))}
    at = [(rule, first.get(rule.stage) if rule.when == "entropy_above" else 0) for rule in guard]
    return tuple(replace(rule, stage=stage) for rule, stage in at if stage is not None)


def to_json(guard: Guard) -> list[dict[str, Any]]:
    """Of the canonical form: numbers as text."""
    return [
        {
            "when": rule.when,
            **({"pattern": rule.pattern} if rule.when == "prompt" else {"limit": str(rule.limit)}),
            **({"stage": rule.stage} if rule.when == "entropy_above" else {}),
            "use": None if rule.use is None else str(rule.use),
        }
        for rule in guard
    ]


def from_json(data: Sequence[Mapping[str, Any]]) -> Guard:
    """What `to_json` wrote."""
    rules = []
    for one in data:
        if one["when"] not in WHENS:
            raise ValueError(f"no rule of a guard is {one['when']!r}")
        use = None if one["use"] is None else exact(one["use"])
        limit, pattern = exact(one.get("limit", 0)), str(one.get("pattern", ""))
        rules.append(Rule(one["when"], limit, pattern, int(one.get("stage", 0)), use))
    return tuple(rules)
