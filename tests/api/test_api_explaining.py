"""Which policies are measured to explain one: its document without each of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune import check
from autoprune.api.explaining import _member, _without
from autoprune.api.proposals import PARTS
from autoprune.api.study import Prepared
from autoprune.policy import canonical
from autoprune.policy.budget import counts
from autoprune.policy.document import Policy
from autoprune.policy.front import Front, Member

ROOT = Path(__file__).resolve().parents[2]
NORM = {"feature_norm": {"space": "projected"}}
LAST = {"llm_attention": {"from": "last"}}


@pytest.fixture(scope="module")
def study() -> Prepared:
    return Prepared(check.check(ROOT / "tests" / "data" / "full_spec.yaml"))


def member(*stages: dict[str, Any], **more: Any) -> Member:
    document = {"schema": "autoprune/policy/1", "name": "p", "stages": list(stages)}
    return Member("p", document, "digest", 0.3, **more)


def kept(text: str) -> dict[int, int]:
    resolved = canonical.from_json(text)
    return {s.layer: k for s, k in zip(resolved.stages, counts(resolved, 144), strict=True)}


def test_each_stage_is_left_out_and_the_others_keep_their_counts(study: Prepared) -> None:
    whole = member(
        {"at": "projector", "keep": "1/2", "score": NORM},
        {"at": "llm:2", "keep": {"of_current": "1/2"}, "score": LAST},
        {"at": "llm:1/2", "keep": {"to_budget": "0.3"}, "score": LAST},
    )
    resolved = canonical.resolve(Policy.parse(whole.policy or {}, PARTS), study.geometry, PARTS, study.tokens)
    full = kept(canonical.to_json(resolved))
    found = list(_without(study, whole))
    assert [(w.stage, w.at) for w in found] == [(1, "projector"), (2, "llm:2"), (3, "llm:1/2")]
    layers = sorted(full)
    for without, layer in zip(found, layers, strict=True):
        assert without.canonical is not None
        assert kept(without.canonical) == {k: v for k, v in full.items() if k != layer}
        assert without.saves > 0


def test_what_makes_no_other_policy_has_its_reason(study: Prepared) -> None:
    (alone,) = _without(study, member({"at": "llm:2", "keep": "1/2", "score": LAST}))
    assert (alone.canonical, alone.reason) == (None, ""), "without its one stage it is the unpruned model"
    half = {"at": "projector", "keep": "1/2", "score": NORM}
    met = {"at": "llm:2", "keep": {"to_budget": "0.6"}, "score": LAST}  # met already: it does nothing
    first, second = _without(study, member(half, met))
    assert (first.canonical, first.reason) == (None, ""), "what did nothing does not begin to"
    assert second.reason == "it has no effect in this policy"
    parked = {"at": "projector", "keep": "1/2", "score": NORM, "merge": "park"}
    later = {"at": "llm:2", "keep": "3/4", "restore": "parked", "score": LAST}
    (first, second) = _without(study, member(parked, later))
    assert first.reason.startswith("without it there is no valid policy (")
    assert second.reason == ""


def test_the_explained_member_is_the_selected_else_a_certified_one() -> None:
    sure, unsure = member(constraints={"c": "certified"}), member(constraints={"c": "undecided"})
    chosen = member(constraints={"c": "certified"}, selected=True)

    def explained(*members: Member) -> Member | None:
        return _member(Front("s", {}, members, {}))

    assert explained(unsure, sure, chosen) is chosen
    assert explained(unsure, sure) is sure
    assert explained(unsure) is unsure
    assert explained() is None
