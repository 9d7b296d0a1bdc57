"""A policy at another budget: the same parts at the same places, keeping other numbers of tokens.

The rule, so that references are comparable:

1. A single curve: its number that says how much is kept (geometric: `first`, linear: `from`, logistic: `scale`,
   p_sigmoid: `mid`) is solved from the budget. A geometric one keeps its ratio, unless the budget is more than that
   can spend: then the ratio is what is solved.
2. A single stage: its keep becomes `{to_budget: B}`.
3. Several: every keep of N is multiplied by the same factor (at most to 1), the largest on a grid of 1/1000 that stays
   at or below B, so that ratios between stages stay; then the last stage takes up the rest as `{to_budget: B}`. A last
   stage that drops every token, always or where a gate closes, goes on doing so, and takes up nothing, as a curve does.
   Where a count rule decides before it, only the last stage's keep becomes `{to_budget: B}`, if the stages before it
   leave room for that and what they leave reaches B (count rules go on deciding, within that room); so it is where the
   policy asks for a budget itself, after keeps of N before it have been scaled as that budget is.
   Where that cannot reach B whatever the images show, because the bounds of count rules (`most`, `least`) or keeps
   `of_current` leave too little or too much, these become keeps of N, which are multiplied like the others: a rule
   keeps its `most` then (`fit`), and only shares it out. A gate stays a gate, and a range of layers what it is.
   Of a stage that is repeated before a range of layers (`along` with a `keep`) the last repetition is the last stage,
   unless a rule shares a budget out among its layers: that is asked for the new one.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from autoprune.errors import BadInput
from autoprune.policy.budget import Infeasible, Step, count_steps, fractional_budget, fractions
from autoprune.policy.curves import Solve, build, params_of
from autoprune.policy.expand import expand
from autoprune.policy.model import AnyStage, CurveStage, KeepSpec, Stage
from autoprune.policy.sites import Site, absolute

if TYPE_CHECKING:
    from autoprune.policy.document import Policy
    from autoprune.policy.geometry import Geometry

SOLVED = {"geometric": "first", "linear": "from", "logistic": "scale", "p_sigmoid": "mid"}
GRID = 1000
MOST = 1000 * GRID  # the largest factor on the grid: brings every keep of N to 1
ALL_OR_NOTHING = ("gate",)  # count rules whose stage has no count of its own


def at_budget(policy: Policy, budget: Fraction, geometry: Geometry | None = None) -> Policy:
    """The policy scaled to a budget, by the rule above. The unpruned policy (no stage) stays as it is.

    Rule 3 needs `geometry`, or the depth in `literal: {depth: …}`: BadInput where neither says it or a keep in tokens
    has no N. With `geometry`, `Infeasible` if not even the smallest keeps meet the budget.
    """
    if not policy.stages:
        return policy
    policy = _apart(policy, geometry)
    only = policy.stages[0] if len(policy.stages) == 1 else None
    if isinstance(only, Stage):
        return _reached(replace(policy, stages=(_to_budget(only, budget),)), geometry)
    if isinstance(only, CurveStage) and only.curve.name in SOLVED:
        return _reached(replace(policy, stages=(_solved(policy, only, budget, geometry),)), geometry)
    depth = _depth(policy, geometry)
    tokens = None if geometry is None else geometry.tokens_per_image
    relative = _relative(_in_proportion(policy, budget), tokens)
    free = _freed(relative, budget, depth, Fraction(1, tokens or GRID))
    if _takes_nothing_up(policy):
        return _reached(_scaled(free, budget, depth, tokens), geometry)
    if free != relative:
        return _reached(_scaled(free, budget, depth), geometry)
    alone = _last(relative, budget, depth) if _decided(policy) else None
    return _reached(alone or _scaled(relative, budget, depth), geometry)


def _depth(policy: Policy, geometry: Geometry | None) -> int:
    depth = geometry.depth if geometry is not None else policy.literal.get("depth")
    if not isinstance(depth, int) or isinstance(depth, bool):
        raise BadInput(
            f"{policy.name or 'the policy'} has several stages: scaling it to a budget needs the model's depth",
            code="needs-model",
        )
    return depth


def _apart(policy: Policy, geometry: Geometry | None) -> Policy:
    """The last repetition of a repeated last stage as a stage of its own, where no rule shares a budget among them."""
    stage = policy.stages[-1]
    if not isinstance(stage, Stage) or stage.until is None or stage.keep.kind == "to_budget":
        return policy
    depth = _depth(policy, geometry)
    first, last = stage.at.at(depth), absolute(stage.until, depth)
    alone = replace(stage, at=Site("llm", last), until=None)
    before = (replace(stage, at=Site("llm", first), until=last - 1),) if first < last else ()
    return replace(policy, stages=(*policy.stages[:-1], *before, alone))


def _ends(policy: Policy) -> bool:
    """Whether the last stage drops every visual token, or keeps every one where a gate stays open."""
    last = policy.stages[-1]
    if not isinstance(last, Stage):
        return False
    return last.keep.value == 0 or _gate(last.keep)


def _gate(keep: KeepSpec) -> bool:
    return keep.kind == "rule" and keep.rule is not None and keep.rule.name in ALL_OR_NOTHING


def _takes_nothing_up(policy: Policy) -> bool:
    """Whether the last stage cannot become `{to_budget: B}`."""
    return _ends(policy) or isinstance(policy.stages[-1], CurveStage)


def _decided(policy: Policy) -> bool:
    """Whether keeps say no ratios: a count rule before the last stage, or a budget that the policy asks for itself."""
    kinds = [stage.keep.kind for stage in policy.stages if isinstance(stage, Stage)]
    return "rule" in kinds or "to_budget" in kinds


def _freed(policy: Policy, budget: Fraction, depth: int, one: Fraction) -> Policy:
    """The policy itself where its bounds leave the budget within reach, or where nothing can be done about them; else
    with keeps of N in place of count rules and of keeps `of_current`. `one`: what a single token is of N."""
    low, high = _range(policy, depth, one)
    if low <= budget <= high:
        return policy
    free = _of_n(policy, depth)
    new_low, new_high = _range(free, depth, one)
    return free if (new_low < low if budget < low else new_high > high) else policy


def _range(policy: Policy, depth: int, one: Fraction) -> tuple[Fraction, Fraction]:
    """The budgets that multiplied keeps of N, rules within their bounds and a last stage that takes up the rest can
    come to, whatever the images show. A last stage that takes up nothing holds no rule below its `most`."""
    low, high = _multiplied(policy, Fraction(1, GRID)).stages, _multiplied(policy, Fraction(MOST, GRID)).stages
    last = policy.stages[-1]
    if isinstance(last, Stage) and not _ends(policy):
        rest = replace(last, keep=KeepSpec("fraction", one))
        low, high = (*map(_at_least, low[:-1]), rest), high[:-1]
    steps = [_steps(replace(policy, stages=stages), depth) for stages in (low, high)]
    return fractional_budget(steps[0], depth), fractional_budget(steps[1], depth)


def _at_least(stage: AnyStage) -> AnyStage:
    """A stage that keeps the least its rule may find."""
    if isinstance(stage, CurveStage) or stage.keep.kind != "rule":
        return stage
    return replace(stage, keep=replace(stage.keep, value=stage.keep.least))


def _of_n(policy: Policy, depth: int) -> Policy:
    """With the most that rules and keeps `of_current` leave as keeps of N, in the same ratios."""
    stages: list[AnyStage] = []
    for i, stage in enumerate(policy.stages):
        plain = isinstance(stage, Stage) and stage.until is None and stage.keep.kind in ("rule", "of_current")
        if isinstance(stage, Stage) and plain and not _gate(stage.keep):
            left = fractions(_steps(replace(policy, stages=policy.stages[: i + 1]), depth), depth)[-1]
            stages.append(replace(stage, keep=KeepSpec("fraction", left, stage.keep.path, stage.keep.rule)))
        else:
            stages.append(stage)
    return replace(policy, stages=tuple(stages))


def _reached(policy: Policy, geometry: Geometry | None) -> Policy:
    """The policy itself; raises `Infeasible` where it is known that it cannot meet its budget."""
    if geometry is not None:
        tokens = geometry.tokens_per_image
        steps = [(p.layer, p.keep) for p in expand(policy, geometry.depth, tokens)]
        if tokens:
            count_steps(steps, tokens, geometry.depth, [0] * len(steps))
        else:
            fractional_budget(steps, geometry.depth)
    return policy


def _in_proportion(policy: Policy, budget: Fraction) -> Policy:
    """Where the last stage asks for a budget, the keeps of N before it times how much the new one is of that."""
    last = policy.stages[-1]
    if not isinstance(last, Stage) or last.keep.kind != "to_budget":
        return policy
    before = [_times(stage, budget / last.keep.value, i) for i, stage in enumerate(policy.stages[:-1])]
    return replace(policy, stages=(*before, last))


def _to_budget(stage: Stage, budget: Fraction) -> Stage:
    return replace(stage, keep=KeepSpec("to_budget", budget, stage.keep.path, stage.keep.rule))


def _solved(policy: Policy, stage: CurveStage, budget: Fraction, geometry: Geometry | None) -> CurveStage:
    """The curve with one number solved from the budget: the one that is already; of a geometric one where it begins,
    or the ratio where the published one cannot spend so much."""
    curve = stage.curve
    depth = policy.literal.get("depth") if geometry is None else geometry.depth
    field, params = SOLVED[curve.name], dict(curve.params)
    if curve.solve is not None:
        field = str(curve.solve.path[0])
    elif field == "first" and isinstance(depth, int):
        most = replace(stage, curve=replace(curve, params={**params, "first": 1}))
        if fractional_budget(_steps(replace(policy, stages=(most,)), depth), depth) < budget:
            field = "ratio"
            params.pop("first", None)
    return replace(stage, curve=replace(curve, params={**params, field: None}, solve=Solve((field,), budget)))


def _relative(policy: Policy, tokens: int | None) -> Policy:
    """Keeps in tokens as fractions of N; budgets that are asked for already as 1 (they are asked for anew)."""
    stages: list[AnyStage] = []
    for stage in policy.stages:
        if isinstance(stage, CurveStage):
            stages.append(_fixed(stage))
        elif stage.keep.kind == "tokens":
            if not tokens:
                raise BadInput(
                    "a keep in tokens can be scaled only where every image has the same number of visual tokens",
                    code="cannot-scale",
                )
            fraction = min(Fraction(1), stage.keep.value / tokens)
            stages.append(replace(stage, keep=replace(stage.keep, kind="fraction", value=fraction)))
        elif stage.keep.kind == "to_budget":
            stages.append(replace(stage, keep=replace(stage.keep, kind="of_current", value=Fraction(1))))
        else:
            stages.append(stage)
    return replace(policy, stages=tuple(stages))


def _fixed(stage: CurveStage) -> CurveStage:
    if stage.curve.solve is None:
        return stage
    raise BadInput(
        "a curve that is solved from a budget beside other stages cannot be scaled to another one", code="cannot-scale"
    )


def _steps(policy: Policy, depth: int) -> list[Step]:
    return [(p.layer, p.keep) for p in expand(policy, depth)]


def _last(policy: Policy, budget: Fraction, depth: int) -> Policy | None:
    """Only the last stage changes, where that is enough."""
    last = policy.stages[-1]
    if not isinstance(last, Stage):
        return None
    before = _steps(replace(policy, stages=policy.stages[:-1]), depth)
    made = replace(policy, stages=(*policy.stages[:-1], _to_budget(last, budget)))
    if fractional_budget(before, depth) < budget:
        return None
    try:
        fractional_budget(_steps(made, depth), depth)
    except Infeasible:
        return None
    return made


def _scaled(policy: Policy, budget: Fraction, depth: int, tokens: int | None = None) -> Policy:
    """Every keep of N times the largest factor that stays at or below the budget; with `tokens`, of that many tokens,
    which nothing evens out where the last stage drops all or is a curve."""

    def made(factor: int) -> Policy:
        return _multiplied(policy, Fraction(factor, GRID))

    def spent(factor: int) -> Fraction:
        steps = _steps(made(factor), depth)
        return _counted(steps, tokens, depth) if tokens else fractional_budget(steps, depth)

    if spent(1) > budget:
        raise Infeasible(spent(1) - budget, budget=budget)
    low, high = 1, MOST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if spent(middle) <= budget else (low, middle - 1)
    result = made(low)
    last = result.stages[-1]
    if not isinstance(last, Stage) or _takes_nothing_up(policy):
        return result
    return replace(result, stages=(*result.stages[:-1], _to_budget(last, budget)))


def _counted(steps: list[Step], tokens: int, depth: int) -> Fraction:
    """The budget of one image, in whole tokens."""
    spent, current, reached = 0, tokens, 0
    for (layer, _), kept in zip(steps, count_steps(steps, tokens, depth, [0] * len(steps)), strict=True):
        spent, current, reached = spent + current * (layer - reached), kept, layer
    return Fraction(spent + current * (depth - reached), depth * tokens)


def _multiplied(policy: Policy, factor: Fraction) -> Policy:
    return replace(policy, stages=tuple(_times(stage, factor, i) for i, stage in enumerate(policy.stages)))


def _times(stage: AnyStage, factor: Fraction, number: int) -> AnyStage:
    """A stage with its keep of N multiplied. `of_current` says a ratio between stages and stays, but for the first."""
    if isinstance(stage, CurveStage):
        curve = build(stage.curve).scaled(factor)
        return replace(stage, curve=replace(stage.curve, params=params_of(curve)))
    if stage.keep.kind in ("rule", "to_budget") or (stage.keep.kind == "of_current" and number > 0):
        return stage
    keep = replace(stage.keep, kind="fraction", value=min(Fraction(1), stage.keep.value * factor))
    return replace(stage, keep=keep)
