"""Sensitivity where a norm stands before the projector's layers: against automatic differentiation of the module."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from pruning_support import policy, stage
from tiny_families import IMAGE, LAYERS, SMALL, TINY, model, together
from torch.utils.flop_counter import FlopCounterMode
from vision_support import scores

from autoprune.errors import BadInput
from autoprune.models.family import family_of, geometry_of
from autoprune.pruning import parts, vision
from autoprune.pruning.jacobian import jacobian_of
from autoprune.pruning.session import Session
from autoprune.pruning.signals import Site

FAMILIES = ("internvl", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SMALLEST = 1e-4  # of what enters: there the norm's epsilon counts


@cache
def made_of(name: str) -> Any:
    """A tiny model whose projector's norm does something of its own to every value."""
    made = copy.deepcopy(model(name))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, weight in projector_of(made).named_parameters():
            if "norm" in key or "ln_q" in key:
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(drawn if key.endswith("bias") else 0.7 + 0.5 * drawn)
    return made


def projector_of(made: Any) -> Any:
    return family_of(made.config.to_dict()).places(made).projector


def entered(made: Any, vision: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What enters the projector, and its output [rows, D]."""
    seen: list[torch.Tensor] = []
    handle = projector_of(made).register_forward_hook(lambda m, a, o: seen.extend((a[0], o)))
    with torch.no_grad():
        made.model.get_image_features(**vision)
    handle.remove()
    return seen[0], seen[1].flatten(0, -2)


def jacobian_norms(name: str, projector: Any, given: torch.Tensor) -> torch.Tensor:
    """Of every row of the projector's output [rows] in float64, in its order."""
    exact = copy.deepcopy(projector).double()
    given = given.detach().double()
    if name == "gemma3":  # rows share a picture; to those patches of it that are not their own they do not answer
        pieces, rows = list(given[:, None]), given.shape[1] // 4
    else:  # four patches of Qwen are a row
        pieces, rows = list(given.reshape(-1, 4, given.shape[-1]) if "qwen" in name else given.flatten(0, -2)), 1
    found = []
    for piece in pieces:
        answers = torch.autograd.functional.jacobian(exact, piece)
        found.append(answers.reshape(rows, -1).norm(dim=1))
    return torch.cat(found)


@pytest.mark.parametrize("name", FAMILIES)
def test_sensitivity_is_the_norm_of_the_jacobian(name: str) -> None:
    made, tiny = made_of(name), TINY[name]
    rows = tiny.rows(tiny.ragged)
    together_found = scores(made, together(rows), "sensitivity", 1)
    for number, row in enumerate(rows):
        given, projected = entered(made, row.vision)
        with torch.no_grad():
            features = made.model.get_image_features(**row.vision, return_dict=True).pooler_output
        tokens = features.flatten(0, 1) if hasattr(features, "shape") and features.ndim == 3 else torch.cat([*features])
        place = torch.cdist(tokens, projected).argmin(1)  # a token is found again by its features
        assert torch.equal(projected[place], tokens)
        assert sorted(place.tolist()) == list(range(len(projected)))
        expected = jacobian_norms(name, projector_of(made), given)[place].float()
        assert float(expected.std() / expected.mean()) > 0.01
        assert len(expected) == int((row.tokens["input_ids"] == IMAGE).sum())
        alone = scores(made, together([row]), "sensitivity", 1)[0]
        for found in (alone, together_found[number, : len(expected)]):
            assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("name", FAMILIES)
def test_in_whatever_precision_the_model_runs(name: str, kind: str, tolerance: float) -> None:
    check(name, 1, kind, tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_norms_epsilon_counts(name: str) -> None:
    spread = check(name, SMALLEST, "float32", 1e-5)
    assert spread < 0.999


def check(name: str, size: float, kind: str, tolerance: float) -> float:
    """The closed form against the module's, on rows of a size. The least q, |normed row|² / n."""
    made, tiny = made_of(name), TINY[name]
    given, _ = entered(made, tiny.rows(tiny.ragged)[0].vision)
    kind_of = getattr(torch, kind)
    projector = copy.deepcopy(projector_of(made)).to(kind_of)
    seen: dict[str, torch.Tensor] = {}
    jacobian: Any = jacobian_of(projector)
    jacobian.entry.register_forward_pre_hook(lambda m, a: seen.update(entered=a[0]))
    jacobian.inner.register_forward_hook(lambda m, a, o: seen.update(left=o))
    given = (size * given).to(kind_of)
    with torch.no_grad():
        projector(given)
    found = jacobian.norms(seen["entered"], seen["left"])
    assert found.dtype == torch.float32
    expected = jacobian_norms(name, projector_of(made) if kind == "float32" else projector, given).float()
    assert torch.allclose(found.flatten(), expected, rtol=tolerance)
    normed = jacobian.norm.parts(seen["entered"].reshape(-1, jacobian.norm.width))[0]
    return float(normed.detach().square().mean(-1).min())


@pytest.mark.parametrize("name", FAMILIES)
def test_what_deciding_costs_is_what_is_multiplied(name: str) -> None:
    """All matrix products of the closed form; of Gemma, which has none, the squares of what comes out."""
    made = made_of(name)
    geometry, site = geometry_of(made.config.to_dict()), Site("projector", 0, LAYERS, 3, True)
    grids = ((6, 10),) if "qwen" in name else ((48 // SMALL, 48 // SMALL),)
    sizes = parts.Sizes(geometry, site, 36, 18, (18,) * LAYERS, 9, 1, grids=grids)
    info = parts.find("criterion", "sensitivity")
    assert info is not None
    high, wide = grids[0]
    rows = high * wide // 4
    jacobian: Any = jacobian_of(projector_of(made))
    if name == "gemma3":
        assert info.flops(info.config(), sizes) == 2 * rows * 64
        return
    inner = jacobian.inner
    with FlopCounterMode(display=False) as counter:
        jacobian.norms(torch.randn(rows, inner.in_features), torch.randn(rows, inner.out_features))
    assert info.flops(info.config(), sizes) == counter.get_total_flops()


@pytest.mark.parametrize("name", FAMILIES)
def test_products_are_made_once_and_nothing_stays_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, count = made_of(name), [0]

    def counted(module: Any) -> Any:
        count[0] += 1
        return jacobian_of(module)

    monkeypatch.setattr(vision, "jacobian_of", counted)
    batch, wanted = together(TINY[name].rows(TINY[name].ragged)), policy(stage(1, "1/2", "sensitivity"))
    with Session(made, wanted) as session, torch.no_grad():
        made(**batch, use_cache=False)
        with session.override(wanted):
            made(**batch, use_cache=False)
    assert count == [1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in projector_of(made).modules())


def test_another_norm_or_a_matrix_out_of_memory_is_refused() -> None:
    made: Any = copy.deepcopy(model("gemma3"))
    wanted = policy(stage(1, "1/2", "sensitivity"))
    projector = made.model.multi_modal_projector
    projector.mm_soft_emb_norm = torch.nn.GroupNorm(1, 32)
    with pytest.raises(BadInput, match="GroupNorm is not known"):
        Session(made, wanted)
    projector.mm_soft_emb_norm = torch.nn.LayerNorm(32)
    projector.mm_input_projection_weight = torch.nn.Parameter(torch.zeros(32, 64, device="meta"))
    with pytest.raises(BadInput, match="not in memory"):
        Session(made, wanted)
