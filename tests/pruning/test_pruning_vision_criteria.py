"""Criteria of the picture, the projector and the grid: against float64, counted and looped by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pruning_support import LAYERS, Sample, inputs, model, policy, single, stage
from transformers import CLIPVisionConfig
from transformers.activations import ACT2FN
from vision_support import SAMPLES, agree, attention, entering_block, per_sample, pictures, scores, siglip

from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout, geometry_of
from autoprune.pruning import entropy, parts, vision
from autoprune.pruning.jacobian import SLOPES, _activation, jacobian_of
from autoprune.pruning.lattice import lattice_scores
from autoprune.pruning.session import Session
from autoprune.pruning.signals import Site


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


def test_what_deciding_costs() -> None:
    """Two pictures of 48 x 48 x 3; 36 rows of the projector each, 64 wide inside."""
    geometry, site = geometry_of(model().config.to_dict()), Site("projector", 0, LAYERS, 3, True)
    sizes = parts.Sizes(geometry, site, 36, 18, (18,) * LAYERS, 9, 2)
    for name, expected in (
        ("sensitivity", 2 * 36 * 64**2),
        ("patch_entropy", 2 * 3 * 48**2),
        ("lattice", 0),
        ("stride", 0),
    ):
        info = parts.find("criterion", name)
        assert info is not None
        assert info.flops(info.config(), sizes) == 2 * expected


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
    return torch.as_tensor(states if made.config.vision_feature_select_strategy == "full" else states[:, 1:])


@pytest.mark.parametrize("family", ["llava", "llava_next", "siglip"])
def test_sensitivity_is_the_norm_of_the_projectors_jacobian(family: str) -> None:
    made = siglip() if family == "siglip" else model(family)
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
        ({"layer_norm": torch.nn.GroupNorm(1, 4)}, "the Jacobian of the projector's GroupNorm is not known"),
        ({"layer_norm": torch.nn.LayerNorm(4, device="meta")}, "adapted, quantised or not in memory"),
        ({"layer_norm": torch.nn.LayerNorm(3)}, "4 values are no whole number of rows of 3"),
        ({"linear_2": None}, "made of linear_1, act$"),
        ({"linear_1": Adapted(4, 5)}, "adapted, quantised or not in memory"),
        ({"linear_2": torch.nn.Linear(5, 3, device="meta")}, "adapted, quantised or not in memory"),
        ({"act": torch.nn.Tanh()}, "the slope of the projector's Tanh is not known"),
    ],
)
def test_other_projectors_are_refused_with_a_reason(other: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        jacobian_of(projector(**other))
    jacobian_of(projector())
    jacobian_of(projector(layer_norm=torch.nn.LayerNorm(2, elementwise_affine=False)))


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

    def counted(module: Any) -> Any:
        count[0] += 1
        return jacobian_of(module)

    monkeypatch.setattr(vision, "jacobian_of", counted)
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
def test_patch_entropy_is_that_of_the_levels_before_normalisation(family: str) -> None:
    made = siglip() if family == "siglip" else model(family)
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


def test_class_likeness_is_the_cosine_to_the_class_token() -> None:
    made, samples = model(), SAMPLES["llava"]
    batch = inputs(made, samples)
    states = entering_block(made, pictures(made, batch), 2).double()
    rows = [[float(torch.nn.functional.cosine_similarity(x[0], v, dim=0)) for v in x[1:]] for x in states]
    assert agree(scores(made, batch, ("class_likeness", {"layer": -1})), per_sample(batch, samples, rows))
    with pytest.raises(BadInput, match="class_likeness: this model's vision tower has no class token"):
        Session(siglip(), policy(stage(0, "1/2", ("class_likeness", {}))))
