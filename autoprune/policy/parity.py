"""`parity:` of a policy: where a method's release differs from our default. Only parity runs use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from autoprune.document.problems import Path, Problems, shown
from autoprune.policy.model import AnyStage, Positions, Rows

KEYS = ("positions", "rows", "notes")


@dataclass(frozen=True)
class Parity:
    """What a parity run does instead, in every stage; None = as the stage says.

    positions: numbers that the release gives to what it keeps (`compact` = 0, 1, …, generated tokens going on from
    there, per layer). rows: `sum` leaves merged rows as long as the merger's weights make them, `mean` scales a row's
    weights to sum 1. notes: what no setting covers; documentation.
    """

    positions: Positions | None = None
    rows: Rows | None = None
    notes: str = ""

    def __bool__(self) -> bool:
        """Whether a parity run differs from any other."""
        return self.positions is not None or self.rows is not None

    def applied(self, stages: tuple[AnyStage, ...]) -> tuple[AnyStage, ...]:
        """The stages of a parity run, but for `rows`, which no stage of a document has."""
        if self.positions is None:
            return stages
        return tuple(replace(stage, positions=self.positions) for stage in stages)

    def dump(self) -> dict[str, str]:
        """Plain data; `read_parity` gives an equal value back."""
        data = {"positions": self.positions, "rows": self.rows, "notes": self.notes}
        return {key: value for key, value in data.items() if value}


NONE = Parity()


def read_parity(value: Any, path: Path, found: Problems) -> Parity:
    """The key's value; every mistake is added to `found`."""
    from autoprune.policy.read_fields import check_keys, one_of

    if not check_keys(value, path, KEYS, (), found) or not isinstance(value, Mapping):
        return NONE
    right = True
    for key, allowed in (("positions", get_args(Positions)), ("rows", get_args(Rows))):
        if key in value:
            right = one_of(value[key], (*path, key), allowed, found) and right
    notes = value.get("notes", "")
    if not isinstance(notes, str):
        found.add((*path, "notes"), "wrong-type", f"must be text, not {shown(notes)}")
        right = False
    return Parity(value.get("positions"), value.get("rows"), notes) if right else NONE
