"""Every selector against a plain loop over its definition, and what all of them keep."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from selector_loops import CASES, SMOOTH, UNSCORED, every_variant, label
from selector_worlds import (
    QUOTAS,
    WIDTH,
    Run,
    make,
    mask,
    padded,
    tasks,
    view_of,
)

from autoprune.pruning.greedy import unit_interval
from autoprune.pruning.view import Quota

SEEDS = [1, 2]


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after-others"])
@pytest.mark.parametrize("kind", ["ties", "loose"])
@pytest.mark.parametrize(("name", "params", "plain"), CASES, ids=label)
def test_a_selector_is_its_definition(
    name: str, params: dict[str, Any], plain: Callable[..., list[int]], kind: str, earlier: bool
) -> None:
    check(name, params, plain, kind, earlier)


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after-others"])
@pytest.mark.parametrize(("name", "params", "plain"), SMOOTH, ids=label)
def test_a_smooth_gain_is_its_definition(
    name: str, params: dict[str, Any], plain: Callable[..., list[int]], earlier: bool
) -> None:
    check(name, params, plain, "loose", earlier)


def check(name: str, params: dict[str, Any], plain: Callable[..., list[int]], kind: str, earlier: bool) -> None:
    run = Run(name, params)
    for seed, wanted in itertools.product(SEEDS, QUOTAS):
        for scored in (True, False) if name in UNSCORED and not params.get("score_weight") else (True,):
            batch = tasks(make(kind, seed), wanted, earlier, scored)
            found = run(batch)
            assert found == [plain(task, **params) for task in batch], (seed, wanted, scored)
            if seed == SEEDS[0]:  # batch = singles
                assert found == [run([task], len(task.sample.scores))[0] for task in batch]


GREEDY = [c for c in CASES if c[0] in ("top", "far", "spread", "far_times_score", "nms")] + SMOOTH


@pytest.mark.parametrize(("name", "params", "plain"), GREEDY, ids=label)
def test_greedy_sets_are_nested_and_two_picks_in_a_row_are_one(name: str, params: dict[str, Any], plain: Any) -> None:
    run = Run(name, params)
    for seed in SEEDS:
        samples = make("loose", seed)
        before: list[list[int]] = [[], [], []]
        for k in range(1, 8):
            batch = tasks(samples, [k, k, k], False)
            together = run(batch)
            assert all(set(b) < set(t) for b, t in zip(before, together, strict=True))
            one_more = [replace(t, taken=b, k=1) for t, b in zip(batch, before, strict=True)]
            assert [sorted(b + n) for b, n in zip(before, run(one_more), strict=True)] == together
            before = together


@pytest.mark.parametrize(("name", "params"), every_variant(), ids=label)
def test_choosing_never_waits_for_the_device(name: str, params: dict[str, Any]) -> None:
    """Tensors without data raise wherever the host asks for a value."""
    samples = make("loose", 1)
    real = view_of(samples)
    meta: Callable[[torch.Tensor], torch.Tensor] = lambda t: t.to("meta")  # noqa: E731
    tensors: dict[str, Any] = {
        key: meta(getattr(real, key)) for key in ("hidden", "valid", "candidates", "tokens", "place", "mass")
    }
    view = replace(
        real,
        **tensors,
        provide=lambda signal: meta(real.provide(signal)),
        text=lambda space: (meta(real.text(space)[0]), meta(real.text(space)[1])),
    )
    run = Run(name, params)
    quota = Quota(torch.tensor([3, 4, 2], device="meta"), 4, 2, 2)
    scores = meta(padded([s.scores for s in samples], WIDTH))
    taken = meta(mask([[0], [2, 3], []], WIDTH))
    chosen = run.info.run(view, scores, quota, view.candidates & ~taken, taken, run.config)
    assert chosen.shape == (3, WIDTH)


def test_scores_that_are_not_numbers_never_win() -> None:
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[1.0, nan, -inf, 3.0, inf, 2.0, 99.0]])
    candidates = torch.tensor([[True, True, True, True, True, True, False]])
    assert unit_interval(scores, candidates)[0].tolist() == [0, 0, 0, 1, 1, 0.5, 0]
    assert unit_interval(torch.tensor([[nan, nan]]), torch.tensor([[True, True]]))[0].tolist() == [1, 1]
