# ruff: noqa: E501 - tables with one case a line
from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from policy_fakes import PARTS, geometry

from autoprune.document.yaml import read
from autoprune.errors import BadInput
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible, budget, counts, lengths
from autoprune.policy.canonical import resolve
from autoprune.policy.diff import Change, diff
from autoprune.policy.document import Policy, Stage
from autoprune.policy.front import Estimate, Front, Member
from autoprune.policy.model import CurveStage
from autoprune.policy.resolved import Part
from autoprune.policy.scale import at_budget
from autoprune.policy.sites import Layer
from autoprune.pruning.lookup import RegisteredParts

SHIPPED = ("divprune", "fastervlm", "fastv", "pyramiddrop", "random", "stride")


def shipped(name: str) -> Policy:
    return Policy.from_source(read(catalog.find("policies", name)), RegisteredParts())


@pytest.mark.parametrize(
    ("name", "large", "small"),
    [  # budget on 32 layers and 576 tokens, on 8 layers and 64
        ("fastv", (2 + 30 / 2) / 32, (1 + 7 / 2) / 8),
        ("pyramiddrop", 270 / 576, 0.46875),
        ("fastervlm", 0.25, 0.25),
        ("random", 0.25, 0.25),
        ("stride", 0.25, 0.25),
        ("divprune", 56 / 576, 6 / 64),
    ],
)
def test_shipped_policies_spend_what_their_papers_say(name: str, large: float, small: float) -> None:
    for depth, tokens, expected in ((32, 576, large), (8, 64, small)):
        resolved = resolve(shipped(name), geometry(depth, tokens), RegisteredParts(), tokens)
        assert budget([lengths(resolved, tokens)], [tokens], depth) == pytest.approx(expected, abs=1e-12)


def test_published_sites() -> None:
    def layers(name: str) -> list[tuple[str, int, Any]]:
        stages = resolve(shipped(name), geometry(32, 576, 24), RegisteredParts(), 576).stages
        scores = [s.picks[0].score for s in stages]
        rows = [score.params.get("layer") if isinstance(score, Part) else None for score in scores]
        return [(s.site, s.layer, row) for s, row in zip(stages, rows, strict=True)]

    assert layers("fastv") == [("llm", 2, 1)]
    assert layers("pyramiddrop") == [("llm", 8, 8), ("llm", 16, 16), ("llm", 24, 24)]
    assert layers("fastervlm") == [("llm", 0, 22)]  # where the projector takes effect
    assert layers("divprune") == [("llm", 0, None)]


IMAGES_DECIDE = ("prumerge", "prumerge_plus", "recoverable_compression", "saint_llm", "sparsity_meets_similarity")

# Layers, counts and visual positions averaged over the layers, at the document's depth and number of tokens (32 and 576
# where it does not say), by the sheets. Where the sample decides, counts are bounds.
LITERAL = {
    "adaptinfer": ([2, 11, 21], [290, 72, 18], 146.25),
    "aim": ([0, 0, *range(15, 23)], [365, 182, 159, 137, 114, 91, 68, 46, 23, 0], (15 * 182 + 638) / 28),
    "autoprune_2025": ([*range(1, 32)], [160] + [63] * 28 + [62] * 2, 82),
    "catp": ([0, 7, 8], [1760, 864, 640], (7 * 1760 + 864 + 24 * 640) / 32),
    "cdpruner": ([0], [64], 64),
    "dart": ([2], [132], (2 * 576 + 30 * 132) / 32),
    "btp": ([3, 6, 14, 22], [288, 144, 48, 0], 129),
    "divprune": ([0], [56], 56),
    "fastervlm": ([0], [144], 144),
    "fastv": ([2], [288], 306),
    "feather": ([8, 16], [300, 66], (8 * 729 + 8 * 300 + 16 * 66) / 32),
    "fopru_rank": ([0], [144], 144),
    "fopru_row": ([0], [144], 144),
    "g_prune": ([0], [288], 288),
    "greedy_prune": ([2], [288], 306),
    "lvlm_csp": ([0, 16, 22], [64, 576, 64], 160),
    "mmtok": ([0], [64], 64),
    "hiprune": ([0], [192], 192),
    "hired": ([0], [115], 115),
    "pooling": ([0], [144], 144),
    "ptp": ([2], [288], 306),
    "prumerge": ([0], [144], 144),  # a bound: by quartiles, outliers are never more
    "prumerge_plus": ([0], [576], 576),  # a bound
    "pyramiddrop": ([8, 16, 24], [288, 144, 72], 270),
    "random": ([0], [144], 144),
    "recoverable_compression": ([0], [576], 576),  # a bound
    "saint_llm": ([*range(8, 18)], [576] * 10, 576),  # at most: the input decides
    "sparsevlm": ([3, 7, 16], [309, 204, 113], (3 * 576 + 4 * 309 + 9 * 204 + 16 * 113) / 32),
    "sparsevlm_v2": ([3, 7, 16], [300, 200, 118], (3 * 576 + 4 * 300 + 9 * 200 + 16 * 118) / 32),
    "sparsity_meets_similarity": ([0, 16], [576, 576], 576),  # bounds: the input decides
    "star": ([0, 24], [288, 144], 252),
    "stride": ([0], [144], 144),
    "todre": ([0, 28], [288, 288], 288),  # the second: all or nothing
    "transprune": ([7, 9, 12], [504, 360, 72], 236.25),
    "uniform": ([0], [144], 144),
    "vflowopt": ([0, 9, 18], [193, 189, 166], (9 * 193 + 9 * 189 + 10 * 166) / 28),
    "vispruner": ([0], [128], 128),
    "visionzip": ([0], [64], 64),
    "vscan": ([0, 16], [96, 32], 64),
    "vtc_cls": ([0], [144], 144),
    "zoo_prune": ([0], [64], 64),
}


def published(policy: Policy) -> tuple[int, int, int]:
    """Decoder layers, visual tokens and encoder blocks of the model that the paper's numbers belong to."""
    return policy.literal.get("depth", 32), policy.literal.get("tokens", 576), policy.literal.get("vision_depth", 24)


def test_every_policy_of_the_catalog_has_its_published_numbers_here() -> None:
    assert set(LITERAL) == set(catalog.names("policies"))


@pytest.mark.parametrize("name", LITERAL)
def test_published_counts_at_the_published_geometry(name: str) -> None:
    layers, kept, average = LITERAL[name]
    policy = shipped(name)
    depth, tokens, blocks = published(policy)
    resolved = resolve(policy, geometry(depth, tokens, blocks), RegisteredParts(), tokens)
    assert [stage.layer for stage in resolved.stages] == layers
    assert list(counts(resolved, tokens)) == kept
    assert budget([lengths(resolved, tokens)], [tokens], depth) * tokens == pytest.approx(average)
    assert policy.name == name
    said = policy.literal
    if name == "autoprune_2025":  # images share a sum out among layers: one count is published, and the average
        assert (said["first_counts"], said["average_tokens"]) == (kept[:1], average)
    else:
        assert (said["layers"], said[bounded(name)]) == (layers, kept)


def bounded(name: str) -> str:
    """What the document calls its counts: `most` where images decide them."""
    return "most" if name in IMAGES_DECIDE else "counts"


def written(policy: Policy) -> list[Layer | None]:
    """The decoder layers of the policy's stages, both ends of ranges."""
    ends = [s.along if isinstance(s, CurveStage) else (s.at.layer, s.until) for s in policy.stages]
    return [end for pair in ends for end in pair]


@pytest.mark.parametrize("name", LITERAL)
def test_published_layers_are_parts_of_the_depth(name: str) -> None:
    """So that every method of a comparison is at the same part of a model; `docs/comparing.md` says the rule."""
    assert all(isinstance(layer, Fraction) or not layer for layer in written(shipped(name)))


@pytest.mark.parametrize("name", LITERAL)
def test_every_paper_has_claims_or_says_that_there_are_none(name: str) -> None:
    policy = shipped(name)
    assert bool(policy.claims) == bool(policy.paper)
    if policy.paper and not set(policy.claims) - {"model", "notes"}:
        assert "no number of the paper" in policy.claims["notes"]


@pytest.mark.parametrize("name", LITERAL)
@pytest.mark.parametrize("b", [Fraction(1, 2), Fraction(1, 3), Fraction(1, 5)])
def test_every_policy_scales_to_a_budget(name: str, b: Fraction) -> None:
    policy = shipped(name)
    depth, tokens, blocks = published(policy)
    try:
        scaled = at_budget(policy, b, geometry(depth, tokens, blocks))
    except Infeasible:
        assert LITERAL[name][0][0] / depth > b - Fraction(1, 100)  # the layers before its first stage alone cost more
        return
    resolved = resolve(scaled, geometry(depth, tokens, blocks), RegisteredParts(), tokens)
    used = budget([lengths(resolved, tokens)], [tokens], depth)
    assert b - Fraction(1, 100) < used <= b + Fraction(1, 10**9)
    assert {s.layer for s in resolved.stages} <= set(LITERAL[name][0])  # a stage without an effect is left out
    assert Policy.parse(scaled.dump(), RegisteredParts()) == scaled


def test_names_and_precedence(tmp_path: Path) -> None:
    assert set(SHIPPED) <= set(catalog.names("policies"))
    (tmp_path / "fastv.yaml").write_text("mine: true\n")
    (tmp_path / "own.yml").write_text("")
    assert catalog.find("policies", "fastv", (tmp_path,)) == tmp_path / "fastv.yaml"
    assert catalog.find("policies", "own", (tmp_path / "missing", tmp_path)).name == "own.yml"
    assert catalog.find("policies", "fastv").parent.name == "policies"
    with pytest.raises(BadInput, match=r"unknown policy 'fastvv'; did you mean 'fastv'\?; known: .*fastv"):
        catalog.find("policies", "fastvv")


def test_documents_are_read_without_torch() -> None:
    code = (
        "import sys; from autoprune.policy import catalog; from autoprune.document.yaml import read\n"
        "from autoprune.policy.space import Space; from autoprune.pruning.lookup import RegisteredParts\n"
        "Space.from_source(read(catalog.find('search_spaces', 'two_stage_mixed')), RegisteredParts())\n"
        "bad = {'torch', 'transformers', 'optuna', 'numpy'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def _stages(*stages: dict[str, Any], **more: Any) -> Policy:
    made = [{"select": "stride", **s} for s in stages]
    return Policy.parse({"schema": "autoprune/policy/1", "stages": made, **more}, PARTS)


def _spent(policy: Policy, tokens: int = 576, depth: int = 32) -> float:
    resolved = resolve(policy, geometry(depth, tokens), PARTS, tokens)
    return budget([lengths(resolved, tokens)], [tokens], depth)


@pytest.mark.parametrize("b", [Fraction(3, 10), Fraction(1, 2), Fraction(9, 10)])
@pytest.mark.parametrize(
    "policy",
    [
        _stages({"at": "llm:2", "keep": 0.5}),
        _stages({"along": ["1/4", "3/4"], "curve": {"geometric": {"ratio": 0.5, "every": "1/4"}}}),
        _stages({"at": "projector", "keep": 0.6}, {"at": "llm:8", "keep": 0.2}),
        _stages({"at": "projector", "keep": {"tokens": 300}}, {"at": "llm:8", "keep": {"of_current": 0.5}}),
        _stages({"at": "projector", "keep": 0.9}, {"along": [4, 20], "curve": {"steps": [[4, 0.5], [12, 0.25]]}}),
    ],
)
def test_scaled_policies_meet_the_budget_closely(policy: Policy, b: Fraction) -> None:
    used = _spent(at_budget(policy, b, geometry(32, 576)))
    assert used <= b + Fraction(1, 1000)
    assert used == pytest.approx(float(b), abs=0.005)


@pytest.mark.parametrize("b", [Fraction(3, 10), Fraction(1, 10)])
def test_ratios_between_stages_stay(b: Fraction) -> None:
    policy = _stages({"at": "projector", "keep": 0.8}, {"at": "llm:4", "keep": 0.4}, {"at": "llm:16", "keep": 0.2})
    first, second, last = (s["keep"] for s in at_budget(policy, b, geometry(32, 576)).dump()["stages"])
    assert first == pytest.approx(2 * second)
    assert first == pytest.approx(0.8 * float(b) * 32 / (0.8 * 4 + 0.4 * 12 + 0.2 * 16), abs=0.001)
    assert last == {"to_budget": float(b)}


SHAPES = {  # counts of a policy at a budget, in proportion to its first stage's: as published
    "sparsevlm": [1, 204 / 309, 113 / 309],
    "sparsevlm_v2": [1, 200 / 300, 118 / 300],
    "adaptinfer": [1, 72 / 290, 18 / 290],
    "catp": [1, 864 / 1760, 640 / 1760],
    "vscan": [1, 1 / 3],
    "star": [1, 1 / 2],
    "btp": [1, 1 / 2, 1 / 6, 0],
    "vflowopt": [1, 0.98, 0.98 * 0.88],
    "todre": [1, 1],  # the gate stays a gate
    "pyramiddrop": [1, 1 / 2, 1 / 4],
    "feather": [1, 66 / 300],
    "transprune": [1, 360 / 504, 72 / 504],
    "aim": [1, *(kept / 365 for kept in (182, 159, 137, 114, 91, 68, 46, 23, 0))],
    "lvlm_csp": [1, 9, 1],  # what was parked is back, all of it at most
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("b", [Fraction(33, 100), Fraction(22, 100), Fraction(11, 100)])
def test_published_ratios_stay_at_the_budgets_of_a_comparison(name: str, b: Fraction) -> None:
    policy = shipped(name)
    depth, tokens, blocks = published(policy)
    bound = geometry(depth, tokens, blocks)
    first = LITERAL[name][0][0]
    if b <= Fraction(first, depth) + Fraction(1, 100):  # the layers before its first stage alone cost more
        with pytest.raises(Infeasible):
            at_budget(policy, b, bound)
        return
    resolved = resolve(at_budget(policy, b, bound), bound, RegisteredParts(), tokens)
    kept = counts(resolved, tokens)
    for count, share in zip(kept, SHAPES[name], strict=True):
        assert count == pytest.approx(
            min(tokens, share * kept[0]), abs=2 + share / 2
        )  # rounding, of the first times the share
    used = Fraction(budget([lengths(resolved, tokens)], [tokens], depth)).limit_denominator(depth * tokens)
    assert 0 <= b - used < Fraction(1, tokens)  # less than one token of every layer


def test_a_pyramid_goes_on_halving_until_that_cannot_spend_the_budget() -> None:
    def kept(b: str) -> list[int]:
        scaled = at_budget(shipped("pyramiddrop"), Fraction(b), geometry(32, 576))
        return list(counts(resolve(scaled, geometry(32, 576), RegisteredParts(), 576), 576))

    assert kept("0.4") == [197, 99, 49]
    assert kept("11/16") == [288, 144]  # the first cut keeps all
    steep = kept("0.8")  # more than halving can spend: the ratio follows
    assert steep[1] / steep[0] == pytest.approx(steep[2] / steep[1], abs=0.01)
    assert steep[0] / 576 == pytest.approx(steep[1] / steep[0], abs=0.01)


def test_a_gate_goes_on_deciding_at_another_budget() -> None:
    gate = at_budget(shipped("todre"), Fraction(22, 100), geometry(32, 576, 24)).stages[-1]
    assert isinstance(gate, Stage)
    assert gate.keep.kind == "rule"


def test_what_cannot_be_scaled_says_so() -> None:
    two = _stages({"at": "llm:4", "keep": 0.5}, {"at": "llm:16", "keep": 0.2})
    with pytest.raises(Infeasible):
        at_budget(two, Fraction(1, 10), geometry(32))
    one = _stages({"at": "llm:4", "keep": 0.5})
    curve = _stages({"along": [8, 24], "curve": {"geometric": {"ratio": 0.5, "every": 8}}})
    for policy in (one, curve):
        for tokens in (None, 576):
            with pytest.raises(Infeasible):
                at_budget(policy, Fraction(1, 10), geometry(32, tokens))
        assert at_budget(policy, Fraction(1, 10)) != policy
    with pytest.raises(BadInput, match="needs the model's depth"):
        at_budget(two, Fraction(1, 2))
    counted = _stages({"at": "llm:4", "keep": {"tokens": 40}}, {"at": "llm:16", "keep": {"tokens": 10}})
    with pytest.raises(BadInput, match="same number of visual tokens"):
        at_budget(counted, Fraction(1, 2), geometry(32, None))
    assert at_budget(_stages(), Fraction(1, 2)) == _stages()


def test_diff() -> None:
    a = _stages({"at": "llm:2", "keep": 0.5}, name="a")
    b = _stages({"at": "llm:2", "keep": "1/4", "merge": "nearest"}, {"at": "llm:4", "keep": 0.1}, name="a")
    assert diff(a, a) == []
    assert diff(a, b) == [
        Change("stages[0].keep", 0.5, 0.25),
        Change("stages[0].merge", None, "nearest"),
        Change("stages[1]", None, {"at": "llm:4", "keep": 0.1, "select": "stride"}),
    ]


def test_the_front_has_the_shape_that_is_printed() -> None:
    estimate = Estimate(0.9, 0.8, 0.95)
    member = Member(
        "fastv-1", {"schema": "autoprune/policy/1", "stages": []}, "ab", 0.5, {"exact_match": 0.9}, {"exact_match": estimate},
        {"exact_match >= 0.95 * baseline": "certified"}, {"exact_match >= 0.95 * baseline": 0.96}, True,
    )  # fmt: skip
    front = Front(
        "s",
        {"exact_match": estimate},
        (member,),
        {"complete": 3, "failed": 0, "running": 0},
        ("why",),
        hypervolume=(0.1, 0.2),
    )
    data = json.loads(json.dumps(front.to_json()))
    assert data["baseline"] == {"holdout": {"exact_match": {"value": 0.9, "low": 0.8, "high": 0.95}}}
    assert {"policy", "budget", "search", "holdout", "constraints", "selected", "published"} <= set(data["members"][0])
    assert data["members"][0]["policy"] == "fastv-1"
    assert data["trials"] == {"complete": 3, "failed": 0, "running": 0}
    assert Front.from_json(data) == front
    assert front.selected == member
    with pytest.raises(BadInput, match="not a front document"):
        Front.from_json({"study": "s"})
