"""How much a stage keeps, as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from autoprune.document.problems import Path, Problems, shown, suggest
from autoprune.policy.model import KeepSpec
from autoprune.policy.read_fields import check_keys, number
from autoprune.policy.read_picks import read_use
from autoprune.policy.resolved import KeepKind

KEEP_KINDS: tuple[KeepKind, ...] = ("of_current", "tokens", "to_budget")
RULE_KEYS = ("rule", "most", "least", "fit")


def read_keep(value: Any, path: Path, found: Problems) -> KeepSpec | None:
    """`keep: f` (of N), or one of `{of_current: f}`, `{tokens: n}`, `{to_budget: B}`, `{rule: …}`."""
    if not isinstance(value, Mapping):
        fraction = number(value, path, found)
        return None if fraction is None else KeepSpec("fraction", fraction, path)
    if "rule" in value:
        return read_rule(value, path, found)
    if len(value) != 1:
        found.add(path, "not-a-keep", f"keep is a number, or one of {', '.join(KEEP_KINDS)}, not {shown(dict(value))}")
        return None
    kind, given = next(iter(value.items()))
    inside = (*path, kind)
    if kind not in KEEP_KINDS:
        kinds = (*KEEP_KINDS, "rule")
        allowed = ", ".join(kinds)
        found.add(
            inside, "not-a-keep", f"unknown kind of keep {kind!r}; allowed: {allowed}{suggest(kind, kinds)}", key=True
        )
        return None
    if kind == "tokens" and (not isinstance(given, int) or isinstance(given, bool) or given < 0):
        found.add(inside, "not-a-number", f"a number of tokens is an integer from 0, not {shown(given)}")
        return None
    amount = number(given, inside, found, high=None if kind == "tokens" else 1)
    return None if amount is None else KeepSpec(kind, amount, path)


def read_rule(value: Mapping[str, Any], path: Path, found: Problems) -> KeepSpec | None:
    """`{rule: part, most: f, least: f}`, or `{rule: part, fit: keep}`: exactly that many, shared out by the rule. With
    mistakes in its numbers (added to `found`) the rule is there, with stand-ins for them."""
    check_keys(value, path, RULE_KEYS, ("rule",), found)
    rule = read_use(value["rule"], (*path, "rule"), "count rule", found)
    if "fit" not in value:
        most = number(value.get("most", 1), (*path, "most"), found)
        least = number(value.get("least", 0), (*path, "least"), found)
        if most is not None and least is not None and (least > most or most == 0):
            found.add((*path, "most"), "empty-range", f"`most` is above 0 and at least `least` ({least}), not {most}")
        return None if rule is None else KeepSpec("rule", most or Fraction(1), path, rule, least or Fraction(0))
    for key in ("most", "least"):
        if key in value:
            found.add(
                (*path, key), "conflict", f"{key!r} bounds what a rule decides; with `fit` the count is fixed", key=True
            )
    inner = value["fit"]
    if isinstance(inner, Mapping) and "rule" in inner:
        found.add((*path, "fit"), "not-a-keep", "`fit` is a keep without a rule: the count that the rule shares out")
        fixed = None
    else:
        fixed = read_keep(inner, (*path, "fit"), found)
    return None if rule is None else replace(fixed or KeepSpec("of_current", Fraction(1), path), rule=rule)
