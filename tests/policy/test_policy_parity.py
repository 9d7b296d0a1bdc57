"""`parity:` changes parity runs alone, and says so in the canonical form."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from policy_fakes import PARTS, geometry

from autoprune.document.yaml import parse
from autoprune.policy.canonical import digest, from_json, resolve, to_json
from autoprune.policy.diff import diff
from autoprune.policy.document import Policy
from autoprune.policy.parity import Parity
from autoprune.policy.scale import at_budget

STAGES: list[dict[str, Any]] = [
    {"at": "projector", "keep": 0.5, "select": "stride", "merge": "nearest"},
    {"along": [2, 6], "curve": {"linear": {"from": 0.4, "to": 0.1}}, "select": "stride", "positions": "compact"},
]


def policy(**more: Any) -> Policy:
    return Policy.parse({"schema": "autoprune/policy/1", "name": "p", "stages": STAGES, **more}, PARTS)


@pytest.mark.parametrize("parity", [{"positions": "keep"}, {"rows": "sum", "notes": "order: as found"}, {}])
def test_documents_round_trip(parity: dict[str, str]) -> None:
    made = policy(parity=parity)
    assert Policy.parse(made.dump(), PARTS) == made
    assert Policy.from_source(parse(made.to_yaml()), PARTS) == made
    assert made.dump().get("parity", {}) == parity
    assert bool(made.parity) == (set(parity) - {"notes"} != set())
    assert at_budget(made, Fraction(1, 4), geometry()).parity == made.parity


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_positions_hold_in_every_stage_of_a_parity_run(positions: str) -> None:
    made = policy(parity={"positions": positions})
    run = resolve(made, geometry(), PARTS, 64, parity=True)
    assert {stage.positions for stage in run.stages} == {positions}
    assert len(run.stages) > 3
    plain = resolve(made, geometry(), PARTS, 64)
    assert digest(plain) == digest(resolve(policy(), geometry(), PARTS, 64))
    assert digest(run) != digest(plain)
    assert [s.keep for s in run.stages] == [s.keep for s in plain.stages]
    written = [{**stage, "positions": positions} for stage in STAGES]
    assert run == resolve(policy(stages=written), geometry(), PARTS, 64)


def test_sums_are_only_made_where_something_is_merged() -> None:
    made = policy(parity={"rows": "sum"})
    run = resolve(made, geometry(), PARTS, 64, parity=True)
    assert [stage.rows for stage in run.stages] == ["sum"] + ["mean"] * (len(run.stages) - 1)
    assert from_json(to_json(run)) == run
    assert "rows" not in to_json(resolve(made, geometry(), PARTS, 64))


def test_without_the_key_a_parity_run_is_like_any_other() -> None:
    assert policy().parity == Parity()
    assert resolve(policy(), geometry(), PARTS, parity=True) == resolve(policy(), geometry(), PARTS)


def test_a_difference_in_parity_is_shown() -> None:
    (change,) = diff(policy(), policy(parity={"positions": "compact"}))
    assert (change.path, change.after) == ("parity", {"positions": "compact"})
