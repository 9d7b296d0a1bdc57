"""Published methods that merge, as their documents say, against the oracles on a model's own tensors."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from oracles import attention, counts, merging, selection
from oracles.basics import cosine, softmax, top
from pruning_support import inputs
from test_pruning_catalog import deep
from tiny_families import Sample
from vision_support import projections

from autoprune.document.yaml import read
from autoprune.models.family import geometry_of
from autoprune.policy import catalog
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.pruning import prefill
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session
from autoprune.pruning.stage import Reduction
from autoprune.pruning.view import StageView

PARTS = RegisteredParts()
N = 36
SHARPER = 25.0
SIX = 6  # patches a side


@cache
def sharp() -> Any:
    """A model whose tower looks at some patches much more than at others."""
    made = copy.deepcopy(deep())
    with torch.no_grad():
        for name, weight in made.model.vision_tower.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                weight.mul_(SHARPER)
    return made


@dataclass
class Stage:
    """What one stage of a run saw, and what it made of it."""

    view: StageView
    done: Reduction
    made: torch.Tensor | None = None

    @property
    def before(self) -> np.ndarray:
        """Rows that enter the stage."""
        return array(self.view.hidden[0])

    @property
    def rows(self) -> np.ndarray:
        """Rows that leave it, where it merges."""
        assert self.made is not None
        return array(self.made[0])

    @property
    def kept(self) -> list[int]:
        """Numbers of the rows' anchors among the tokens that entered."""
        return [int(i) for i in self.done.kept.index[0]]


def array(values: torch.Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def run(
    name: str, keeps: dict[int, Any], parity: bool = False, **merge: Any
) -> tuple[list[Stage], dict[str, torch.Tensor]]:
    """The stages of a catalog policy, its keeps (and parameters of its first merger) changed to suit 36
    tokens, on one sample."""
    seen: list[Stage] = []
    module: Any = prefill
    original, rows_of = module.reduce, module.Prefill._rows_of

    def rows(prefill: Any, *rest: Any) -> Any:
        seen[-1].made = rows_of(prefill, *rest)
        return seen[-1].made

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        done = original(planned, view, *rest)
        seen.append(Stage(view, done))
        return done

    document = Policy.from_source(read(catalog.find("policies", name)), PARTS).dump()
    for number, keep in keeps.items():
        document["stages"][number]["keep"] = keep
    if merge:
        (parameters,) = document["stages"][0]["merge"].values()
        parameters.update(merge)
    made = sharp()
    policy = resolve(Policy.parse(document, PARTS), geometry_of(made.config.to_dict()), PARTS, N, parity=parity)
    batch = inputs(made, [Sample(9)])
    module.reduce, module.Prefill._rows_of = spy, rows
    try:
        with Session(made, policy), torch.no_grad():
            made(**batch, use_cache=False)
    finally:
        module.reduce, module.Prefill._rows_of = original, rows_of
    return seen, batch


def tower(batch: dict[str, torch.Tensor], block: int) -> tuple[np.ndarray, np.ndarray]:
    """q and k [T, heads, D] of a block, class token first."""
    query, key = projections(sharp(), batch["pixel_values"], block)
    return array(query[0]), array(key[0])


def merged(matrix: np.ndarray, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """projector(W x), x the rows of the tower."""
    made = sharp().model
    with torch.no_grad():
        states = made.vision_tower(batch["pixel_values"], output_hidden_states=True, return_dict=True).hidden_states
    layers = [made.multi_modal_projector.linear_1, made.multi_modal_projector.linear_2]
    first, second = ((array(layer.weight), array(layer.bias)) for layer in layers)
    return merging.project(merging.fold(matrix, array(states[-2][0, 1:])), first, second)


def class_rows(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The class token's attention row of every head [heads, T]."""
    heads = range(query.shape[1])
    return np.array([softmax(attention.logit_row(query[0, h], key[:, h], range(len(key)))) for h in heads])


# ------------------------------------------------------------------------------------------------------------ VisionZip
@pytest.mark.parametrize("parity", [False, True])
def test_visionzip(parity: bool) -> None:
    """15 dominant and 3 contextual tokens; the release adds target and mean, ours is half as long."""
    (stage,), batch = run("visionzip", {0: "1/2"}, parity)
    query, key = tower(batch, -2)
    score = class_rows(query, key).sum(0)[1:]
    dominant = top(list(score), 15)
    rest = [i for i in range(N) if i not in dominant]
    targets, matrix = merging.visionzip(key[1:].mean(1), rest, 3)
    assert stage.kept == sorted([*dominant, *targets])
    assert matrix.sum(1) == pytest.approx(2)
    made = merged(matrix if parity else merging.rows_to_one(matrix), batch)
    for place, token in enumerate(stage.kept):
        expected = made[targets.index(token)] if token in targets else stage.before[token]
        assert np.allclose(stage.rows[place], expected, atol=1e-5)
    assert np.allclose(merged(np.eye(N), batch), stage.before, atol=1e-5)
    assert float(stage.done.mass.sum()) == pytest.approx(N)
    assert (stage.done.mass[0, [stage.kept.index(t) for t in dominant]] == 1).all()  # joined by none


# ------------------------------------------------------------------------------------------------------------- VFlowOpt
def test_vflowopt() -> None:
    """Its score, its cells, and the same score in the language model."""
    stages, batch = run("vflowopt", {0: "1/2", 1: "1/3", 2: "1/6"})
    query, key = tower(batch, -1)
    heads = range(query.shape[1])
    maps = np.array([[softmax(list(row)) for row in logits(query[:, h], key[:, h])] for h in heads])
    score = attention.vflowopt(maps, True, 34.8)
    first = stages[0]
    assert first.kept == sorted(top(list(score), 18))  # cells of 15.6 tokens a side: none of its own
    left = first.kept
    for stage, count in zip(stages[1:], (12, 6), strict=True):
        found = top([score[i] for i in left], count)
        assert stage.kept == sorted(found)
        left = [left[i] for i in sorted(found)]


def logits(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """q·k / √D as far as softmax rows need them; patches and class token alike."""
    found: np.ndarray = query @ key.T / math.sqrt(query.shape[1])
    return found


# ------------------------------------------------------------------------------------------------------------------ AIM
def test_aim() -> None:
    """Two rounds of ToMe on the tokens themselves, by plain means; then a PageRank over the layer before the stage."""
    stages, _ = run("aim", {})
    first, second = stages[:2]
    x = first.before
    ones = [1.0] * N
    kept, matrix, _ = merging.tome(ones, selection.tome_pairs(x, N // 2))
    assert first.kept == kept == list(range(1, N, 2))
    assert np.allclose(first.rows, matrix @ x, atol=1e-5)
    half = matrix @ x
    assert np.allclose(second.before, half, atol=1e-5)
    again, smaller, _ = merging.tome(ones[: N // 2], selection.tome_pairs(half, N // 4))
    assert second.kept == again
    assert np.allclose(second.rows, smaller @ half, atol=1e-5)
    counts = [len(s.kept) for s in stages[2:-1]]
    assert counts == sorted(counts, reverse=True)
    assert stages[-1].done.kept.mask.sum() == 0


# ------------------------------------------------------------------------------------------------------------- PruMerge
def one_head(batch: dict[str, torch.Tensor]) -> tuple[list[float], np.ndarray]:
    """The class token's row of attention by one head of the full width, scaled to sum 1 over the patches, and the
    patches' keys."""
    query, key = (values.reshape(len(values), -1) for values in tower(batch, -1))
    score = attention.prumerge(query, key)
    return [s / sum(score) for s in score], key[1:]


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_as_many_as_stand_out(name: str) -> None:
    """And the row of all others."""
    (stage,), batch = run(name, {})
    outliers = counts.iqr_outliers(one_head(batch)[0])
    assert outliers > 1
    assert len(stage.kept) == (4 * outliers if name == "prumerge_plus" else outliers) + 1


@pytest.mark.parametrize("parity", [False, True])
def test_prumerge(parity: bool) -> None:
    (stage,), batch = run("prumerge", {0: "1/4"}, parity, neighbours=5)
    score, keys = one_head(batch)
    chosen = sorted(top(score, 8))
    rest = [i for i in range(N) if i not in chosen]
    extra = max(rest, key=lambda i: score[i])
    matrix = merging.prumerge(keys, score, chosen, 5)
    assert stage.kept == sorted([*chosen, extra])
    expected = merged(matrix if parity else merging.rows_to_one(matrix), batch)
    for row, token in enumerate([*chosen, extra]):
        assert np.allclose(stage.rows[stage.kept.index(token)], expected[row], atol=1e-5)


def test_prumerge_plus() -> None:
    """4 that stand out, 13 evenly spaced over the others to the end, 1 for all that is left."""
    (stage,), batch = run("prumerge_plus", {0: "1/2"}, neighbours=5)
    score, keys = one_head(batch)
    first = top(score, 4)
    others = [i for i in range(N) if i not in first]
    chosen = sorted([*first, *(others[p] for p in selection.stride(len(others), 13))])
    rest = [i for i in range(N) if i not in chosen]
    extra = max(rest, key=lambda i: score[i])
    assert stage.kept == sorted([*chosen, extra])
    expected = merged(merging.rows_to_one(merging.prumerge(keys, score, chosen, 5)), batch)
    for row, token in enumerate([*chosen, extra]):
        assert np.allclose(stage.rows[stage.kept.index(token)], expected[row], atol=1e-5)


# ---------------------------------------------------------------------------------------------- Recoverable Compression
def test_recoverable_compression() -> None:
    """8 by the class token, 7 by the question, 2 centres that take in 6 of the others each, 1 for all that is left."""
    (stage,), batch = run("recoverable_compression", {0: {"rule": "outlier", "fit": "1/2"}}, neighbours=6)
    score, keys = one_head(batch)
    x = stage.before
    rows, real = stage.view.text("projected")
    words = array(rows[0][real[0]]).mean(0)
    alike = [cosine(row, words) for row in x]
    vision = top(score, 8)
    left = [i for i in range(N) if i not in vision]
    text = [left[p] for p in top([alike[i] for i in left], 7)]
    left = [i for i in left if i not in text]
    centres = [left[p] for p in top([score[i] for i in left], 2)]
    dropped = [i for i in left if i not in centres]
    extra = max(dropped, key=lambda i: score[i])
    assert stage.kept == sorted([*vision, *text, *centres, extra])
    for token in (*vision, *text):
        assert np.allclose(stage.rows[stage.kept.index(token)], x[token], atol=1e-6)
    for token in centres:
        others = [i for i in left if i != token]
        near = [others[p] for p in top([cosine(keys[token], keys[i]) + 50 * 768**-0.5 * alike[i] for i in others], 6)]
        weights = np.array([float(i == token) + (score[i] if i in near else 0) for i in range(N)])
        expected = merged(merging.rows_to_one(weights[None]), batch)[0]
        assert np.allclose(stage.rows[stage.kept.index(token)], expected, atol=1e-5)
    mean = merged(merging.residual(score, [i for i in range(N) if i not in dropped]), batch)[0]
    assert np.allclose(stage.rows[stage.kept.index(extra)], mean, atol=1e-5)


def test_recoverable_compression_counts_outliers_three_times() -> None:
    """Each time among what is left; the residual row comes on top of the last."""
    (stage,), batch = run("recoverable_compression", {}, neighbours=6)
    score, _ = one_head(batch)
    rows, real = stage.view.text("projected")
    words = array(rows[0][real[0]]).mean(0)
    alike = [cosine(row, words) for row in stage.before]
    left, chosen, found = list(range(N)), list[int](), list[int]()
    for values, near in ((score, 20), (alike, 20), (score, 10)):
        there = [values[i] for i in left]
        found.append(max(1, counts.lof_outliers(there, near) + (near == 10)))
        best = [left[p] for p in top(there, found[-1])]
        chosen, left = [*chosen, *best], [i for i in left if i not in best]
    centres = chosen[found[0] + found[1] :][: found[2] - 1]
    chosen = [*chosen[: found[0] + found[1]], *centres]
    extra = max((i for i in range(N) if i not in chosen), key=lambda i: score[i])
    assert sum(found) > 3
    assert stage.kept == sorted([*chosen, extra])
