"""What a stage chooses by: parts, mixes of criteria, pick lists."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from autoprune.document.problems import Path, Problems, shown
from autoprune.policy.model import Dilate, MixUse, Pick, ScoreUse, Use
from autoprune.policy.read_fields import check_keys, number, one_of

PICK_KEYS = ("share", "score", "select", "group", "allocate", "overlap", "dilate", "count")
DILATIONS = ("none", "cross")
NORMALISERS = ("rank", "minmax", "softmax", "sum", "none")
MIX_KEYS = ("weights", "normalise", "op")


def read_use(value: Any, path: Path, what: str, found: Problems) -> Use | None:
    """A part: a bare word, or a one-key mapping to its parameters."""
    if isinstance(value, str):
        return Use(value, {}, path)
    if isinstance(value, Mapping) and len(value) == 1:
        name, params = next(iter(value.items()))
        if isinstance(params, Mapping):
            return Use(str(name), dict(params), path)
        found.add((*path, name), "not-a-part", f"the parameters of {name!r} are a mapping, not {shown(params)}")
        return None
    shape = "has several keys" if isinstance(value, Mapping) else f"is {shown(value)}"
    found.add(path, "not-a-part", f"a {what} is a name or a mapping with one key (name: parameters); this {shape}")
    return None


def read_score(value: Any, path: Path, found: Problems) -> ScoreUse | None:
    """A criterion, a name from `criteria`, or a mix of them."""
    if isinstance(value, Mapping) and tuple(value) == ("mix",):
        return read_mix(value["mix"], (*path, "mix"), found)
    return read_use(value, path, "criterion", found)


def read_mix(value: Any, path: Path, found: Problems) -> MixUse | None:
    """A mix; of one with mistakes (added to `found`) the names, with stand-ins for the rest. None without any name."""
    before = len(found)
    if not check_keys(value, path, MIX_KEYS, ("weights",), found) or "weights" not in value:
        return None
    normalise, op = value.get("normalise", "rank"), value.get("op", "sum")
    if not one_of(normalise, (*path, "normalise"), NORMALISERS, found):
        normalise = "rank"
    if not one_of(op, (*path, "op"), ("sum", "product", "max"), found):
        op = "sum"
    weights, inside = value["weights"], (*path, "weights")
    if not isinstance(weights, Mapping) or not weights:
        found.add(inside, "wrong-type", f"weights are a mapping from criteria to numbers, not {shown(weights)}")
        return None
    read = {name: number(w, (*inside, name), found, high=None) for name, w in weights.items()}
    if len(found) == before and not any(read.values()):
        found.add(inside, "zero-weights", "all weights are zero")
    return MixUse(tuple((name, Fraction(1) if w is None else w) for name, w in read.items()), normalise, op, path)


def read_pick(value: Any, path: Path, found: Problems, shares: bool = True) -> Pick | None:
    """One selection; of one with mistakes (added to `found`) what reads well. None where it is none at all."""
    if shares and not check_keys(value, path, PICK_KEYS, (), found):
        return None
    score = read_score(value["score"], (*path, "score"), found) if "score" in value else None
    select = read_use(value["select"], (*path, "select"), "selector", found) if "select" in value else None
    share = number(value["share"], (*path, "share"), found) if shares and "share" in value else None
    group = read_group(value["group"], (*path, "group"), found) if "group" in value else None
    allocate = read_score(value["allocate"], (*path, "allocate"), found) if "allocate" in value else None
    overlap, dilate = value.get("overlap", False), value.get("dilate", "none")
    if shares and not isinstance(overlap, bool):
        found.add((*path, "overlap"), "wrong-type", f"overlap is true or false, not {shown(overlap)}")
    if shares:
        one_of(dilate, (*path, "dilate"), DILATIONS, found)
    count = read_use(value["count"], (*path, "count"), "count rule", found) if shares and "count" in value else None
    cross: Dilate = "cross" if shares and dilate == "cross" else None
    overlaps = shares and overlap is True
    return Pick(score, select or Use("top", {}, path), share, path, group, allocate, overlaps, cross, count)


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
            found.add(
                (*path, key), "conflict", f"{key!r} stands in the entries of `pick` when there is a `pick`", key=True
            )
    listed, inside = data["pick"], (*path, "pick")
    if not isinstance(listed, list) or not listed:
        found.add(
            inside,
            "empty-value" if listed == [] else "wrong-type",
            f"pick is a list of selections, not {shown(listed)}",
        )
        return ()
    picks = [read_pick(value, (*inside, i), found) for i, value in enumerate(listed)]
    _check_shares(listed, picks, inside, found)
    return tuple(pick for pick in picks if pick is not None)


def _check_shares(listed: list[Any], picks: list[Pick | None], path: Path, found: Problems) -> None:
    """All but the last need a share; the last takes the rest, so the shares of picks that exclude each other stay
    together at or below 1."""
    for i, value in enumerate(listed[:-1]):
        if isinstance(value, Mapping) and "share" not in value:
            found.add((*path, i), "wrong-shares", "only the last pick takes the rest; this one needs a `share`")
    there = [pick for pick in picks if pick is not None]
    total = sum(pick.share for pick in there if pick.share is not None and not pick.overlap)
    if total > 1:
        found.add(path, "wrong-shares", f"the shares sum to {total}, more than 1")
    last, place = picks[-1], (*path, len(picks) - 1)
    if last is None:
        return
    flexible = any(pick.overlap or pick.dilate for pick in there)
    if last.share is not None and (total != 1 or flexible):
        found.add((*place, "share"), "wrong-shares", "the last pick takes the rest: leave its share out")
    for key, used in (("overlap", last.overlap), ("dilate", last.dilate)):
        if used:
            found.add((*place, key), "wrong-shares", f"the last pick takes exactly the rest: it cannot {key}", key=True)
