"""The front on the holdout: what each policy costs, what it keeps, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.figures import style
from autoprune.spec.expressions import parse_constraint
from autoprune.spec.goals import Constraint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from autoprune.ports import TrialRecord

COSTS = ("prefill_flops", "prefill_latency", "kv_bytes", "budget")
STATES = {
    "certified": ("o", style.BLUE),
    "undecided": ("D", style.ORANGE),
    "violated": ("X", style.RED),
}


def front_figure(
    front: Mapping[str, Any],
    *,
    trials: Sequence[TrialRecord] = (),
    x: str | None = None,
    y: str | None = None,
    title: str | None = None,
) -> Figure:
    """Members of a front document (`autoprune front --json`) with their intervals and certification states.

    `trials` are drawn as a cloud of search-split values behind them. `x` is a cost (default: the first of
    prefill_flops, prefill_latency, kv_bytes, budget that every member has) as a fraction of the unpruned model's;
    `y` a measure (default: the first constraint's with a lower bound, else the first holdout measure that isn't `x`).
    Raises ValueError if no such pair exists.
    """
    members = list(front.get("members", []))
    baseline = dict(front.get("baseline", {}).get("holdout", {}))
    goals = _constraints(members)
    x = x or _cost(members, baseline)
    y = y or _measure(goals, baseline, x)
    unit = _unit(x, baseline)
    figure, (axes,) = style.canvas(size=(8.8, 4.6))
    _bounds(axes, goals, y, baseline)
    _members(axes, members, x, y, unit)
    _baseline(axes, baseline, x, y, unit)
    axes.margins(x=0.04, y=0.12)
    _cloud(axes, trials, x, y, unit)
    relative = "" if x == "budget" else " (fraction of the unpruned model's)"
    style.dress(
        axes,
        x=f"{style.words(x)}{relative}",
        y=f"{style.words(y)} on the holdout",
        title=title if title is not None else f"Front of {front.get('study', 'the study')}",
    )
    _legend(axes)
    return figure


# ----------------------------------------------------------------------------------------------------- what to draw
def _constraints(members: Sequence[Mapping[str, Any]]) -> list[Constraint]:
    texts = dict.fromkeys(text for member in members for text in member.get("constraints", {}))
    return [parse_constraint(text) for text in texts]


def _cost(members: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> str:
    for label in COSTS:
        known = all(_value(member, label) is not None for member in members)
        if known and (label == "budget" or label in baseline):
            return label
    raise ValueError(f"the front's members have none of the costs {', '.join(COSTS)} in common; name one as x")


def _measure(goals: Sequence[Constraint], baseline: Mapping[str, Any], x: str) -> str:
    for goal in goals:
        if goal.op == ">=" and goal.label in baseline:
            return goal.label
    for label in baseline:
        if label != x:
            return str(label)
    raise ValueError("the front's baseline has no holdout measure to draw; name one as y")


def _unit(x: str, baseline: Mapping[str, Any]) -> float:
    """What `x` is divided by: the unpruned model's value (a budget is a fraction already)."""
    value = 1.0 if x == "budget" else baseline.get(x, {}).get("value", 1.0)
    return float(value) or 1.0


def _value(member: Mapping[str, Any], label: str) -> float | None:
    """A member's number: on the holdout, else on the search split, else its own field (the budget)."""
    if label in member.get("holdout", {}):
        return float(member["holdout"][label]["value"])
    found = member.get("search", {}).get(label, member.get(label))
    return None if found is None else float(found)


def state(member: Mapping[str, Any]) -> str:
    """A member's certification over all its constraints: the worst of them."""
    states = set(member.get("constraints", {}).values())
    return next((worst for worst in ("violated", "undecided") if worst in states), "certified")


# -------------------------------------------------------------------------------------------------------- the layers
def _cloud(axes: Axes, trials: Sequence[TrialRecord], x: str, y: str, unit: float) -> None:
    """Trials as grey dots. They must not squeeze the front: what lies far below it is a tick at the lower edge."""
    own = next((t.values[x] for t in trials if t.origin == "baseline" and t.values.get(x)), unit)
    scale = 1.0 if x == "budget" else own
    points = [
        (t.values[x] / scale, t.values[y])
        for t in trials
        if t.state == "complete" and t.origin != "baseline" and x in t.values and y in t.values
    ]
    if not points:
        return
    low, high = axes.get_ylim()
    floor = max(low - 0.8 * (high - low), min(value for _, value in points) - 0.05 * (high - low))
    floor = min(low, floor)
    inside = [p for p in points if p[1] >= floor]
    grey: dict[str, Any] = {"color": style.MUTED, "alpha": 0.55, "linewidths": 0, "zorder": 1}
    label = f"trials, search split ({len(points)})"
    axes.scatter([p[0] for p in inside], [p[1] for p in inside], s=15, label=label, **grey)
    if len(inside) < len(points):
        below = [p[0] for p in points if p[1] < floor]
        label = f"… below the axis ({len(below)})"
        axes.scatter(below, [floor] * len(below), s=26, marker="v", clip_on=False, label=label, **grey)
    axes.set_ylim(floor, max(high, *(value for _, value in points)))


def _bounds(axes: Axes, goals: Sequence[Constraint], y: str, baseline: Mapping[str, Any]) -> None:
    own = baseline.get(y, {}).get("value")
    for goal in goals:
        if goal.label == y and not (goal.relative and own is None):
            axes.axhline(
                goal.bound(own), color=style.INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2, label=goal.text
            )


def _members(axes: Axes, members: Sequence[Mapping[str, Any]], x: str, y: str, unit: float) -> None:
    drawn = [m for m in members if _value(m, x) is not None and y in m.get("holdout", {})]
    for name, (marker, colour) in STATES.items():
        some = [m for m in drawn if state(m) == name]
        if not some:
            continue
        xs = [(_value(m, x) or 0.0) / unit for m in some]
        ys, below, above = _intervals(some, y)
        axes.errorbar(
            xs,
            ys,
            yerr=[below, above],
            fmt=marker,
            color=colour,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.8,
            elinewidth=1.3,
            capsize=2.5,
            zorder=4,
            label=f"{name} ({len(some)})",
        )
    for member in drawn:
        if member.get("selected"):
            point = ((_value(member, x) or 0.0) / unit, float(member["holdout"][y]["value"]))
            axes.plot(
                *point,
                "o",
                markersize=14,
                markerfacecolor="none",
                markeredgecolor=style.GREEN,
                markeredgewidth=2.2,
                zorder=5,
                linestyle="none",
                label="selected",
            )


def _baseline(axes: Axes, baseline: Mapping[str, Any], x: str, y: str, unit: float) -> None:
    if y not in baseline or (x != "budget" and x not in baseline):
        return
    ys, below, above = _intervals([{"holdout": baseline}], y)
    at = 1.0 if x == "budget" else float(baseline[x]["value"]) / unit
    axes.errorbar(
        [at],
        ys,
        yerr=[below, above],
        fmt="*",
        color=style.INK,
        markersize=13,
        elinewidth=1.3,
        capsize=2.5,
        zorder=4,
        label="unpruned",
    )


def _legend(axes: Axes) -> None:
    """Beside the axes, the front first and the cloud last."""
    handles, labels = axes.get_legend_handles_labels()
    order = (*STATES, "selected", "unpruned")
    ranks = [next((i for i, word in enumerate(order) if label.startswith(word)), len(order)) for label in labels]
    pairs = sorted(zip(ranks, range(len(labels)), strict=True))
    axes.legend(
        [handles[i] for _, i in pairs],
        [labels[i] for _, i in pairs],
        fontsize=8.5,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        labelspacing=0.9,
    )


def _intervals(members: Sequence[Mapping[str, Any]], y: str) -> tuple[list[float], list[float], list[float]]:
    """Values, and how far the interval reaches below and above them (0 where there is none)."""
    values, below, above = [], [], []
    for member in members:
        interval = member["holdout"][y]
        value = float(interval["value"])
        low, high = (interval.get(end) for end in ("low", "high"))
        values.append(value)
        below.append(max(0.0, value - float(value if low is None else low)))
        above.append(max(0.0, float(value if high is None else high) - value))
    return values, below, above
