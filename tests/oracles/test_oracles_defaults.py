"""The constants that the sheets print, as the oracles' defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from oracles import attention, intrinsic, merging, schedules, selection, similarity

PUBLISHED: list[tuple[Callable[..., Any], dict[str, object]]] = [
    (attention.aim, {"hops": 5, "temperature": 0.1}),  # D6
    (attention.ptp, {"a": 0.5}),  # B12
    (attention.catp_stage_2, {"weight": 0.6}),  # C8
    (attention.hired_tiles, {"alpha": 0.5, "bands": False}),  # B3
    (attention.hired_budgets, {"alpha": 0.5}),  # B3
    (attention.zero_tprune, {"band": (0.01, 0.7)}),  # B13
    (similarity.g_prune, {"threshold": 0.5, "temperature": 0.03, "hops": 5}),  # C5
    (similarity.catp_objective, {"weight": 0.7}),  # C8
    (similarity.catp_stage_1, {"weight": 0.7}),  # C8
    (similarity.saint_lm, {"threshold": 0.83, "neighbours": 5, "sharpness": 10.0}),  # B14
    (intrinsic.zoo_finite_differences, {"h": 0.01}),  # C4
    (selection.greedyprune, {"tau": 0.9}),  # C6
    (selection.mmtok_matrix, {"alpha": 0.5, "text_t": 0.02, "image_t": 0.2}),  # C3
    (selection.mmtok, {"alpha": 0.5}),  # C3
    (selection.dart, {"p_image": 4, "p_text": 4}),  # C7
    (selection.dart_release, {"p_image": 4, "p_text": 4}),  # C7
    (selection.dart_pivots, {"p_image": 4, "p_text": 4}),  # C7
    (selection.vispruner_peel, {"step": 8}),  # A8
    (selection.vispruner, {"share": 0.5}),  # A8
    (merging.prumerge, {"k": 32, "residual": True}),  # A6
    (merging.sparsevlm, {"share": 0.3, "per": 10}),  # A4
    (schedules.pyramid_drop, {"ratio": 0.5}),  # A3
    (schedules.aim, {"depth": 28, "first": 14, "last": 22}),  # D6
]


@pytest.mark.parametrize(("function", "constants"), PUBLISHED, ids=lambda v: getattr(v, "__name__", ""))
def test_defaults_are_the_published_constants(function: Callable[..., Any], constants: dict[str, object]) -> None:
    found = inspect.signature(function).parameters
    assert {name: found[name].default for name in constants} == constants
