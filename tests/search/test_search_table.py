"""A table of damages: smoothed where noise makes it fall, interpolated between entries, solved for every budget."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import pytest

from autoprune.search.schedule import Schedule
from autoprune.search.table import Table, smoothed, solve

NAN, INF = float("nan"), float("inf")
KEEPS = (Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))


def of(*rows: list[float], layers: tuple[int, ...] | None = None) -> Table:
    return Table.of(layers or tuple(range(1, len(rows) + 1)), KEEPS, np.array([[0.0, *row] for row in rows]))


@pytest.mark.parametrize(
    ("found", "made"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([2, 1, 3], [1.5, 1.5, 3]),  # neighbours that fall share their mean
        ([3, 2, 1], [2, 2, 2]),
        ([-1, 1, 3], [0, 1, 3]),  # better than the unpruned model is noise
        ([1, NAN, 4], [1, 2, 4]),  # linear in 1/keep, which is 2, 4, 8
        ([NAN, 3, NAN], [1, 3, INF]),  # nothing is known below the last answer
        ([INF, NAN, NAN], [INF, INF, INF]),
    ],
)
def test_a_layers_damage_never_falls_as_less_stays(found, made):
    assert smoothed(np.array([0.0, *found]), KEEPS).tolist() == pytest.approx([0, *made])


def test_smoothing_is_the_nearest_curve_that_never_falls():
    rng = np.random.default_rng(3)
    for _ in range(5):
        found = rng.normal(1, 1, 3)
        made = smoothed(np.array([0.0, *found]), KEEPS)[1:]
        grid = np.linspace(0, 4, 41)
        others = [np.array(o) for o in combinations_with_replacement(grid, 3)]
        assert ((made - found) ** 2).sum() <= min(((o - found) ** 2).sum() for o in others) + 1e-9


def test_between_entries_the_table_is_linear_in_the_layer_and_in_one_over_keep():
    table = of([1, 2, 3], [3, 6, 9], layers=(2, 4))
    made = table.at([1, 2, 3, 6], [Fraction(1), Fraction(1, 4), Fraction(1, 8)])
    assert made.tolist() == [[0, 2, 3], [0, 2, 3], [0, 4, 6], [0, 6, 9]]
    assert table.at([2], [Fraction(1, 2), Fraction(1, 10)]).tolist() == [[1, INF]]
    assert table.at([2], [Fraction(1, 3)]).tolist() == [[1.5]]


def test_the_stage_before_the_model_tells_nothing_of_those_inside():
    table = of([5, 5, 5], [1, 2, 3], layers=(0, 4))
    assert table.at([0, 1], [Fraction(1, 2)]).tolist() == [[5], [1]]
    assert of([1, 2, 3], layers=(4,)).at([0], KEEPS).tolist() == [[0, INF, INF, INF]]


def test_a_layer_without_answers_is_never_cut_and_one_between_answers_is_guessed():
    table = of([1, 2, 3], [NAN, NAN, NAN], [3, 4, 5])
    assert table.at([1, 2, 3], [Fraction(1, 2)]).tolist() == [[1], [INF], [3]]


def test_damages_of_a_schedule_add_up():
    table = of([1, 2, 3], [1, 3, 9], [2, 4, 6])
    assert table.of_schedule(Schedule.of(8, {1: KEEPS[1], 3: KEEPS[3]})) == 1 + (6 - 2)
    assert table.of_schedule(Schedule.of(8, {})) == 0


def test_a_layer_with_a_ranking_of_its_own_harms_as_if_it_were_the_first():
    table = of([1, 2, 3], [20, 22, 27])
    assert table.of_schedule(Schedule.of(8, {1: KEEPS[1], 2: KEEPS[2]})) == 1 + 20
    cut = table.cuts([1, 2], KEEPS)
    assert (cut[0, 0, 1], cut[0, 1, 2], cut[1, 1, 2], cut[1, 1, 3]) == (1, 1, 20, 22)
    assert of([1, NAN, NAN]).cuts([1], KEEPS)[0, 0].tolist() == [0, 1, INF, INF]


@pytest.mark.parametrize("tokens", [64, None])
def test_every_budget_has_its_best_schedule(tokens):
    rng = np.random.default_rng(5)
    table = of(*np.cumsum(rng.random((4, 3)), axis=1).tolist())
    solved = solve(table, 5, table.layers, tokens)
    every = [
        Schedule.of(5, dict(zip(range(1, 5), keeps, strict=True)))
        for keeps in combinations_with_replacement(solved.keeps, 4)
    ]
    costs = [(s.budget(tokens), table.of_schedule(s)) for s in every]
    for budget in (Fraction(3, 10), Fraction(2, 5), Fraction(3, 5), Fraction(9, 10)):
        made = solved.schedule(budget)
        assert made is not None
        assert made.budget(tokens) <= budget
        assert solved.damage(budget) == pytest.approx(min(damage for b, damage in costs if b <= budget))
        assert table.of_schedule(made) == pytest.approx(solved.damage(budget))
    assert solved.schedule(solved.lowest) is not None
    assert solved.schedule(solved.lowest - Fraction(1, 1000)) is None


def test_only_admitted_layers_are_cut():
    table = of([1, 2, 3], [0, 0, 0], [2, 4, 6])
    made = solve(table, 6, (1, 3), 64).schedule(Fraction(1, 2))
    assert made is not None
    assert {layer for layer, _ in made.steps} <= {1, 3}
