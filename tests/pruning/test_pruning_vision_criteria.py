"""Criteria of the tower, the projector and the grid: against loops in plain Python over what an eager model reports."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pruning_support import LAYERS, Sample, inputs, model, policy, single, stage
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig
from transformers.activations import ACT2FN

from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout, geometry_of
from autoprune.policy.geometry import Geometry
from autoprune.pruning import entropy, parts, prefill, vision, walk
from autoprune.pruning.encoder_signals import EncoderWalk
from autoprune.pruning.jacobian import SLOPES, Jacobian, _activation
from autoprune.pruning.lattice import lattice_scores
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import evaluate
from autoprune.pruning.session import Session
from autoprune.pruning.signals import Site

SAMPLES = {
    "llava": [Sample(9), Sample(16, ((48, 96), (48, 96)))],
    "llava_next": [Sample(9), Sample(16, ((96, 96), (96, 48)))],
}
Rows = list[list[float]]


def attention(**params: Any) -> tuple[str, dict[str, Any]]:
    return "encoder_attention", params


def scores(made: Any, batch: dict[str, torch.Tensor], criterion: Any, layer: int = 2) -> torch.Tensor:
    """A criterion's scores as a stage of a real run sees them, [B, V]."""
    seen: list[torch.Tensor] = []
    original = prefill.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        seen.append(evaluate(planned.picks[0].score, view))
        return original(planned, view, *rest)

    prefill.reduce = spy
    try:
        with Session(made, policy(stage(layer, "1/2", criterion))), torch.no_grad():
            made(**batch, use_cache=False)
    finally:
        prefill.reduce = original
    return seen[0]


def pictures(made: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the tower is given: every image, or every tile without those that fill up the batch."""
    pixels = batch["pixel_values"]
    if "image_sizes" not in batch:
        return pixels
    return torch.cat([p[:n] for p, n in zip(pixels, tile_counts(batch), strict=True)])


def tile_counts(batch: dict[str, torch.Tensor]) -> list[int]:
    return [5 if size == [96, 96] else 3 for size in batch["image_sizes"].tolist()]


def per_sample(batch: dict[str, torch.Tensor], samples: Sequence[Sample], rows: Rows) -> list[list[float]]:
    """Values per tower input and patch at each sample's visual tokens; a zero for each newline."""
    if "image_sizes" not in batch:
        images = rows
    else:
        images, start = [], 0
        for (height, width), count in zip(batch["image_sizes"].tolist(), tile_counts(batch), strict=True):
            images.append(packed(rows[start : start + count], height // 48, width // 48))
            start += count
    found, start = [], 0
    for sample in samples:
        found.append([v for image in images[start : start + len(sample.images)] for v in image])
        start += len(sample.images)
    return found


def packed(tiles: Rows, down: int, across: int) -> list[float]:
    """The overview, then the tiles as one picture of 6 x 6 patches each, and a zero after every row of patches."""
    values = list(tiles[0])
    for y in range(6 * down):
        for x in range(6 * across):
            values.append(tiles[1 + (y // 6) * across + x // 6][(y % 6) * 6 + x % 6])
        values.append(0.0)
    return values


def agree(found: torch.Tensor, expected: list[list[float]], tolerance: float = 2e-6) -> bool:
    return all(
        abs(float(found[b, i]) - v) <= tolerance * max(1, abs(v))
        for b, row in enumerate(expected)
        for i, v in enumerate(row)
    )


# ------------------------------------------------------------------------------------------------ the walk, in loops
Map = list[list[list[float]]]  # [heads][queries][keys]


def softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(v - top) for v in row]
    return [p / sum(parts) for p in parts]


def maps(query: torch.Tensor, key: torch.Tensor, temperature: float, joined: bool) -> Map:
    """Softmax maps of one picture from q and k [T, heads, D]; joined: all heads side by side as one."""
    q, k = query.double().tolist(), key.double().tolist()
    if joined:
        q, k = ([[[v for head in t for v in head]] for t in x] for x in (q, k))
    scale = len(q[0][0]) ** -0.5 / temperature
    return [
        [softmax([scale * sum(a * b for a, b in zip(x[h], y[h], strict=True)) for y in k]) for x in q]
        for h in range(len(q[0]))
    ]


def end(full: Map, mean_row: list[list[float]], start: str, hops: int, gate: float | None, heads: str, cls: int) -> Any:
    """Mass on every patch. mean_row[h]: the softmax row of head h's mean query."""
    tokens = range(len(full[0]))
    if start == "query":
        mass = mean_row
    elif start == "cls":
        mass = [a[0] for a in full]
    else:
        begin = [i for i in tokens if start == "all" or i >= cls]
        mass = [[sum(a[i][j] for i in begin) / len(begin) for j in tokens] for a in full]
    for _ in range(hops - 1):
        if gate is not None:
            held = meet(mass, heads, cls)
            mean = sum(held[cls:]) / len(held[cls:])
            on = [i for i in tokens if i >= cls and held[i] > gate * mean]
            on = on or [max((i for i in tokens if i >= cls), key=lambda i: held[i])]
            mass = [[1 / len(on) if i in on else 0.0 for i in tokens] for _ in full]
        mass = [[sum(p[i] * a[i][j] for i in tokens) for j in tokens] for p, a in zip(mass, full, strict=True)]
    return meet(mass, heads, cls)[cls:]


def meet(mass: list[list[float]], heads: str, cls: int) -> list[float]:
    columns = [list(c) for c in zip(*mass, strict=True)]
    if heads == "top_half":
        order = sorted(range(len(mass)), key=lambda h: -sum(mass[h][cls:]))
        chosen = order[: max(1, len(mass) // 2)]
        return [sum(c[h] for h in chosen) / len(chosen) for c in columns]
    return {
        "mean": lambda: [sum(c) / len(c) for c in columns],
        "joined": lambda: [c[0] for c in columns],
        "sum": lambda: [sum(c) for c in columns],
        "max": lambda: [max(c) for c in columns],
        "rms": lambda: [math.sqrt(sum(v * v for v in c) / len(c)) for c in columns],
    }[heads]()


def projections(made: Any, seen: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k [pictures, T, heads, D] of a block of an untouched tower."""
    tower = made.model.vision_tower
    layer = getattr(tower, "vision_model", tower).encoder.layers[block]
    caught: dict[str, torch.Tensor] = {}
    handles = [
        getattr(layer.self_attn, n).register_forward_hook(lambda m, a, o, n=n: caught.update({n: o}))
        for n in ("q_proj", "k_proj")
    ]
    with torch.no_grad():
        tower(seen, return_dict=True)
    for handle in handles:
        handle.remove()
    heads = tower.config.num_attention_heads
    q, k = (caught[n].unflatten(2, (heads, -1)) for n in ("q_proj", "k_proj"))
    return q, k


def expected_walks(made: Any, seen: torch.Tensor, block: int, cls: int = 1, **params: Any) -> Rows:
    """Ends of the walk per picture, from the model's own q and k."""
    options = {"from": "cls", "hops": 1, "gate": None, "heads": "mean", "temperature": 1.0, **params}
    query, key = projections(made, seen, block)
    found = []
    for q, k in zip(query, key, strict=True):
        joined = options["heads"] == "joined"
        full = maps(q, k, options["temperature"], joined)
        mean = maps(torch.cat([q.double().mean(0, keepdim=True)] * len(k)), k, options["temperature"], joined)
        row = [a[0] for a in mean]
        found.append(end(full, row, options["from"], options["hops"], options["gate"], options["heads"], cls))
    return found


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


@pytest.mark.parametrize("name", ["all", "gated", "joined", "page-rank"])
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
    joined = {
        None: lambda a, b, c: a + b + c,
        "sum": lambda a, b, c: a + b + c,
        "mean": lambda a, b, c: (a + b + c) / 3,
        "ema": lambda a, b, c: a / 4 + b / 4 + c / 2,
        "difference": lambda a, b, c: c - a,
    }[over]
    together = [[joined(*v) for v in zip(*picture, strict=True)] for picture in zip(*rows, strict=True)]
    more = {} if over is None else {"over": over}
    found = scores(made, batch, attention(layers=[0, -1], **more, **WALKS["all"]))
    assert agree(found, per_sample(batch, samples, together))


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


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize(
    "criterion",
    [
        attention(layers=[0, 2], over="ema", hops=2, gate=1.1, **{"from": "all"}),
        "patch_entropy",
        "sensitivity",
        "lattice",
        "stride",
    ],
    ids=["walk", "patch_entropy", "sensitivity", "lattice", "stride"],
)
def test_a_batch_is_its_samples(family: str, criterion: Any) -> None:
    made, samples = model(family), SAMPLES[family]
    batch = inputs(made, samples)
    together = scores(made, batch, criterion)
    for i in range(len(samples)):
        alone = scores(made, single(batch, samples, i), criterion)
        assert torch.allclose(together[i, : alone.shape[1]], alone[0], atol=1e-5)
        assert len(set(alone[0].tolist())) > 1


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
        ({"from": "text"}, "'cls', 'all', 'patches' or 'query'"),
        ({"heads": "median"}, "'top_half' or 'joined'"),
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
    for wrong in ([2, 1], [1, 1], [2, "1/3"]):
        with pytest.raises(BadInput, match="does not come before"):
            asked(layers=wrong)
    with pytest.raises(BadInput, match="outside the encoder's 3 blocks"):
        asked(layers=[0, 3])


def flops(geometry: Geometry, name: str, pictures: int = 1, **params: Any) -> int:
    info = parts.find("criterion", name)
    assert info is not None
    sizes = parts.Sizes(geometry, SITE, 36, 18, (18,) * LAYERS, 9, pictures)
    return info.flops(info.config.model_validate(params), sizes)


def test_what_deciding_costs() -> None:
    """37 tokens of width 32 in 2 heads; pictures of 48 x 48 x 3; 36 rows of the projector, 64 wide inside."""
    geometry = geometry_of(model().config.to_dict())
    row, whole, hop = 2 * 37 * 32, 2 * 37**2 * 32, 2 * 37**2 * 2
    assert flops(geometry, "encoder_attention") == row
    assert flops(geometry, "encoder_attention", 3, layers=[0, 2]) == 9 * row
    assert flops(geometry, "encoder_attention", layers=[0, 2], over="difference") == 2 * row
    assert flops(geometry, "encoder_attention", **{"from": "query"}) == row
    assert flops(geometry, "encoder_attention", **{"from": "all"}) == whole
    assert flops(geometry, "encoder_attention", hops=3, gate=1) == whole + 2 * hop
    assert flops(geometry, "encoder_attention", hops=2, **{"from": "query"}) == whole + hop + row
    assert flops(geometry, "encoder_attention", hops=2, heads="joined") == whole + hop // 2
    assert flops(geometry, "sensitivity", 2) == 2 * 2 * 36 * 64**2
    assert flops(geometry, "patch_entropy") == 2 * 3 * 48**2
    assert flops(geometry, "lattice") == flops(geometry, "stride") == 0


@pytest.mark.parametrize("name", ["joined", "query", "two-hops", "page-rank", "query-hops", "gated-hops", "joined-all"])
def test_walks_execute_what_they_declare(name: str) -> None:
    """Two pictures, counted as the cost model counts."""
    query, key = torch.randn(2, 2, 2, 37, 16)
    with FlopCounterMode(display=False) as counter:
        walk.walk(query, key, 0.25, asked(**WALKS[name]))
    declared = flops(geometry_of(model().config.to_dict()), "encoder_attention", 2, **WALKS[name])
    assert counter.get_total_flops() == declared


# ------------------------------------------------------------------------------------------ a tower without class token
@pytest.fixture(scope="module", name="siglip")
def siglip_fixture() -> Any:
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=5,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu_pytorch_tanh",
    )
    torch.manual_seed(2)
    made = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "proj" in name or "linear" in name:
                weight.mul_(4)
    return made


@pytest.mark.parametrize("name", ["all", "query", "gated", "gated-high", "page-rank"])
def test_towers_without_a_class_token_walk_too(siglip: Any, name: str) -> None:
    samples = SAMPLES["llava"]
    batch = inputs(siglip, samples)
    expected = per_sample(batch, samples, expected_walks(siglip, pictures(siglip, batch), 0, cls=0, **WALKS[name]))
    assert agree(scores(siglip, batch, attention(layer=0, **WALKS[name])), expected)


def test_what_needs_a_class_token_is_refused_without_one(siglip: Any) -> None:
    with pytest.raises(BadInput, match="no class token") as caught:
        Session(siglip, policy(stage(0, "1/2", attention())))
    for word in ("`from: all`", "`from: query`"):
        assert word in str(caught.value)
    with pytest.raises(BadInput, match="top_half"):
        Session(siglip, policy(stage(0, "1/2", attention(heads="top_half", **{"from": "all"}))))
    bare = Site("projector", 0, LAYERS, 3, False)
    assert asked(bare, **{"from": "patches"}) == asked(bare, **{"from": "all"})


# --------------------------------------------------------------------------------------------------- sensitivity
def jacobian_norms(made: Any, features: torch.Tensor) -> list[float]:
    """Norms of the projector's Jacobian at rows [n, f], by automatic differentiation in float64."""
    whole = copy.deepcopy(made.model.multi_modal_projector).double()
    jacobians = torch.func.vmap(torch.func.jacrev(whole))(features.double())
    return [float(j.detach().norm()) for j in jacobians]


def encoder_features(made: Any, seen: torch.Tensor) -> torch.Tensor:
    """Rows that enter the projector, [pictures, patches, f]."""
    with torch.no_grad():
        states = made.model.vision_tower(seen, output_hidden_states=True, return_dict=True).hidden_states[-2]
    return states if made.config.vision_feature_select_strategy == "full" else states[:, 1:]


@pytest.mark.parametrize("family", ["llava", "llava_next", "siglip"])
def test_sensitivity_is_the_norm_of_the_projectors_jacobian(family: str, siglip: Any) -> None:
    made = siglip if family == "siglip" else model(family)
    samples = SAMPLES.get(family, SAMPLES["llava"])
    batch = inputs(made, samples)
    rows = [jacobian_norms(made, f) for f in encoder_features(made, pictures(made, batch))]
    found = scores(made, batch, "sensitivity")
    assert agree(found, per_sample(batch, samples, rows), 1e-4)
    assert float(found[0, :36].std() / found[0, :36].mean()) > 1e-3  # tokens differ


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "swish"])
def test_slopes_are_those_of_the_activations(name: str) -> None:
    z = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    ACT2FN[name](z).sum().backward()
    assert z.grad is not None
    assert float((SLOPES[_activation(ACT2FN[name])](z.detach()) - z.grad).abs().max()) < 1e-6


def test_torchs_own_gelu_has_two_forms() -> None:
    assert _activation(torch.nn.GELU()) == "gelu"
    assert _activation(torch.nn.GELU(approximate="tanh")) == "tanh"


def projector(**replaced: Any) -> Any:
    made = torch.nn.Module()
    given = {"linear_1": torch.nn.Linear(4, 5), "act": torch.nn.GELU(), "linear_2": torch.nn.Linear(5, 3), **replaced}
    for name, module in given.items():
        if module is not None:
            made.add_module(name, module)
    return made


class Adapted(torch.nn.Linear):
    """As adapters and quantisation put in place of a layer."""


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"norm": torch.nn.LayerNorm(4)}, "made of linear_1, act, linear_2, norm"),
        ({"linear_2": None}, "made of linear_1, act$"),
        ({"linear_1": Adapted(4, 5)}, "adapted, quantised or not in memory"),
        ({"linear_2": torch.nn.Linear(5, 3, device="meta")}, "adapted, quantised or not in memory"),
        ({"act": torch.nn.Tanh()}, "the slope of the projector's Tanh is not known"),
    ],
)
def test_other_projectors_are_refused_with_a_reason(other: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Jacobian(projector(**other))
    Jacobian(projector())


def test_a_policy_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    monkeypatch.setitem(made.model.multi_modal_projector._modules, "act", torch.nn.Tanh())
    wanted = policy(stage(0, "1/2", "sensitivity"))
    with pytest.raises(BadInput, match="sensitivity"):
        Session(made, wanted)
    with Session(made, policy()) as session, pytest.raises(BadInput, match="sensitivity"), session.override(wanted):
        pass


def test_the_weights_product_is_made_once_and_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made, count = model(), [0]
    batch = inputs(made, [Sample(9)])

    class Counted(Jacobian):
        def __init__(self, module: Any) -> None:
            count[0] += 1
            super().__init__(module)

    monkeypatch.setattr(vision, "Jacobian", Counted)
    wanted = policy(stage(0, "1/2", "sensitivity"))
    with Session(made, wanted) as session, torch.no_grad():
        made(**batch, use_cache=False)
        with session.override(wanted):
            made(**batch, use_cache=False)
    assert count == [1]
    assert not made.model.multi_modal_projector.linear_1._forward_hooks
    with Session(made, policy(stage(0, "1/2", "random"))):
        pass
    assert count == [1]


# --------------------------------------------------------------------------------------------------- patch entropy
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5,) * 3, (0.5,) * 3)


def entropies(levels: list[list[list[int]]], side: int = 8) -> list[float]:
    """Entropy in bits of every side x side patch of a picture of levels [3][rows][columns]."""
    found = []
    red, green, blue = levels
    for top in range(0, len(red) - side + 1, side):
        for left in range(0, len(red[0]) - side + 1, side):
            seen: dict[int, int] = {}
            for y in range(top, top + side):
                for x in range(left, left + side):
                    grey = math.floor((299 * red[y][x] + 587 * green[y][x] + 114 * blue[y][x]) / 1000 + 0.5)
                    seen[grey] = seen.get(grey, 0) + 1
            found.append(-sum(n / side**2 * math.log2(n / side**2) for n in seen.values()))
    return found


def drawn(shape: Sequence[int]) -> torch.Tensor:
    """Levels 0 to 255 with flat, coarse and busy patches."""
    generator = torch.Generator().manual_seed(11)
    levels = torch.randint(0, 256, tuple(shape), generator=generator)
    step = torch.randint(0, 3, (*shape[:-3], 1, 6, 6), generator=generator)
    step = step.repeat_interleave(8, -2).repeat_interleave(8, -1)
    return torch.where(step == 0, 77, torch.where(step == 1, levels // 64 * 64, levels))


@pytest.mark.parametrize("family", ["llava", "llava_next", "siglip"])
def test_patch_entropy_is_that_of_the_levels_before_normalisation(family: str, siglip: Any) -> None:
    made = siglip if family == "siglip" else model(family)
    samples = SAMPLES.get(family, SAMPLES["llava"])
    batch = inputs(made, samples)
    levels = drawn(batch["pixel_values"].shape)
    mean, deviation = (torch.tensor(x)[:, None, None] for x in (HALF if family == "siglip" else CLIP))
    batch["pixel_values"] = (levels / 255 - mean) / deviation
    seen = pictures(made, {**batch, "pixel_values": levels})
    expected = [entropies(picture) for picture in seen.tolist()]
    assert min(map(min, expected)) == 0
    assert max(map(max, expected)) > 5
    assert agree(scores(made, batch, "patch_entropy"), per_sample(batch, samples, expected), 1e-5)


def test_a_projected_class_token_has_no_patch() -> None:
    made = model("llava", "sdpa", "full")
    ids = torch.cat([torch.tensor([11, 12]), torch.full((37,), 5), torch.tensor([13, 14, 15])])[None]
    levels = drawn((1, 3, 48, 48))
    mean, deviation = (torch.tensor(x)[:, None, None] for x in CLIP)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": (levels / 255 - mean) / deviation,
    }
    assert agree(scores(made, batch, "patch_entropy"), [[0.0, *entropies(levels[0].tolist())]], 1e-5)


def test_pixels_that_cannot_be_told_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="three colours, not of 1 channels"):
        entropy.refuse_tower(CLIPVisionConfig(num_channels=1))
    monkeypatch.setattr(entropy, "NORMALISED", {})
    with pytest.raises(BadInput, match="normalised is not known"):
        Session(model(), policy(stage(0, "1/2", "patch_entropy")))


# ------------------------------------------------------------------------------------------------------------ grids
def farthest_order(cells: Sequence[tuple[int, int]]) -> list[int]:
    """Cells in farthest-point order by Manhattan distance from the first; ties to the lower number."""
    chosen = [0]
    while len(chosen) < len(cells):
        gaps = [
            -1 if i in chosen else min(abs(y - cells[c][0]) + abs(x - cells[c][1]) for c in chosen)
            for i, (y, x) in enumerate(cells)
        ]
        chosen.append(gaps.index(max(gaps)))
    return chosen


def expected_lattice(layout: ImageLayout) -> list[float]:
    found = [0.0] * len(layout.source)
    for segment in (0, 1):
        here = [i for i in range(len(found)) if layout.source[i] >= 0 and layout.segment[i] == segment]
        cells = [(int(layout.row[i]), int(layout.column[i])) for i in here]
        for place, cell in enumerate(farthest_order(cells) if cells else []):
            found[here[cell]] = 1 - place / len(here)
    return found


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_lattice_orders_every_segment_farthest_first(family: str) -> None:
    made, samples = model(family), SAMPLES[family]
    batch = inputs(made, samples)
    with Session(made, policy()), torch.no_grad():
        more = {k: batch[k] for k in ("image_sizes",) if k in batch}
        output = made.model.get_image_features(batch["pixel_values"], return_dict=True, **more)
    layouts = [f._autoprune_facts.layout for f in output.pooler_output]
    rows = [expected_lattice(x) for x in layouts]
    expected = [rows[0], [v for row in rows[1:] for v in row]]
    found = scores(made, batch, "lattice")
    assert agree(found, expected, 1e-6)
    if family == "llava_next":  # the same share of overview and tiles, so that one cut serves both
        overview, tiles = found[0, :36], found[0, 36 : len(rows[0])]
        assert int((overview > 0.5).sum()) == 18
        assert int((tiles > 0.5).sum()) == 36


def test_a_lattice_begins_in_the_corners() -> None:
    made = model()
    found = scores(made, inputs(made, [Sample(9)]), "lattice")[0]
    assert found.argsort(descending=True)[:3].tolist() == [0, 35, 5]
    assert sorted(found.tolist()) == pytest.approx([i / 36 for i in range(1, 37)])


def test_lattice_scores_of_one_cell_and_of_none() -> None:
    def layout(source: list[int]) -> ImageLayout:
        zeros = torch.zeros(len(source), dtype=torch.long)
        return ImageLayout(torch.tensor(source), zeros, zeros, torch.arange(len(source)), 1)

    assert lattice_scores(layout([4])).tolist() == [1]
    assert lattice_scores(layout([-1, -1])).tolist() == [0, 0]


@pytest.mark.parametrize("every", [1, 2, 3, 4])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_stride_marks_every_s_th_row_and_column(family: str, every: int) -> None:
    made, samples = model(family), SAMPLES[family]
    batch = inputs(made, samples)
    found = scores(made, batch, ("stride", {"every": every}))
    first = [float(i // 6 % every == 0 and i % 6 % every == 0) for i in range(36)]
    if family == "llava_next":  # an image of 48 x 96: 6 rows of 12 patches and a newline
        first += [float(y % every == 0 and x % every == 0) for y in range(6) for x in range(13)]
    assert found[0, : len(first)].tolist() == first
