"""From a document's plain data to a stage: structure and types. What names mean, `validate` checks.

What does not read well is a mistake in `found`; the rest of its stage is there all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast, get_args

from autoprune.document.problems import Path, Problems, shown, suggest
from autoprune.policy.model import AnyStage, CurveStage, KeepSpec, MergeOn, Stage, Use
from autoprune.policy.read_curve import read_along, read_curve
from autoprune.policy.read_fields import check_keys, one_of
from autoprune.policy.read_keep import read_keep
from autoprune.policy.read_picks import read_picks, read_use
from autoprune.policy.resolved import Protect
from autoprune.policy.sites import Site, read_site

COMMON_KEYS = ("score", "select", "group", "allocate", "pick", "merge", "protect", "positions", "attend")
STAGE_KEYS = ("at", "keep", *COMMON_KEYS, "restore", "merge_on")
CURVE_KEYS = ("along", "curve", *COMMON_KEYS)
REPEATED_KEYS = ("along", "keep", *COMMON_KEYS)
MERGE_ON = get_args(MergeOn)


def read_protect(value: Any, path: Path, found: Problems) -> Protect:
    if value in (None, "newlines", "last"):
        return cast(Protect, value)
    if isinstance(value, Mapping) and tuple(value) == ("index",):
        index = value["index"]
        good = isinstance(index, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in index)
        if good and index:
            return tuple(sorted(set(index)))
        found.add((*path, "index"), "wrong-type", f"index is a list of visual positions from 0, not {shown(index)}")
    else:
        hint = suggest(value, ("newlines", "last"))
        found.add(path, "not-a-choice", f"protect is `newlines`, `last` or {{index: […]}}, not {shown(value)}{hint}")
    return None


def read_stage(value: Any, path: Path, found: Problems) -> AnyStage | None:
    """A stage, or stages along a range of layers: with a curve, or all with the same keep. None where it is none at
    all; of one with mistakes (added to `found`) what reads well, with stand-ins for the rest."""
    if not isinstance(value, Mapping):
        found.add(path, "wrong-type", f"a stage is a mapping with the keys {', '.join(STAGE_KEYS)}, not {shown(value)}")
        return None
    curved = "curve" in value or ("along" in value and "keep" not in value)
    if curved:
        check_keys(value, path, CURVE_KEYS, ("along", "curve"), found)
        return _read_curved(value, path, found, _read_common(value, path, found))
    keys = REPEATED_KEYS if "along" in value else STAGE_KEYS
    check_keys(value, path, keys, keys[:2], found)
    read = _read_repeated if "along" in value else _read_plain
    return read(value, path, found, _read_common(value, path, found))


def _read_common(value: Mapping[str, Any], path: Path, found: Problems) -> dict[str, Any]:
    """What every kind of stage has, by the names of its fields."""
    merge = read_use(value["merge"], (*path, "merge"), "merger", found) if "merge" in value else None
    positions, attend = value.get("positions", "keep"), value.get("attend")
    return {
        "pick": read_picks(value, path, found),
        "merge": merge or Use("drop", {}, path),
        "protect": read_protect(value.get("protect"), (*path, "protect"), found),
        "positions": positions if one_of(positions, (*path, "positions"), ("keep", "compact"), found) else "keep",
        "attend": attend if attend is None or one_of(attend, (*path, "attend"), ("mass",), found) else None,
        "path": path,
    }


def _read_plain(value: Mapping[str, Any], path: Path, found: Problems, common: Mapping[str, Any]) -> Stage:
    site: Site | None = read_site(value["at"], (*path, "at"), found) if "at" in value else None
    keep = read_keep(value["keep"], (*path, "keep"), found) if "keep" in value else None
    restore, on = value.get("restore"), value.get("merge_on", "projected")
    if restore is not None and not one_of(restore, (*path, "restore"), ("parked", "scattered"), found):
        restore = None
    if not one_of(on, (*path, "merge_on"), MERGE_ON, found):
        on = "projected"
    if on in MERGE_ON[1:] and site is not None and site.kind != "projector":
        found.add(
            (*path, "merge_on"), "wrong-site", f"merge_on: {on} is legal at projector, not at {site.text}", key=True
        )
    return Stage(**common, at=site or Site("llm", 0), keep=keep or _all(path), restore=restore, merge_on=on)


def _all(path: Path) -> KeepSpec:
    """A keep of everything: the stand-in for one that did not read well."""
    return KeepSpec("of_current", Fraction(1), path)


def _read_repeated(value: Mapping[str, Any], path: Path, found: Problems, common: Mapping[str, Any]) -> Stage:
    first, until = read_along(value["along"], (*path, "along"), found) or (0, 0)
    keep = read_keep(value["keep"], (*path, "keep"), found) or _all(path)
    if keep.kind in ("fraction", "tokens") or (keep.kind == "to_budget" and keep.rule is None):
        allowed = "{of_current: f}, {rule: …} or {rule: …, fit: {to_budget: B}}"
        found.add((*path, "keep"), "not-a-keep", f"before every layer of `along` the keep is one of {allowed}")
        keep = _all(path)
    return Stage(**common, at=Site("llm", first), keep=keep, until=until)


def _read_curved(value: Mapping[str, Any], path: Path, found: Problems, common: Mapping[str, Any]) -> AnyStage:
    along = (read_along(value["along"], (*path, "along"), found) if "along" in value else None) or (0, 0)
    curve = read_curve(value["curve"], (*path, "curve"), found) if "curve" in value else None
    if curve is None:
        return Stage(**common, at=Site("llm", along[0]), keep=_all(path), until=along[1])
    return CurveStage(**common, along=along, curve=curve)
