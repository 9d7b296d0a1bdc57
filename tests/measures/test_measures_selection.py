"""What deciding costs: by hand, and against the operations of a run."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoprune.calibration.batches import collate
from autoprune.errors import BadInput
from autoprune.measures.costs import costs
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.resolved import Keep, Mix, Part, ResolvedPick, ResolvedPolicy, ResolvedStage, Score
from autoprune.pruning import parts
from autoprune.pruning.session import Session
from autoprune.pruning.signals import Site

# width d 10, queries h·e = 4·3 = 12, keys g·e = 2·3 = 6; tower T = 16 + 1 tokens of width w 8; features f 8 wide
VISION = VisionGeometry(depth=3, width=8, heads=2, mlp=16, image_size=16, patch_size=4, has_cls=True)
GEOMETRY = Geometry("llava", 4, 10, 4, 2, 3, 20, 50, VISION, 16, projector_width=8)
N, TEXT = 16, 5
HALF = Keep("fraction", Fraction(1, 2))
NORM = Part("feature_norm", {"space": "hidden"})  # 2·16·10 = 320 at V = 16
TOP, DROP = Part("top"), Part("drop")


def stage(
    layer: int,
    score: Score | None = None,
    select: Part = TOP,
    merge: Part = DROP,
    keep: Keep = HALF,
    site: Literal["projector", "llm"] = "llm",
) -> ResolvedStage:
    return ResolvedStage(site, layer, keep, (ResolvedPick(score, select),), merge)


def flops(*stages: ResolvedStage, pictures: int = 1) -> int:
    (cost,) = costs(ResolvedPolicy(stages, 4), GEOMETRY, [N], [TEXT], 4, [pictures])
    return cost.selection_flops


def attention(layer: str | int, source: str = "last") -> Part:
    return Part("llm_attention", {"layer": layer, "from": source})


PROBE = 2 * 21 * 10 * (12 + 2 * 6)  # q, k, v of all 16 + 5 rows


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Part("random"), 0),
        (NORM, 2 * 16 * 10),
        (Part("feature_norm", {"space": "encoder"}), 2 * 16 * 8),
        (Part("feature_norm", {"space": "keys"}), 2 * 21 * 6),
        (Part("encoder_attention"), 2 * 17 * 8),
        (attention("prev"), 2 * 21 * 12),
        (attention(0), 2 * 21 * 12),
        (attention("prev", "text"), 5 * 2 * 21 * 12),
        (attention("own"), PROBE + 2 * 21 * 12),
        (attention(2), PROBE + 2 * 21 * 12),  # the stage's own layer by its number
        (Mix(((Fraction(1, 2), NORM), (Fraction(1, 2), attention("prev")))), 320 + 2 * 21 * 12),
        (attention("prev", "vision"), 16 * 2 * 21 * 12),
        (attention("prev", "query"), 2 * 21 * 12),
        (Part("llm_attention", {"from": "query", "hops": 2}), 6 * 2 * 21 * 12 + 2 * 5 * 21 * 4),
        (attention("prev", "norm"), 16 * 2 * 21 * 12 + 2 * 16 * 10),
        (attention("prev", "raters"), 5 * 2 * 21 * 12 + 2 * 16 * 5 * 10),
        (Part("llm_attention", {"from": "all", "hops": 3}), 21 * 2 * 21 * 12 + 2 * 2 * 21 * 21 * 4),
        (Part("llm_attention", {"layer": None, "layers": [0, 1]}), 2 * 2 * 21 * 12),
        (Part("llm_attention", {"layer": None, "layers": ["prev", "own"]}), PROBE + 2 * 2 * 21 * 12),
        (Part("token_transition", {"layers": [0, 1]}), 2 * 12 * 21 * 10),
        (Part("similarity"), 2 * 16 * 10),
        (Part("similarity", {"from": "vision", "hops": 2}), 2 * 4 * 16 * 10),
        (Part("similarity", {"clip": 0, "by_degree": True}), 2 * 16 * 10 + 2 * 16 * 16 * 10),
        (
            Part("similarity", {"kernel": "softmax", "from": "norm", "hops": 5}),
            2 * 16 * 10 * (1 + 16) + 5 * 2 * 16 * 16,
        ),
    ],
    ids=str,
)
def test_criteria_by_hand(score: Score, expected: int) -> None:
    assert flops(stage(2, score)) == expected


def test_keys_of_the_first_layer_have_to_be_made_first() -> None:
    assert flops(stage(0, Part("feature_norm", {"space": "keys"}))) == PROBE + 2 * 21 * 6


def test_every_picture_has_its_class_token() -> None:
    assert flops(stage(0, Part("encoder_attention"), site="projector"), pictures=3) == 3 * 2 * 17 * 8


@pytest.mark.parametrize(
    ("score", "select", "merge", "expected"),
    [
        (NORM, TOP, DROP, 320),
        (None, Part("stride"), DROP, 0),
        (NORM, Part("far"), DROP, 320 + 2 * (16 + 8) * 16 * 10),
        (None, Part("far"), DROP, 2 * (16 + 16 + 8) * 16 * 10),
        (NORM, TOP, Part("nearest"), 320 + 2 * 8 * 16 * (10 + 10)),
        (NORM, TOP, Part("nearest", {"space": "encoder"}), 320 + 2 * 8 * 16 * (8 + 10)),
        (NORM, TOP, Part("residual"), 320 + 2 * 8 * 16 * 10),
        (NORM, TOP, Part("cell"), 320 + 2 * 8 * 16 * 10),
        (NORM, TOP, Part("knn"), 320 + 2 * 8 * 16 * (8 + 10)),
        (NORM, TOP, Part("soft"), 320 + 2 * 8 * 16 * (10 + 10)),
        (NORM, TOP, Part("cluster", {"share": "1/2"}), 320 + 2 * 8 * 8 * 10 + 2 * 8 * 16 * 10),
    ],
    ids=[
        "top",
        "stride",
        "far",
        "far-unscored",
        "nearest",
        "nearest-encoder",
        "residual",
        "cell",
        "knn",
        "soft",
        "cluster",
    ],
)
def test_selectors_and_mergers_by_hand(score: Score | None, select: Part, merge: Part, expected: int) -> None:
    assert flops(stage(2, score, select, merge)) == expected


def test_merging_before_the_projector_runs_it_again() -> None:
    """W x of 8 rows over 16, 8 wide and not 10; then 8 rows through 8 x 10 and 10 x 10."""
    merging = replace(stage(0, None, Part("stride"), Part("residual")), merge_on="encoder")
    assert flops(merging) == 2 * 8 * 16 * 8 + 2 * 8 * (8 * 10 + 10 * 10)


def test_picks_share_the_count_and_add_up() -> None:
    picks = (ResolvedPick(NORM, TOP, Fraction(3, 4)), ResolvedPick(None, Part("far")))
    done = replace(stage(2), picks=picks)
    assert flops(done) == 320 + 2 * (16 + 16 + 2) * 16 * 10  # 8 kept: 6 by the first, 2 by the second


def test_later_stages_see_what_is_left() -> None:
    first, second = stage(1, NORM), stage(3, attention("prev"), keep=Keep("tokens", Fraction(2)))
    assert flops(first, second) == 320 + 2 * (8 + 5) * 12
    early = stage(3, attention(0), keep=Keep("tokens", Fraction(2)))
    assert flops(first, early) == 320 + 2 * (16 + 5) * 12  # captured before the first stage
    again = stage(1, attention("own"), keep=Keep("tokens", Fraction(2)))
    assert flops(first, again) == 320 + 2 * 13 * 10 * 24 + 2 * 13 * 12


def test_a_stage_that_keeps_all_costs_nothing() -> None:
    assert flops() == 0
    assert flops(stage(2, attention("own"), Part("far"), Part("nearest"), Keep("tokens", Fraction(16)))) == 0
    twice = (stage(1, NORM), stage(2, NORM, keep=Keep("tokens", Fraction(8))))
    assert flops(*twice) == 320


def test_an_unknown_part_is_said() -> None:
    with pytest.raises(BadInput, match=r"criterion 'x' does not exist; known: .*encoder_attention"):
        flops(stage(2, Part("x")))


REQUIRED = {
    "entropy": {"target": 0.2, "rounds": 1},
    "logistic": {"slope": 8, "along": (2, 3)},
    "threshold": {"above": 1},
}


def test_every_part_declares_a_formula() -> None:
    for kind in parts.PACKAGES:
        for name in parts.names(kind):
            info = parts.find(kind, name)
            assert info is not None
            for kept in (0, 8, 16):
                sizes = parts.Sizes(GEOMETRY, Site("llm", 2, 4, 3, True), 16, kept, (16, 16, 8, 8), TEXT, 1)
                found = info.flops(info.config.model_validate(REQUIRED.get(name, {})), sizes)
                assert type(found) is int
                assert found >= 0, name
            assert info.flops.__doc__, name
    with pytest.raises(TypeError, match="flops"):
        parts.part("selector", "new")  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------------- against a run
RUNS: dict[str, tuple[ResolvedStage, ...]] = {
    "own": (stage(2, attention("own")),),
    "prev": (stage(2, attention("prev")), stage(3, attention("prev"), keep=Keep("tokens", Fraction(3)))),
    "walk": (stage(2, Part("llm_attention", {"from": "all", "hops": 3, "symmetrise": True})),),
    "mean query": (stage(2, attention("prev", "query")),),
    "mean query, own": (stage(2, Part("llm_attention", {"layer": "own", "from": "query"})),),
    "alike": (stage(2, Part("similarity", {"from": "vision", "clip": 0.1, "hops": 2, "by_degree": True})),),
    "plain": (stage(2, Part("similarity", {"from": "last", "hops": 2})),),
    "cls": (stage(0, Part("encoder_attention"), site="projector"),),
    "far": (stage(2, None, Part("far")),),
    "far-scored": (stage(1, attention("prev"), Part("far", {"space": "hidden"})),),
    "nearest": (stage(2, attention("prev"), merge=Part("nearest", {"space": "encoder"})),),
    "residual": (stage(2, attention("prev"), merge=Part("residual")),),
    "cell": (stage(2, attention("prev"), merge=Part("cell")),),
    "knn": (stage(2, attention("prev"), merge=Part("knn", {"residual": True})),),
    "before-the-projector": (replace(stage(0, None, Part("stride"), Part("nearest")), merge_on="encoder"),),
    "soft": (stage(0, Part("random"), merge=Part("soft"), site="projector"),),
    "cluster": (
        stage(2, attention("prev"), merge=Part("cluster")),
        stage(3, None, Part("stride"), Part("cluster"), Keep("tokens", Fraction(3))),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_selection_is_what_a_run_executes_beyond_the_prefill(tiny: Any, name: str) -> None:
    """Exactly: what the counter sees beside `prefill_flops`, less the same of the unpruned model (position tables)."""
    evaluator = tiny.build("selection_flops", attn_implementation="eager")
    loaded, data = evaluator.loaded, evaluator._data["search"]
    beyond = []
    for policy in (ResolvedPolicy((), 4), ResolvedPolicy(RUNS[name], 4)):
        found = []
        for row, cost in zip(data.rows(3), evaluator.sample_costs(policy, data, 3), strict=True):
            batch = collate([row], [()], [0], loaded.pad)
            with torch.inference_mode(), Session(loaded.model, policy), FlopCounterMode(display=False) as counter:
                loaded.model(**batch.inputs, use_cache=False, logits_to_keep=1)
            found.append((counter.get_total_flops() - cost.prefill_flops, cost.selection_flops))
        beyond.append(found)
    for (before, none), (after, selection) in zip(*beyond, strict=True):
        assert none == 0
        assert selection > 0
        assert after - before == selection
