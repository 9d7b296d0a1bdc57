"""Which member of a front fits: the gentlest certified one within a cost, or the cheapest that keeps enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.errors import BadInput
from autoprune.spec.expressions import ExpressionError, parse_constraint

if TYPE_CHECKING:
    from autoprune.policy.front import Estimate, Front, Member
    from autoprune.pruning.loaded import LoadedPolicy
    from autoprune.spec.goals import Constraint

SLACK = 1e-9  # a budget is a quotient of counts: 0.3 asked for is 0.3 kept, whatever its last digit


def choose(
    loaded: LoadedPolicy,
    *,
    budget: float | None = None,
    max_prefill_ms: float | None = None,
    bounds: Sequence[str] = (),
    prefill_ms: Mapping[str, float] | None = None,
) -> LoadedPolicy:
    """The certified member of the policy's front that fits; it knows the same front.

    `budget`: its share of visual tokens is at most this. `max_prefill_ms`: so is its prefill, by `prefill_ms` (member's
    digest -> milliseconds on this machine). `bounds`: constraints in the spec's words that it must be proven to meet.
    Of those that fit, the gentlest (largest budget) where a cost is limited, else the cheapest. Raises BadInput that
    says what there is where none fits.
    """
    if budget is not None and not 0 < budget <= 1:
        raise BadInput(f"budget={budget}: a share of the visual tokens, above 0 and at most 1", code="out-of-range")
    if max_prefill_ms is not None and not max_prefill_ms > 0:
        raise BadInput(f"max_prefill_ms={max_prefill_ms}: a number of milliseconds above 0", code="out-of-range")
    wanted = [_parsed(text) for text in bounds]
    whole = loaded.whole
    if whole is None:
        raise BadInput(
            f"policy {loaded.policy.name!r} is alone: only a registered version, or a folder saved from one, has a "
            "front to choose from",
            code="not-a-front",
        )
    if max_prefill_ms is not None and prefill_ms is None:
        raise BadInput(
            "max_prefill_ms: nobody has timed this front's policies on this machine yet; 'autoprune policy time' does",
            code="unknown-measure",
        )
    times = prefill_ms or {}
    fitting = [
        (member, policy)
        for member, policy in zip(whole.members, loaded.front, strict=True)
        if member.certified
        and (budget is None or (member.budget is not None and member.budget <= budget + SLACK))
        and (max_prefill_ms is None or times.get(member.digest, float("inf")) <= max_prefill_ms)
        and all(_proven(bound, member, whole.baseline) for bound in wanted)
    ]
    if not fitting:
        asked = {"budget": budget, "max_prefill_ms": max_prefill_ms, "bounds": list(bounds) or None}
        said = ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
        raise BadInput(
            f"no certified policy of the front fits {said}; {_there(whole, times)}", code="unreachable-bound"
        )
    limited = budget is not None or max_prefill_ms is not None
    ordered = sorted(fitting, key=lambda pair: (pair[0].budget or 0.0, pair[0].digest))
    return ordered[-1 if limited else 0][1]


def _parsed(text: str) -> Constraint:
    try:
        return parse_constraint(text)
    except ExpressionError as error:
        raise BadInput(f"bounds: {text!r}: {error}", code=error.code) from error


def _proven(bound: Constraint, member: Member, baseline: Mapping[str, Estimate]) -> bool:
    """By a constraint that the search tested on the same measure, where there is one: that test is paired. Else by the
    intervals, each at its worse end. Raises BadInput for a measure that the front has not."""
    for text, number in member.certifiable.items():
        tested = parse_constraint(text)
        if number is not None and (tested.label, tested.op) == (bound.label, bound.op):
            if tested.by_factor and bound.by_factor:
                return bool(number >= bound.scale if bound.op == ">=" else number <= bound.scale)
            if not tested.by_factor and not bound.by_factor and tested.scale == bound.scale:
                return bool(number >= bound.shift if bound.op == ">=" else number <= bound.shift)
    own, base = member.holdout.get(bound.label), baseline.get(bound.label)
    if own is None or (bound.relative and base is None):
        known = ", ".join(member.holdout)
        raise BadInput(
            f"bounds: {bound.text!r}: the front was not measured by {bound.label}; it has {known}",
            code="unknown-measure",
        )
    worst = own.low if bound.op == ">=" else own.high
    unpruned = None if base is None else base.high if bound.op == ">=" else base.low
    if worst is None or (bound.relative and unpruned is None):
        return False
    return bound.slack(worst, unpruned) <= SLACK


def _there(whole: Front, times: Mapping[str, float]) -> str:
    """The certified members in one line, gentlest first."""
    certified = [member for member in whole.members if member.certified]
    if not certified:
        return f"none of its {len(whole.members)} policies is certified"
    shown = ", ".join(_one(member, times) for member in sorted(certified, key=lambda m: -(m.budget or 0.0)))
    return f"certified are {shown}"


def _one(member: Member, times: Mapping[str, float]) -> str:
    told = [] if member.budget is None else [f"budget {member.budget:.3f}"]
    told += [f"{times[member.digest]:.1f} ms"] if member.digest in times else []
    told += [_tightest(parse_constraint(text), number) for text, number in member.certifiable.items() if number]
    return f"{member.name!r} ({', '.join(told)})"


def _tightest(goal: Constraint, number: float) -> str:
    if goal.by_factor:
        return f"{goal.label} {goal.op} {number:.4g} * baseline"
    base = f"{goal.scale:.4g} * baseline {number:+.4g}" if goal.relative else f"{number:.4g}"
    return f"{goal.label} {goal.op} {base}"
