"""From a document's plain data to a `Policy`'s values: structure and types. What names mean, `validate` checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast, get_args

from pydantic import ValidationError

from autoprune.document.numbers import exact
from autoprune.document.problems import Path, Problems, from_pydantic, shown, suggest
from autoprune.policy.curves import CURVES, CurveSpec, Solve, build, replaced, solve_range
from autoprune.policy.model import AnyStage, CurveStage, Dilate, KeepSpec, MergeOn, MixUse, Pick, ScoreUse, Stage, Use
from autoprune.policy.resolved import KeepKind, Protect
from autoprune.policy.sites import Layer, Site, layer_of, read_site

LATER_KEYS = ("arms",)
KEEP_KINDS: tuple[KeepKind, ...] = ("of_current", "tokens", "to_budget")
RULE_KEYS = ("rule", "most", "least", "fit")
COMMON_KEYS = ("score", "select", "group", "allocate", "pick", "merge", "protect", "positions", "attend")
STAGE_KEYS = ("at", "keep", *COMMON_KEYS, "restore", "merge_on")
CURVE_KEYS = ("along", "curve", *COMMON_KEYS)
REPEATED_KEYS = ("along", "keep", *COMMON_KEYS)
PICK_KEYS = ("share", "score", "select", "group", "allocate", "overlap", "dilate", "count")
MERGE_ON = get_args(MergeOn)
DILATIONS = ("none", "cross")
NORMALISERS = ("rank", "minmax", "softmax", "sum", "none")
MIX_KEYS = ("weights", "normalise", "op")


def check_keys(data: Any, path: Path, allowed: tuple[str, ...], required: tuple[str, ...], found: Problems) -> bool:
    """Whether `data` is a mapping; unknown, later and missing keys are added to `found`."""
    if not isinstance(data, Mapping):
        keys = f"must be a mapping with the keys {', '.join(allowed)}"
        found.add(
            path, f"{keys}, not {shown(data)}" if path or data is not None else f"the document is empty: it {keys}"
        )
        return False
    meant = set()
    for key in data:
        if key in LATER_KEYS:
            found.add((*path, key), f"{key!r} is not available in this version", key=True)
        elif key not in allowed:
            hint = suggest(key, allowed)
            meant.add(hint)
            found.add((*path, key), f"unknown key {key!r}; allowed: {', '.join(allowed)}{hint}", key=True)
    for key in required:
        if key not in data and suggest(key, (key,)) not in meant:  # a misspelt key is one mistake, not two
            found.add((*path, key), f"the key {key!r} is missing", key=True)
    return True


def one_of(value: Any, path: Path, allowed: tuple[str, ...], found: Problems) -> bool:
    """Whether the value is one of the allowed words."""
    if isinstance(value, str) and value in allowed:
        return True
    found.add(path, f"must be one of {', '.join(allowed)}, not {shown(value)}{suggest(value, allowed)}")
    return False


def number(value: Any, path: Path, found: Problems, low: int = 0, high: int | None = 1) -> Fraction | None:
    """An exact number in [low, high]."""
    try:
        result = exact(value)
    except ValueError as error:
        found.add(path, str(error))
        return None
    if result < low or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        found.add(path, f"must be {bounds}, not {shown(value)}")
        return None
    return result


def read_keep(value: Any, path: Path, found: Problems) -> KeepSpec | None:
    """`keep: f` (of N), or one of `{of_current: f}`, `{tokens: n}`, `{to_budget: B}`, `{rule: …}`."""
    if not isinstance(value, Mapping):
        fraction = number(value, path, found)
        return None if fraction is None else KeepSpec("fraction", fraction, path)
    if "rule" in value:
        return read_rule(value, path, found)
    if len(value) != 1:
        found.add(path, f"keep is a number, or one of {', '.join(KEEP_KINDS)}, not {shown(dict(value))}")
        return None
    kind, given = next(iter(value.items()))
    inside = (*path, kind)
    if kind not in KEEP_KINDS:
        kinds = (*KEEP_KINDS, "rule")
        allowed = ", ".join(kinds)
        found.add(inside, f"unknown kind of keep {kind!r}; allowed: {allowed}{suggest(kind, kinds)}", key=True)
        return None
    if kind == "tokens" and (not isinstance(given, int) or isinstance(given, bool) or given < 0):
        found.add(inside, f"a number of tokens is an integer from 0, not {shown(given)}")
        return None
    amount = number(given, inside, found, high=None if kind == "tokens" else 1)
    return None if amount is None else KeepSpec(kind, amount, path)


def read_rule(value: Mapping[str, Any], path: Path, found: Problems) -> KeepSpec | None:
    """`{rule: part, most: f, least: f}`, or `{rule: part, fit: keep}`: exactly that many, shared out by the rule."""
    check_keys(value, path, RULE_KEYS, ("rule",), found)
    rule = read_use(value["rule"], (*path, "rule"), "count rule", found)
    if "fit" not in value:
        most = number(value.get("most", 1), (*path, "most"), found)
        least = number(value.get("least", 0), (*path, "least"), found)
        if rule is None or most is None or least is None:
            return None
        if least > most or most == 0:
            found.add((*path, "most"), f"`most` is above 0 and at least `least` ({least}), not {most}")
            return None
        return KeepSpec("rule", most, path, rule, least)
    for key in ("most", "least"):
        if key in value:
            found.add((*path, key), f"{key!r} bounds what a rule decides; with `fit` the count is fixed", key=True)
    inner = value["fit"]
    if isinstance(inner, Mapping) and "rule" in inner:
        found.add((*path, "fit"), "`fit` is a keep without a rule: the count that the rule shares out")
        return None
    fixed = read_keep(inner, (*path, "fit"), found)
    return None if fixed is None or rule is None else replace(fixed, rule=rule)


def read_use(value: Any, path: Path, what: str, found: Problems) -> Use | None:
    """A part: a bare word, or a one-key mapping to its parameters."""
    if isinstance(value, str):
        return Use(value, {}, path)
    if isinstance(value, Mapping) and len(value) == 1:
        name, params = next(iter(value.items()))
        if isinstance(params, Mapping):
            return Use(str(name), dict(params), path)
        found.add((*path, name), f"the parameters of {name!r} are a mapping, not {shown(params)}")
        return None
    shape = "has several keys" if isinstance(value, Mapping) else f"is {shown(value)}"
    found.add(path, f"a {what} is a name or a mapping with one key (name: parameters); this {shape}")
    return None


def read_score(value: Any, path: Path, found: Problems) -> ScoreUse | None:
    """A criterion, a name from `criteria`, or a mix of them."""
    if isinstance(value, Mapping) and tuple(value) == ("mix",):
        return read_mix(value["mix"], (*path, "mix"), found)
    return read_use(value, path, "criterion", found)


def read_mix(value: Any, path: Path, found: Problems) -> MixUse | None:
    before = len(found)
    if not check_keys(value, path, MIX_KEYS, ("weights",), found) or "weights" not in value:
        return None
    normalise, op = value.get("normalise", "rank"), value.get("op", "sum")
    one_of(normalise, (*path, "normalise"), NORMALISERS, found)
    one_of(op, (*path, "op"), ("sum", "product", "max"), found)
    weights, inside = value["weights"], (*path, "weights")
    if not isinstance(weights, Mapping) or not weights:
        found.add(inside, f"weights are a mapping from criteria to numbers, not {shown(weights)}")
        return None
    read = {name: number(w, (*inside, name), found, high=None) for name, w in weights.items()}
    if len(found) == before and not any(read.values()):
        found.add(inside, "all weights are zero")
    if len(found) > before:
        return None
    return MixUse(tuple((name, w) for name, w in read.items() if w is not None), normalise, op, path)


def read_pick(value: Any, path: Path, found: Problems, shares: bool = True) -> Pick | None:
    if shares and not check_keys(value, path, PICK_KEYS, (), found):
        return None
    score = read_score(value["score"], (*path, "score"), found) if "score" in value else None
    select = (
        read_use(value["select"], (*path, "select"), "selector", found) if "select" in value else Use("top", {}, path)
    )
    share = number(value["share"], (*path, "share"), found) if shares and "share" in value else None
    group = read_group(value["group"], (*path, "group"), found) if "group" in value else None
    allocate = read_score(value["allocate"], (*path, "allocate"), found) if "allocate" in value else None
    overlap, dilate = value.get("overlap", False), value.get("dilate", "none")
    if shares and not isinstance(overlap, bool):
        found.add((*path, "overlap"), f"overlap is true or false, not {shown(overlap)}")
    if shares:
        one_of(dilate, (*path, "dilate"), DILATIONS, found)
    count = read_use(value["count"], (*path, "count"), "count rule", found) if shares and "count" in value else None
    if select is None:
        return None
    cross: Dilate = "cross" if shares and dilate == "cross" else None
    return Pick(score, select, share, path, group, allocate, shares and overlap is True, cross, count)


def read_group(value: Any, path: Path, found: Problems) -> Use | None:
    """A partition: a name, `{name: parameters}`, or `{window: 1/4}` for `{window: {side: 1/4}}`."""
    if isinstance(value, Mapping) and len(value) == 1:
        name, side = next(iter(value.items()))
        if not isinstance(side, Mapping):  # whether the group exists and has a side, its own config says
            return Use(str(name), {"side": side}, path)
    return read_use(value, path, "group", found)


def read_picks(data: Mapping[str, Any], path: Path, found: Problems) -> tuple[Pick, ...]:
    """A stage's pick list, or its own `score` and `select` as a list of one."""
    if "pick" not in data:
        pick = read_pick(data, path, found, shares=False)
        return () if pick is None else (pick,)
    for key in ("score", "select", "group", "allocate"):
        if key in data:
            found.add((*path, key), f"{key!r} stands in the entries of `pick` when there is a `pick`", key=True)
    listed, inside = data["pick"], (*path, "pick")
    if not isinstance(listed, list) or not listed:
        found.add(inside, f"pick is a list of selections, not {shown(listed)}")
        return ()
    picks = [read_pick(value, (*inside, i), found) for i, value in enumerate(listed)]
    _check_shares(listed, picks, inside, found)
    return tuple(pick for pick in picks if pick is not None)


def _check_shares(listed: list[Any], picks: list[Pick | None], path: Path, found: Problems) -> None:
    """All but the last need a share; the last takes the rest, so the shares of picks that exclude each other stay
    together at or below 1."""
    for i, value in enumerate(listed[:-1]):
        if isinstance(value, Mapping) and "share" not in value:
            found.add((*path, i), "only the last pick takes the rest; this one needs a `share`")
    there = [pick for pick in picks if pick is not None]
    total = sum(pick.share for pick in there if pick.share is not None and not pick.overlap)
    if total > 1:
        found.add(path, f"the shares sum to {total}, more than 1")
    last, place = picks[-1], (*path, len(picks) - 1)
    if last is None:
        return
    flexible = any(pick.overlap or pick.dilate for pick in there)
    if last.share is not None and (total != 1 or flexible):
        found.add((*place, "share"), "the last pick takes the rest: leave its share out")
    for key, used in (("overlap", last.overlap), ("dilate", last.dilate)):
        if used:
            found.add((*place, key), f"the last pick takes exactly the rest: it cannot {key}", key=True)


def read_protect(value: Any, path: Path, found: Problems) -> Protect:
    if value in (None, "newlines", "last"):
        return cast(Protect, value)
    if isinstance(value, Mapping) and tuple(value) == ("index",):
        index = value["index"]
        good = isinstance(index, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in index)
        if good and index:
            return tuple(sorted(set(index)))
        found.add((*path, "index"), f"index is a list of visual positions from 0, not {shown(index)}")
    else:
        hint = suggest(value, ("newlines", "last"))
        found.add(path, f"protect is `newlines`, `last` or {{index: […]}}, not {shown(value)}{hint}")
    return None


def read_stage(value: Any, path: Path, found: Problems) -> AnyStage | None:
    """A stage, or stages along a range of layers: with a curve, or all with the same keep."""
    if not isinstance(value, Mapping):
        found.add(path, f"a stage is a mapping with the keys {', '.join(STAGE_KEYS)}, not {shown(value)}")
        return None
    curved = "curve" in value or ("along" in value and "keep" not in value)
    repeated = "along" in value and not curved
    if not curved:
        keys = REPEATED_KEYS if repeated else STAGE_KEYS
        check_keys(value, path, keys, keys[:2], found)
    else:
        check_keys(value, path, CURVE_KEYS, ("along", "curve"), found)
    common = _read_common(value, path, found)
    if common is None:
        return None
    if curved:
        return _read_curved(value, path, found, common)
    return _read_repeated(value, path, found, common) if repeated else _read_plain(value, path, found, common)


def _read_common(value: Mapping[str, Any], path: Path, found: Problems) -> dict[str, Any] | None:
    """What every kind of stage has, by the names of its fields."""
    picks = read_picks(value, path, found)
    merge = read_use(value["merge"], (*path, "merge"), "merger", found) if "merge" in value else Use("drop", {}, path)
    protect = read_protect(value.get("protect"), (*path, "protect"), found)
    positions = value.get("positions", "keep")
    attend = value.get("attend")
    right = attend is None or one_of(attend, (*path, "attend"), ("mass",), found)
    right = one_of(positions, (*path, "positions"), ("keep", "compact"), found) and right
    if not right or merge is None or not picks:
        return None
    return {
        "pick": picks,
        "merge": merge,
        "protect": protect,
        "positions": positions,
        "attend": attend,
        "path": path,
    }


def _read_plain(value: Mapping[str, Any], path: Path, found: Problems, common: Mapping[str, Any]) -> Stage | None:
    site: Site | None = read_site(value["at"], (*path, "at"), found) if "at" in value else None
    keep = read_keep(value["keep"], (*path, "keep"), found) if "keep" in value else None
    restore = value.get("restore")
    right = restore is None or one_of(restore, (*path, "restore"), ("parked", "scattered"), found)
    on = value.get("merge_on", "projected")
    right = one_of(on, (*path, "merge_on"), MERGE_ON, found) and right
    if on in MERGE_ON[1:] and site is not None and site.kind != "projector":
        found.add((*path, "merge_on"), f"merge_on: {on} is legal at projector, not at {site.text}", key=True)
    if site is None or keep is None or not right:
        return None
    return Stage(**common, at=site, keep=keep, restore=restore, merge_on=on)


def _read_repeated(value: Mapping[str, Any], path: Path, found: Problems, common: Mapping[str, Any]) -> Stage | None:
    along = read_along(value["along"], (*path, "along"), found)
    keep = read_keep(value["keep"], (*path, "keep"), found)
    if along is None or keep is None:
        return None
    if keep.kind in ("fraction", "tokens") or (keep.kind == "to_budget" and keep.rule is None):
        allowed = "{of_current: f}, {rule: …} or {rule: …, fit: {to_budget: B}}"
        found.add((*path, "keep"), f"before every layer of `along` the keep is one of {allowed}")
        return None
    first, until = along
    return Stage(**common, at=Site("llm", first), keep=keep, until=until)


def _read_curved(value: Mapping[str, Any], path: Path, found: Problems, common: Mapping[str, Any]) -> CurveStage | None:
    along = read_along(value.get("along"), (*path, "along"), found) if "along" in value else None
    curve = read_curve(value.get("curve"), (*path, "curve"), found) if "curve" in value else None
    return None if along is None or curve is None else CurveStage(**common, along=along, curve=curve)


def read_along(value: Any, path: Path, found: Problems) -> tuple[Layer, Layer] | None:
    if not isinstance(value, list) or len(value) != 2:
        found.add(path, f"along is [first layer, last layer], not {shown(value)}")
        return None
    ends: list[Layer] = []
    for i, end in enumerate(value):
        try:
            ends.append(layer_of(end))
        except ValueError as error:
            found.add((*path, i), str(error))
    if len(ends) != 2:
        return None
    if type(ends[0]) is type(ends[1]) and ends[1] < ends[0]:
        found.add(path, f"along goes from shallow to deep, not from {ends[0]} to {ends[1]}")
        return None
    return ends[0], ends[1]


def read_curve(value: Any, path: Path, found: Problems) -> CurveSpec | None:
    """One formula with its numbers; at most one number is `{to_budget: B}`."""
    if not isinstance(value, Mapping) or len(value) != 1:
        found.add(path, f"a curve is a mapping with one key, one of {', '.join(CURVES)}; not {shown(value)}")
        return None
    name, params = next(iter(value.items()))
    inside = (*path, name)
    if name not in CURVES:
        found.add(inside, f"unknown curve {name!r}; available: {', '.join(CURVES)}{suggest(name, CURVES)}", key=True)
        return None
    before = len(found)
    solve = _read_solve(name, params, inside, found)
    if len(found) > before:
        return None
    spec = CurveSpec(name, params if solve is None else replaced(params, solve.path, None), solve, path)
    try:
        build(spec, None if solve is None else solve_range(spec)[1])
    except ValidationError as error:
        problems = from_pydantic(error, model=CURVES[name], data={"steps": params} if name == "steps" else params)
        for p in problems:
            found.add((*inside, *(p.path[1:] if name == "steps" else p.path)), p.message, key=p.key)
        return None
    except (ValueError, KeyError, IndexError, TypeError):
        build_without = "a number that the budget decides needs all other numbers of the curve to be right"
        found.add(inside, f"{build_without}; given: {shown(params)}")
        return None
    return spec


def _read_solve(name: str, params: Any, path: Path, found: Problems) -> Solve | None:
    """The number that is written `{to_budget: B}`, if any."""
    places = [(p, v) for p, v in _leaves(params) if isinstance(v, Mapping) and "to_budget" in v]
    if len(places) > 1:
        found.add((*path, *places[1][0]), "only one number of a curve can follow from the budget")
    if not places:
        return None
    place, value = places[0]
    solvable = CURVES[name].solvable
    right = len(place) == 2 and place[1] == 1 if name == "steps" else len(place) == 1 and place[0] in solvable
    if not right:
        allowed = "a keep" if name == "steps" else ", ".join(solvable)
        found.add((*path, *place), f"this number cannot follow from the budget; in {name} one can: {allowed}")
        return None
    if len(value) != 1:
        found.add((*path, *place), f"must be {{to_budget: B}}, not {shown(dict(value))}")
        return None
    budget = number(value["to_budget"], (*path, *place, "to_budget"), found)
    return None if budget is None else Solve(place, budget)


def _leaves(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    if isinstance(value, Mapping) and "to_budget" not in value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for i, inner in enumerate(value) for leaf in _leaves(inner, (*path, i))]
    return [(path, value)]


def plain_curve(spec: CurveSpec) -> Any:
    """The curve as a document writes it."""
    from autoprune.document.numbers import text

    if spec.solve is None:
        return {spec.name: spec.params}
    return {spec.name: replaced(spec.params, spec.solve.path, {"to_budget": text(spec.solve.budget)})}
