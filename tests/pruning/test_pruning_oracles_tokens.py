"""Scores of a token by itself or by its place: the projector's answer, the patch's grey values, the grid."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from llm_reference import captured
from oracle_towers import tower
from oracle_worlds import World, array, picture, seen, world, worst
from oracles import intrinsic, selection
from pruning_support import stage

from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.entropy import normalisation

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = {"llava": 6, "reference": 12}


def scores(place: World, name: str, **params: Any) -> list[list[float]]:
    depth = len(place.plain.model.language_model.layers)
    return captured(place.made, place.batch, ResolvedPolicy((stage(2, "1/2", (name, params)),), depth))


@pytest.mark.parametrize("name", ["llava", "reference"])
def test_sensitivity_is_the_closed_form(name: str) -> None:
    """ZOO-Prune's shortcut, from the checkpoint's numbers."""
    place = world(name)
    projector = place.plain.model.multi_modal_projector
    assert place.plain.config.projector_hidden_act == "gelu"
    first, second = projector.linear_1, projector.linear_2
    w1, b1, w2 = (array(t) for t in (first.weight, first.bias, second.weight))
    for number, row in enumerate(scores(place, "sensitivity")):
        rows = seen(name, number).projector_input
        few = range(0, len(rows), max(1, len(rows) // 8))
        expected = intrinsic.zoo_closed_form(rows[list(few)], w1, b1, w2)
        assert worst([row[i] for i in few], expected) <= 1e-5
        break  # the gram matrix in loops takes its time


def entered(place: World, number: int) -> tuple[Any, Any]:
    """One sample's projector and what enters it, rows of the last axis."""
    projector: Any = getattr(place.plain.model, "multi_modal_projector", None) or place.plain.model.visual.merger
    rows: list[Any] = []
    handle = projector.register_forward_pre_hook(lambda m, a: rows.append(array(a[0])))
    with torch.no_grad():
        place.plain(**place.singles[number])
    handle.remove()
    return projector, rows[0]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("name", "norm", "first", "second", "epsilon"),
    [
        ("internvl", "layer_norm", "linear_1", "linear_2", 1e-5),
        ("qwen2_vl", "ln_q", "mlp.0", "mlp.2", 1e-6),
        ("qwen2_5_vl", "ln_q", "mlp.0", "mlp.2", 1e-6),
        ("qwen3_vl", "norm", "linear_fc1", "linear_fc2", 1e-6),
    ],
)
def test_sensitivity_behind_a_norm(name: str, norm: str, first: str, second: str, epsilon: float, number: int) -> None:
    """Sheet C4: Qwen's merger has a norm first, of each patch; InternVL's is of the four together."""
    place = world(name)
    projector, rows = entered(place, number)
    gain = projector.get_submodule(norm).weight
    centred = name != "qwen2_5_vl"
    shift = projector.get_submodule(norm).bias if centred else torch.zeros_like(gain)
    w1, w2 = (array(projector.get_submodule(layer).weight) for layer in (first, second))
    rows = rows.reshape(-1, w1.shape[1])
    few = range(0, len(rows), max(1, len(rows) // 3))
    b1 = array(projector.get_submodule(first).bias)
    norms = (array(gain), array(shift), epsilon, centred)
    expected = intrinsic.zoo_behind_a_norm(rows[list(few)], *norms, w1, b1, w2)
    where = range(len(rows))
    if name.startswith("qwen"):  # row numbers, put where their tokens are
        four = [float(i) for i in where for _ in range(4)]
        where = [round(v) for v in tower(name, number).visual([four])]
    found = scores(place, "sensitivity")[number]
    assert len(found) == len(rows)
    assert worst([found[list(where).index(i)] for i in few], expected) <= 1e-5


@pytest.mark.parametrize("number", [0, 1])
def test_sensitivity_of_averaged_patches(number: int) -> None:
    """Gemma 3: means of 2 x 2 patches, a norm whose weight is 1 more than written, one matrix; no activation."""
    place = world("gemma3")
    projector, pictures = entered(place, number)
    gain, matrix = 1 + array(projector.mm_soft_emb_norm.weight), array(projector.mm_input_projection_weight)
    expected = []
    for states in pictures:
        side = int(len(states) ** 0.5)
        for top in range(0, side, 2):
            for left in range(0, side, 2):
                mean = sum(states[(top + y) * side + left + x] for y in (0, 1) for x in (0, 1)) / 4
                whole = matrix.T @ intrinsic.norm_jacobian(mean, gain, 1e-6, False) / 4  # of each of the four
                expected.append(float((4 * (whole**2).sum()) ** 0.5))
    assert place.plain.config.vision_config.layer_norm_eps == 1e-6
    assert worst(scores(place, "sensitivity")[number], expected) <= 1e-5


@pytest.mark.parametrize("name", ["llava", "reference", "llava_next", "llava_onevision", "internvl"])
def test_sensitivity_is_what_finite_differences_say(name: str) -> None:
    """Of the module itself in float64, along every axis: no formula of its inside."""
    place = world(name)
    exact = copy.deepcopy(place.plain.model.multi_modal_projector).double()

    def module(x: Any) -> Any:
        with torch.no_grad():
            return exact(torch.tensor(x)).numpy()

    (row, *_) = scores(place, "sensitivity")
    rows = seen(name, 0).projector_input
    for i in range(0, min(len(rows), 30), 6):
        expected = intrinsic.zoo_frobenius(rows[i : i + 1], module, 1e-5)
        assert row[i] == pytest.approx(expected[0], rel=1e-4)


def pictures(place: World, number: int) -> list[Any]:
    """What a processor of CLIP's kind was given, 0..255 [H, W, 3], cut to what a picture can hold."""
    found = []
    for pixels in array(place.singles[number]["pixel_values"]):
        levels = np.zeros((*pixels.shape[1:], 3))
        for c in range(3):
            for y in range(levels.shape[0]):
                for x in range(levels.shape[1]):
                    level = 255 * (pixels[c, y, x] * CLIP_DEVIATION[c] + CLIP_MEAN[c])
                    levels[y, x, c] = min(255, max(0, round(level)))
        found.append(levels)
    return found


def test_patch_entropy_of_a_model_without_a_processor() -> None:
    place = world("llava")
    for number, row in enumerate(scores(place, "patch_entropy")[:2]):
        expected = [v for picture in pictures(place, number) for v in intrinsic.patch_entropy(picture, 8)]
        assert worst(row, expected) <= 1e-6
        assert max(expected) > min(expected)


def test_patch_entropy_of_the_picture_that_was_given() -> None:
    """The reference model's processor neither scales nor cuts, and subtracts and divides by numbers of its own."""
    for number, row in enumerate(scores(world("reference"), "patch_entropy")):
        given = np.asarray(picture(10 + number), dtype=np.float64)
        assert worst(row, intrinsic.patch_entropy(given, 8)) <= 1e-6


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.5]}, ((0.4, 0.5, 0.6), (0.2, 0.25, 0.5))),
        ({"do_normalize": False, "image_mean": [0.4, 0.5, 0.6]}, ((0.0,) * 3, (1.0,) * 3)),
        ({"image_mean": [0.4], "image_std": [0.2]}, (CLIP_MEAN, CLIP_DEVIATION)),
        (None, (CLIP_MEAN, CLIP_DEVIATION)),
    ],
)
def test_a_checkpoint_says_how_its_pixels_were_made(tmp_path: Path, settings: Any, expected: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    if settings is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    tower_config = SimpleNamespace(model_type="clip_vision_model")
    assert normalisation(tower_config, SimpleNamespace(_name_or_path=str(tmp_path))) == expected


@pytest.mark.parametrize("name", ["llava", "llava_next", "reference"])
@pytest.mark.parametrize("order", ["l1", "l2"])
def test_norms_of_what_enters_the_projector(name: str, order: str) -> None:
    place, p = world(name), 1 if order == "l1" else 2
    for number, row in enumerate(scores(place, "feature_norm", space="encoder", order=order)):
        flat = intrinsic.norms(seen(name, number).projector_input, p)
        per_piece = len(flat) // len(tower(name, number).blocks[0])
        pieces = [flat[i : i + per_piece] for i in range(0, len(flat), per_piece)]
        assert worst(row, tower(name, number).visual(pieces)) <= 1e-5


@pytest.mark.parametrize("name", ["llava", "reference"])
def test_lattice_visits_the_farthest_cell_first(name: str) -> None:
    place, side = world(name), SIDE[name]
    order = selection.lattice(side, side, min(side * side, 40))
    for row in scores(place, "lattice"):
        for start in range(0, len(row), side * side):
            one = row[start : start + side * side]
            ranked = sorted(range(len(one)), key=lambda i: (-one[i], i))
            assert ranked[: len(order)] == order
            assert len(set(one)) == len(one)


def test_lattice_of_an_overview_and_of_its_tiles() -> None:
    """Any-resolution pictures have two grids: 6 x 6, and 6 x 12 with a newline after each row."""
    (row, *_) = scores(world("llava_next"), "lattice")
    assert len(row) == 36 + 6 * 13
    first = row[:36]
    assert sorted(range(36), key=lambda i: -first[i]) == selection.lattice(6, 6, 36)
    tiles = [row[36 + y * 13 + x] for y in range(6) for x in range(12)]
    assert sorted(range(72), key=lambda i: -tiles[i]) == selection.lattice(6, 12, 72)


def test_overview_is_the_first_grid_of_a_picture_in_tiles() -> None:
    """ToDRE begins on the thumbnail (sheet C2); a picture without tiles is all overview."""
    (row, *_) = scores(world("llava_next"), "overview")
    assert row == [1.0] * 36 + [0.0] * (6 * 13)
    assert all(one == [1.0] * len(one) for one in scores(world("llava"), "overview"))


@pytest.mark.parametrize("every", [2, 3])
def test_stride_is_a_grid(every: int) -> None:
    """FEATHER: rows and columns `::s` (sheets A1, D4)."""
    (row, *_) = scores(world("reference"), "stride", every=every)
    assert row == [float(y % every == 0 and x % every == 0) for y in range(12) for x in range(12)]
