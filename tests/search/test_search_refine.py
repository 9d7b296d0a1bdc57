"""Moves around a schedule stay at its budget, make policies, and one of them gives nearly every layer its own keep."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from space_support import middle, proposals

from autoprune.search.refine import refine
from autoprune.search.schedule import Form, Schedule, schedule_of
from autoprune.search.table import Table

SHAPES = [(8, 144), (32, 576)]


def form_of(space: str, depth: int, tokens: int) -> Form:
    known = proposals(space, depth, tokens)
    return Form.of(known.filled(middle(known)), depth, known.sites, tokens)


def schedules(depth: int) -> list[Schedule]:
    quarter = depth // 4
    return [
        Schedule.of(depth, {quarter: Fraction(1, 4)}),
        Schedule.of(depth, {quarter: Fraction(1, 2), 2 * quarter: Fraction(1, 4), 3 * quarter: Fraction(1, 8)}),
        Schedule.of(depth, {1: Fraction(7, 10), depth - depth // 8: Fraction(1, 3)}),
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", range(3))
def test_every_move_is_another_policy_of_at_most_the_same_budget(shape, number):
    depth, tokens = shape
    known, form = proposals("p_sigmoid", depth, tokens), form_of("p_sigmoid", depth, tokens)
    start = schedules(depth)[number].on(tokens)
    made = refine(start, form, tokens)[:12]
    assert 8 < len(made) == len(set(made)) <= 12
    assert start not in made
    for schedule in made:
        assert start.budget(tokens) - Fraction(1, depth) < schedule.budget(tokens) <= start.budget(tokens)
        assert schedule_of(known.free(form.document(schedule)).canonical, tokens) == schedule


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", range(3))
def test_one_move_gives_half_of_all_layers_keeps_of_their_own(shape, number):
    depth, tokens = shape
    start = schedules(depth)[number]
    made = refine(start, form_of("p_sigmoid", depth, tokens), tokens)
    best = max(made, key=lambda schedule: len(set(schedule.layers)))
    assert len(set(best.layers)) >= depth / 2
    assert best.budget(tokens) == pytest.approx(start.budget(tokens), abs=1 / tokens)


def test_the_same_seed_makes_the_same_moves():
    form, start = form_of("p_sigmoid", 32, 576), schedules(32)[1]
    assert refine(start, form, 576, seed=3) == refine(start, form, 576, seed=3)
    assert refine(start, form, 576, seed=3) != refine(start, form, 576, seed=4)


def test_a_table_says_which_moves_to_try():
    """Layer 8 is dear: what the table foresees falls, and less is dropped there."""
    form, start = form_of("p_sigmoid", 32, 576), Schedule.of(32, {8: Fraction(1, 4)})
    keeps = (Fraction(1), Fraction(1, 2), Fraction(1, 8), Fraction(1, 576))
    dear = [[0, 9, 20, 60] if layer == 8 else [0, 1, 3, 9] for layer in form.layers]
    table = Table.of(form.layers, keeps, np.array(dear, dtype=float))
    guided = refine(start, form, 576, table)[:6]
    damages = [table.of_schedule(schedule) for schedule in guided]
    assert min(damages) < 0.2 * table.of_schedule(start)
    assert min(guided, key=table.of_schedule).at(8) > start.at(8)
    blind = [table.of_schedule(schedule) for schedule in refine(start, form, 576)[:6]]
    assert sum(damages) < sum(blind)


def test_only_admitted_layers_are_cut():
    form = form_of("g_search", 32, 576)
    start = Schedule.of(32, {8: Fraction(1, 2), 16: Fraction(1, 4)})
    for schedule in refine(start, form, 576)[:20]:
        assert {layer for layer, _ in schedule.steps} <= set(form.layers)
        assert schedule.budget(576) <= start.budget(576)


def test_a_front_that_is_left_alone_bounds_what_enters():
    known = proposals("aim", 32, 576)
    form = Form.of(known.filled(middle(known)), 32, known.sites, 576)
    top = form.start.layers[-1]
    start = Schedule.of(32, {form.layers[2]: top / 2}).on(576)
    for schedule in refine(start, form, 576):
        kept = schedule_of(known.free(form.document(schedule)).canonical, 576)
        assert kept.layers[-1] == schedule.layers[-1] < top
    again = refine(kept, form, 576)
    assert again
    assert all(kept.budget(576) >= with_front(schedule, top) for schedule in again)


def with_front(schedule: Schedule, top: Fraction) -> Fraction:
    """With `top` entering the model."""
    return schedule.cut(0, top).budget(576)


def test_a_schedule_that_the_form_cannot_make_is_refused():
    with pytest.raises(ValueError, match="no stage before layers \\[3\\]"):
        refine(Schedule.of(32, {3: Fraction(1, 2)}), form_of("g_search", 32, 576), 576)


def test_without_a_number_of_tokens_keeps_are_thousandths():
    form = form_of("p_sigmoid", 8, 144)
    start = schedules(8)[1]
    for schedule in refine(start, form, None):
        assert schedule.budget() <= start.budget()
        assert all(keep.denominator in {d for d in range(1, 1001) if 1000 % d == 0} for _, keep in schedule.steps)


def test_a_schedule_that_keeps_everything_or_hardly_anything_has_no_broken_neighbours():
    form = form_of("p_sigmoid", 8, 144)
    assert refine(Schedule(8), form, 144) == []
    for schedule in refine(Schedule.of(8, {1: Fraction(1, 144)}), form, 144):
        assert schedule.layers[-1] >= Fraction(1, 144)
