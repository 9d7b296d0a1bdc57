"""The selectors' formulas for floating-point operations: what a run executes, and by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from selector_loops import every_variant, label
from selector_worlds import (
    SITE,
    Run,
    make,
    mask,
    view_of,
)
from torch.utils.flop_counter import FlopCounterMode

from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.pruning import parts
from autoprune.pruning.view import Quota

VISION = VisionGeometry(depth=3, width=8, heads=2, mlp=16, image_size=16, patch_size=4, has_cls=True)


def sizes(width: int, current: int, kept: int, text: int, scored: bool = True, earlier: int = 0) -> parts.Sizes:
    geometry = Geometry("llava", 6, width, 4, 2, 3, 20, 50, VISION, 16, projector_width=8)
    return parts.Sizes(geometry, SITE, current, kept, (current,) * 6, text, 1, scored, earlier)


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after-others"])
@pytest.mark.parametrize(("name", "params"), every_variant(), ids=label)
def test_the_formula_is_what_a_run_executes(name: str, params: dict[str, Any], earlier: bool) -> None:
    run = Run(name, params)
    for scored, k in itertools.product((True, False), (1, 5, 9)):
        if not scored and ("score" in run.info.needs or params.get("score_weight")):
            continue
        sample = make("loose", 4)[1]  # nothing protected: all that is there is free
        taken = [2, 5, 11] if earlier else []
        view = view_of([sample], 20, prompt=4)
        quota = Quota(torch.tensor([k]), k, k, len(taken))
        scores = torch.tensor([sample.scores]) if scored else None
        picked = mask([taken], 20)
        with FlopCounterMode(display=False) as counter:
            run.info.run(view, scores, quota, ~picked, picked, run.config)
        expected = run.info.flops(run.config, sizes(8, 20, k, 4, scored, len(taken)))
        assert counter.get_total_flops() == expected, (scored, k)


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("spread", {"space": "encoder"}, 2 * (5 + 1) * 16 * 8),
        ("far_times_score", {}, 2 * (5 + 16) * 16 * 10),
        ("nms", {"space": "encoder"}, 2 * (5 + 16) * 16 * 8),
        ("cover", {}, 2 * 16 * (3 * 10 + 16 * 8)),
        ("cover", {"text_weight": 0, "space": "projected"}, 2 * 16 * 16 * 10),
        ("dpp", {}, 7 * 2 * 16 * 8 + 7 * 6 * 16),  # two of an earlier pick, five here
        ("pivot", {}, 2 * (4 + 3) * 16 * 10),
        ("peel", {}, 2 * 16 * 16 * 8),
        ("peel", {"by": "sum", "space": "hidden"}, 2 * 16 * 16 * 10),
    ],
    ids=str,
)
def test_flops_by_hand(name: str, params: dict[str, Any], expected: int) -> None:
    run = Run(name, params)
    assert run.info.flops(run.config, sizes(10, 16, 5, 3, earlier=2)) == expected
