"""Walks over the tower's attention: against loops in plain Python over the model's own queries and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import attention as oracle
from pruning_support import LAYERS, Sample, inputs, model, policy, stage
from torch.utils.flop_counter import FlopCounterMode
from vision_support import (
    SAMPLES,
    agree,
    attention,
    end,
    expected_walks,
    maps,
    per_sample,
    pictures,
    projections,
    scores,
    siglip,
)

from autoprune.errors import BadInput
from autoprune.models.family import geometry_of
from autoprune.policy.geometry import Geometry
from autoprune.pruning import parts, walk
from autoprune.pruning.encoder_signals import EncoderWalk
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session
from autoprune.pruning.signals import Site


def test_the_loops_maps_are_what_the_eager_model_reports() -> None:
    """The reference itself, held against `output_attentions`."""
    made = model("llava", "eager")
    seen = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        reported = made.model.vision_tower(seen, output_attentions=True, return_dict=True).attentions[1]
    query, key = projections(made, seen, 1)
    for picture in range(2):
        own = torch.tensor(maps(query[picture], key[picture], 1.0, False))
        assert float((own - reported[picture]).abs().max()) < 1e-6
        assert float((own - own.mean(1, keepdim=True)).abs().max()) > 1e-2  # rows differ, so that a mix-up shows


VARIED = [0.6, 1.55]  # of some pictures one head, of others both or none
WALKS: dict[str, dict[str, Any]] = {
    "all": {"from": "all"},
    "patches": {"from": "patches"},
    "query": {"from": "query"},
    "sum": {"heads": "sum"},
    "max": {"heads": "max", "from": "all"},
    "rms": {"heads": "rms", "from": "all"},
    "top_half": {"heads": "top_half"},
    "joined": {"heads": "joined"},
    "joined-all": {"heads": "joined", "from": "all", "hops": 2},
    "norm": {"from": "norm"},
    "norm-gated": {"from": "norm", "hops": 2, "gate": 1.1, "heads": "max"},
    "varied": {"from": "all", "heads": "rms", "hops": 2, "head_variance": VARIED},
    "varied-none": {"from": "all", "heads": "rms", "head_variance": [50, 60]},
    "temperature": {"temperature": 0.1},
    "two-hops": {"from": "cls", "hops": 2},
    "page-rank": {"from": "all", "hops": 5, "heads": "rms", "temperature": 0.5},
    "query-hops": {"from": "query", "hops": 3, "heads": "max"},
    "gated": {"from": "patches", "hops": 2, "gate": 1.25},
    "gated-high": {"from": "all", "hops": 2, "gate": 40.0},
    "gated-hops": {"from": "cls", "hops": 3, "gate": 0.9, "heads": "rms"},
}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_is_the_loop_over_the_models_own_attention(name: str) -> None:
    made, samples = model(), SAMPLES["llava"]
    batch = inputs(made, samples)
    expected = per_sample(batch, samples, expected_walks(made, pictures(made, batch), 1, **WALKS[name]))
    assert agree(scores(made, batch, attention(layer=1, **WALKS[name])), expected)


@pytest.mark.parametrize("name", ["all", "gated", "joined", "norm", "page-rank"])
def test_walks_line_up_with_tiles_and_newlines(name: str) -> None:
    made, samples = model("llava_next"), SAMPLES["llava_next"]
    batch = inputs(made, samples)
    expected = per_sample(batch, samples, expected_walks(made, pictures(made, batch), 2, **WALKS[name]))
    assert agree(scores(made, batch, attention(layer=-1, **WALKS[name])), expected)


@pytest.mark.parametrize("over", [None, "sum", "mean", "ema", "difference"])
def test_several_blocks_are_put_together(over: str | None) -> None:
    made, samples = model(), SAMPLES["llava"]
    batch = inputs(made, samples)
    rows = [expected_walks(made, pictures(made, batch), b, **WALKS["all"]) for b in range(3)]
    ways: dict[Any, Any] = {
        None: lambda a, b, c: a + b + c,
        "sum": lambda a, b, c: a + b + c,
        "mean": lambda a, b, c: (a + b + c) / 3,
        "ema": lambda a, b, c: a / 4 + b / 4 + c / 2,
        "difference": lambda a, b, c: c - a,
    }
    together = [[ways[over](*v) for v in zip(*picture, strict=True)] for picture in zip(*rows, strict=True)]
    more = {} if over is None else {"over": over}
    found = scores(made, batch, attention(layers=[0, -1], **more, **WALKS["all"]))
    assert agree(found, per_sample(batch, samples, together))


# What each method's sheet says, by the oracles' reading of it: parameters, and the formula over [heads, queries, keys].
METHODS: dict[str, tuple[dict[str, Any], Callable[[Any], list[float]]]] = {
    "FasterVLM": ({}, oracle.fastervlm),
    "HiRED": ({"heads": "sum"}, oracle.hired),
    "HiPrune": ({"from": "all"}, lambda a: oracle.hiprune(a, True)),
    "FoPru": ({"from": "all"}, lambda a: oracle.fopru(a, True)),
    "VFlowOpt": ({"from": "patches", "hops": 2, "gate": 1.2}, lambda a: oracle.vflowopt(a, True, 1.2)),
    "VFlowOpt-high": ({"from": "patches", "hops": 2, "gate": 30}, lambda a: oracle.vflowopt(a, True, 30)),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_points_of_the_walk(name: str) -> None:
    params, formula = METHODS[name]
    made, eager = model(), model("llava", "eager")
    batch = inputs(made, [Sample(9)])
    with torch.no_grad():
        seen = eager.model.vision_tower(batch["pixel_values"], output_attentions=True, return_dict=True).attentions
    assert agree(scores(made, batch, attention(layer=1, **params)), [formula(seen[1][0].double().numpy())])


def test_vtc_cls_and_prumerge_are_points_of_the_walk() -> None:
    made, eager = model(), model("llava", "eager")
    batch = inputs(made, [Sample(9)])
    with torch.no_grad():
        seen = eager.model.vision_tower(batch["pixel_values"], output_attentions=True, return_dict=True).attentions
    expected = oracle.vtc_cls([a[0].double().numpy() for a in seen[1:]])
    assert agree(scores(made, batch, attention(layers=[1, 2])), [expected])
    query, key = (x[0].flatten(1).double().numpy() for x in projections(made, batch["pixel_values"], 2))
    assert agree(scores(made, batch, attention(layer=2, heads="joined")), [oracle.prumerge(query, key)])


def test_hops_without_a_gate_walk_in_every_head_alone() -> None:
    """The mean of the heads' two hops is not two hops in the mean of the heads."""
    made = model()
    batch = inputs(made, [Sample(9)])
    query, key = projections(made, pictures(made, batch), 1)
    full = maps(query[0], key[0], 1.0, False)
    mean = [[[sum(a[i][j] for a in full) / len(full) for j in range(37)] for i in range(37)]]
    alone, together = (end(f, [], "all", 2, None, "mean", 1) for f in (full, mean))
    found = scores(made, batch, attention(layer=1, hops=2, **{"from": "all"}))
    assert agree(found, [alone])
    assert not agree(found, [together], 1e-5)


def test_whole_maps_are_held_for_a_few_pictures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = model(), inputs(model(), SAMPLES["llava"])
    criterion = attention(layer=1, hops=2, **{"from": "all"})
    whole = scores(made, batch, criterion)
    sizes: list[int] = []
    original = walk._hops

    def counted(query: Any, *rest: Any) -> Any:
        sizes.append(len(query))
        return original(query, *rest)

    monkeypatch.setattr(walk, "MAP", 2 * 2 * 37**2)
    monkeypatch.setattr(walk, "_hops", counted)
    assert torch.allclose(scores(made, batch, criterion), whole, atol=1e-7)
    assert sizes == [2, 1]


def test_the_best_patch_goes_on_where_none_passes_the_gate_and_the_class_token_never_does() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 2, 5, 4, generator=generator)
    key[:, :, 0] += 9 * query.mean(2)  # everybody looks at the class token
    asked = EncoderWalk((0,), "sum", "all", 2, 1e9, "mean", 1.0, True)
    maps_ = torch.softmax(query @ key.transpose(2, 3), -1)
    best = maps_.mean((1, 2))[:, 1:].argmax(1) + 1
    expected = torch.stack([maps_[b, :, best[b]].mean(0) for b in range(3)])
    assert torch.allclose(walk.walk(query, key, 1.0, asked), expected, atol=1e-6)


# -------------------------------------------------------------------------------------------- what documents may say
@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"layer": 1, "layers": [0, 1]}, "give `layer` or `layers`, not both"),
        ({"layer": 1, "over": "mean"}, "it needs `layers: [first, last]`"),
        ({"layers": [1]}, "layers is the first and the last of a range"),
        ({"layers": 3}, "layers is the first and the last of a range"),
        ({"layers": [0, "own"]}, "a layer is an integer or a fraction"),
        ({"gate": 30}, "it needs `hops` of at least 2"),
        ({"gate": -1, "hops": 2}, "greater than or equal to 0"),
        ({"hops": 0}, "greater than or equal to 1"),
        ({"hops": 2.5}, "valid integer"),
        ({"temperature": 0}, "greater than 0"),
        ({"temperature": "warm"}, "must be a number"),
        ({"from": "text"}, "'cls', 'all', 'patches', 'norm' or 'query'"),
        ({"heads": "median"}, "'joined' or 'each'"),
    ],
)
def test_wrong_parameters_are_said(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="1 validation error") as caught:
        RegisteredParts().fill("criterion", "encoder_attention", params)
    assert says in str(caught.value)


def test_parameters_have_one_spelling() -> None:
    fill = RegisteredParts().fill
    plain = fill("criterion", "encoder_attention", {})
    assert plain["layer"] == -2
    assert plain == fill("criterion", "encoder_attention", {"layer": None, "from": "cls", "temperature": 1})
    assert plain == fill("criterion", "encoder_attention", plain)
    several = fill("criterion", "encoder_attention", {"layers": ["1/4", -1], "temperature": "1/10"})
    assert (several["layer"], several["layers"], several["over"]) == (None, ["1/4", -1], "sum")
    assert several["temperature"] == 0.1
    assert several == fill("criterion", "encoder_attention", several)


SITE = Site("projector", 0, LAYERS, 3, True)


def asked(site: Site = SITE, **params: Any) -> Any:
    info = parts.find("criterion", "encoder_attention")
    assert info is not None
    (signal,) = info.config.model_validate(params).signals(site)  # type: ignore[attr-defined]
    return signal


def test_blocks_are_counted_in_the_tower() -> None:
    assert asked().blocks == (1,)
    assert asked(layers=[0, -1]).blocks == (0, 1, 2)
    assert asked(layers=["1/3", 2]).blocks == (1, 2)
    assert asked(layers=[0, 2], over="difference").blocks == (0, 2)
    with pytest.raises(BadInput, match="does not come before"):
        asked(layers=[2, "1/3"])
    for wrong in ([2, 1], [1, 1]):
        with pytest.raises(ValueError, match=f"goes from shallow to deep, not from {wrong[0]} to 1"):
            asked(layers=wrong)
    with pytest.raises(BadInput, match="outside the encoder's 3 blocks"):
        asked(layers=[0, 3])


def flops(geometry: Geometry, params: dict[str, Any], pictures: int = 1) -> int:
    info = parts.find("criterion", "encoder_attention")
    assert info is not None
    sizes = parts.Sizes(geometry, SITE, 36, 18, (18,) * LAYERS, 9, pictures)
    return info.flops(info.config.model_validate(params), sizes)


def test_what_deciding_costs() -> None:
    """37 tokens of width 32 in 2 heads."""
    geometry = geometry_of(model().config.to_dict())
    row, whole, hop = 2 * 37 * 32, 2 * 37**2 * 32, 2 * 37**2 * 2
    assert flops(geometry, {}) == row
    assert flops(geometry, {"layers": [0, 2]}, pictures=3) == 9 * row
    assert flops(geometry, {"layers": [0, 2], "over": "difference"}) == 2 * row
    assert flops(geometry, {"from": "query"}) == row
    assert flops(geometry, {"from": "all"}) == whole
    assert flops(geometry, {"hops": 3, "gate": 1}) == whole + 2 * hop
    assert flops(geometry, {"hops": 2, "from": "query"}) == whole + hop + row
    assert flops(geometry, {"hops": 2, "heads": "joined"}) == whole + hop // 2


@pytest.mark.parametrize("name", ["joined", "query", "two-hops", "page-rank", "query-hops", "gated-hops", "joined-all"])
def test_walks_execute_what_they_declare(name: str) -> None:
    """Two pictures, counted as the cost model counts."""
    query, key = torch.randn(2, 2, 2, 37, 16)
    with FlopCounterMode(display=False) as counter:
        walk.walk(query, key, 0.25, asked(**WALKS[name]), torch.rand(2, 37))
    declared = flops(geometry_of(model().config.to_dict()), WALKS[name], pictures=2)
    if WALKS[name].get("from") == "norm":
        declared -= 2 * 2 * 37 * 32  # the lengths are taken where the block begins
    assert counter.get_total_flops() == declared


def test_heads_that_vary_too_little_or_too_much_do_not_count() -> None:
    """Two heads: one alone is an even row, whose variance is 0; the other is on one patch of four, 3."""
    made = asked(SITE, heads="rms", head_variance=[0.01, 0.7], **{"from": "all"})
    even, peaked, between = [0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1]  # variance of the last: 0.2
    for rows, expected in (([even, between], between), ([peaked, between, even], between), ([even, even], even)):
        ends = torch.tensor([[[0.3, *row] for row in rows]])
        assert walk._meet(ends, made)[0, 1:].tolist() == pytest.approx(expected)


def test_head_variance_is_two_bounds_for_rms() -> None:
    for params, message in (
        ({"head_variance": [0.01, 0.7]}, "chooses among heads that meet by `heads: rms`"),
        ({"heads": "rms", "head_variance": [0.7, 0.01]}, "a lower and a higher bound"),
    ):
        with pytest.raises(ValueError, match=message):
            RegisteredParts().fill("criterion", "encoder_attention", params)


# ------------------------------------------------------------------------------------------ a tower without class token


@pytest.mark.parametrize("name", ["all", "query", "gated", "gated-high", "norm", "page-rank", "varied"])
def test_towers_without_a_class_token_walk_too(name: str) -> None:
    samples = SAMPLES["llava"]
    batch = inputs(siglip(), samples)
    expected = per_sample(batch, samples, expected_walks(siglip(), pictures(siglip(), batch), 0, cls=0, **WALKS[name]))
    assert agree(scores(siglip(), batch, attention(layer=0, **WALKS[name])), expected)


def test_what_needs_a_class_token_is_refused_without_one() -> None:
    with pytest.raises(BadInput, match="no class token") as caught:
        Session(siglip(), policy(stage(0, "1/2", attention())))
    for word in ("`without_cls: all`", "`without_cls: query`"):
        assert word in str(caught.value)
    with pytest.raises(BadInput, match="top_half"):
        Session(siglip(), policy(stage(0, "1/2", attention(heads="top_half", **{"from": "all"}))))
    bare = Site("projector", 0, LAYERS, 3, False)
    for substitute in ("all", "query"):
        assert asked(bare, without_cls=substitute) == asked(bare, **{"from": substitute})
    assert asked(Site("projector", 0, LAYERS, 3, True), without_cls="all").start == "cls"
    with pytest.raises(ValueError, match="stands in for `from: cls`, not for `from: all`"):
        RegisteredParts().fill("criterion", "encoder_attention", {"from": "all", "without_cls": "all"})
    assert asked(bare, **{"from": "patches"}) == asked(bare, **{"from": "all"})
