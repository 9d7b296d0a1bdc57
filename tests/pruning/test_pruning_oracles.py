"""Parts against the oracles: float64 formulas written from the papers' sheets by someone who has not seen the parts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles import attention, merging, selection, similarity
from selector_worlds import SPACES, TEXT_SPACES, Run, Sample, Task, loose_rows, view_of

from autoprune.pruning import parts
from autoprune.pruning.stage import Kept

N = 20


def world(seed: int) -> Sample:
    """Random tokens of which none is protected."""
    dice = random.Random(seed)
    rows = {space: loose_rows(dice, N) for space in SPACES}
    text = {space: loose_rows(dice, 3) for space in TEXT_SPACES}
    return Sample(rows, text, [dice.random() for _ in range(N)], list(range(N)))


def array(rows: Any) -> Any:
    return np.array(rows, dtype=np.float64)


def select(name: str, params: dict[str, Any], sample: Sample, k: int, scored: bool = True) -> list[int]:
    (chosen,) = Run(name, params)([Task(sample, [], k, sample.scores if scored else None)])
    return chosen


def top_of(sample: Sample) -> int:
    return max(range(N), key=lambda i: sample.scores[i])


Oracle = Callable[[Sample, int], list[int]]
SELECTORS: list[tuple[str, dict[str, Any], bool, Oracle]] = [
    ("far", {}, False, lambda s, k: selection.divprune(array(s.rows["projected"]), k)),
    ("spread", {}, True, lambda s, k: selection.todre(array(s.rows["projected"]), k, top_of(s))),
    ("far_times_score", {}, True, lambda s, k: selection.zoo(s.scores, array(s.rows["projected"]), k)),
    ("nms", {"tau": 0.3}, True, lambda s, k: selection.greedyprune(s.scores, array(s.rows["projected"]), k, 0.3)),
    (
        "cover",
        {},
        False,
        lambda s, k: selection.mmtok(
            array(s.text["projected"]), array(s.rows["projected"]), array(s.rows["encoder"]), k
        ),
    ),
    (
        "peel",
        {"space": "encoder", "step": 4},
        True,
        lambda s, k: selection.vispruner_peel(array(s.rows["encoder"]), s.scores, range(N), k, 4),
    ),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "params", "scored", "oracle"), SELECTORS, ids=[case[0] for case in SELECTORS])
def test_selectors(name: str, params: dict[str, Any], scored: bool, oracle: Oracle, seed: int) -> None:
    sample = world(seed)
    for k in (1, 4, 9, 15):
        assert select(name, params, sample, k, scored) == sorted(oracle(sample, k))


def score(name: str, params: dict[str, Any], sample: Sample) -> list[float]:
    info = parts.find("criterion", name)
    assert info is not None
    return list(info.run(view_of([sample], N), info.config.model_validate(params))[0].tolist())


@pytest.mark.parametrize("seed", range(4))
def test_similarity_criteria(seed: int) -> None:
    sample = world(seed)
    graph = {"kernel": "softmax", "temperature": 0.03, "clip": 0.5, "from": "norm", "hops": 5, "by_degree": True}
    found = np.array(score("similarity", graph, sample))
    expected = np.array(similarity.g_prune(array(sample.rows["projected"])))
    assert np.allclose(found / found.sum(), expected / expected.sum(), atol=1e-5)  # the start's scale changes no order
    found = np.array(score("similarity", {"space": "hidden", "from": "last"}, sample))
    last = array(sample.text["hidden"])[-1]
    assert np.allclose(found, similarity.greedyprune_saliency(array(sample.rows["hidden"]), last), atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_duplicates_are_what_saint_drops(seed: int) -> None:
    sample = world(seed)
    for near, neighbours in ((0.1, 2), (0.3, 1), (0.83, 5)):
        params = {"space": "hidden", "near": near, "neighbours": neighbours}
        found = score("duplicates", params, sample)
        expected = similarity.saint_lm(array(sample.rows["hidden"]), near, neighbours)
        assert found == pytest.approx([-e for e in expected], rel=1e-4)
        assert any(expected) == (near < 0.8)


@pytest.mark.parametrize("seed", range(4))
def test_nearest_is_the_mean_over_the_tokens_that_join(seed: int) -> None:
    import torch

    sample = world(seed)
    kept = sorted(random.Random(seed).sample(range(N), 6))
    view = view_of([sample], N)
    mask = torch.zeros(1, N, dtype=torch.bool)
    mask[0, kept] = True
    index = torch.tensor([kept])
    given = Kept(mask, index, torch.ones_like(index, dtype=torch.bool), torch.zeros_like(index, dtype=torch.bool), None)
    info = parts.find("merger", "nearest")
    assert info is not None
    membership = info.run(view, given, info.config.model_validate({"space": "projected"}))[0]
    matrix = (membership / membership.sum(1, keepdim=True)).numpy()
    assert np.allclose(matrix, merging.nearest_mean(array(sample.rows["projected"]), kept), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_raters(seed: int) -> None:
    import torch

    from autoprune.pruning.decoder_walk import raters

    sample = world(seed)
    visual, text = sample.rows["projected"], sample.text["projected"]
    every = torch.ones(1, N, dtype=torch.bool), torch.ones(1, len(text), dtype=torch.bool)
    found = raters(torch.tensor([visual]), every[0], torch.tensor([text]), every[1])
    assert found[0].nonzero()[:, 0].tolist() == attention.sparsevlm_raters(array(visual), array(text))
