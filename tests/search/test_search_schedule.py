"""A schedule and a form are a policy; on every shipped space the policies made of them can be carried out."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from space_support import middle, proposals

from autoprune.errors import BadInput
from autoprune.policy import catalog
from autoprune.search.schedule import Form, Schedule, schedule_of

HALF, THIRD, TENTH = Fraction(1, 2), Fraction(1, 3), Fraction(1, 10)
DECIDE = {"autoprune_2025", "sparsity_meets_similarity", "saint_llm", "todre"}  # count rules
RESTORE = {"lvlm_csp"}


def test_keeps_that_would_rise_keep_what_is_there():
    made = Schedule.of(8, {4: HALF, 2: THIRD, 6: TENTH})
    assert made.steps == ((2, THIRD), (6, TENTH))
    assert made.layers == (1, 1, *[THIRD] * 4, *[TENTH] * 2)
    assert Schedule.of_layers(made.layers) == made


def test_a_cut_holds_for_every_later_layer():
    made = Schedule.of(8, {1: HALF, 4: THIRD, 6: TENTH})
    assert made.cut(2, Fraction(1, 5)) == Schedule.of(8, {1: HALF, 2: Fraction(1, 5), 6: TENTH})
    assert made.cut(5, HALF) == made


@pytest.mark.parametrize("steps", [((2, HALF), (2, THIRD)), ((2, HALF), (3, HALF)), ((8, HALF),), ((0, Fraction(1)),)])
def test_a_schedule_falls_inside_the_model(steps):
    with pytest.raises(ValueError, match="falls from layer to layer"):
        Schedule(8, steps)


def test_the_budget_is_that_of_whole_tokens_where_their_number_is_known():
    made = Schedule.of(4, {2: THIRD})
    assert made.budget() == Fraction(2 + 2 * THIRD, 4)
    assert made.budget(4) == Fraction(4 + 4 + 1 + 1, 16)


def test_the_nearest_stage_before_a_layer_is_its_template():
    space = proposals("two_stage_mixed")
    values = {**middle(space), "l1": 6, "l2": 0.5}
    form = Form.of(space.filled(values), space.depth, space.sites, space.tokens)
    assert space.sites == (0, *range(2, 25))
    assert [layer for layer, _ in form.templates][:2] == [0, 6]
    second = form.templates[2][0]
    made = form.document(Schedule.of(32, {0: HALF, 3: THIRD, second + 1: TENTH}))
    assert [s["at"] for s in made["stages"]] == ["projector", "llm:3", f"llm:{second + 1}"]
    assert [s["score"] for s in made["stages"]][::2] == ["cls", "last"]
    assert "mix" in made["stages"][1]["score"]


def test_several_stages_before_the_model_stay_as_they_are():
    space = proposals("aim")
    values = middle(space)
    form = Form.of(space.filled(values), space.depth, space.sites, space.tokens)
    assert 0 not in form.layers
    made = form.document(Schedule.of(32, {10: TENTH}))
    assert made["stages"][:2] == space.filled(values)["stages"][:2]
    assert made["stages"][2]["at"] == "llm:10"
    kept = schedule_of(space.free(made).canonical, space.tokens)
    assert kept.at(1) == form.start.at(0)
    assert form.document(kept) == form.document(Schedule.of(32, {10: kept.at(10)}))


def test_a_layer_that_the_space_does_not_allow_is_bad_input():
    space = proposals("g_search")
    form = Form.of(space.filled(middle(space)), space.depth, space.sites, space.tokens)
    assert form.layers == (2, 8, 12, 16, 20, 24, 28)
    assert form.places(6) == (2, 8, 16, 24)
    with pytest.raises(BadInput, match="no stage is allowed before layer 3"):
        form.document(Schedule.of(32, {3: HALF}))


@pytest.mark.parametrize("name", [n for n in catalog.names("search_spaces") if n not in DECIDE | RESTORE | {"arms"}])
@pytest.mark.parametrize("shape", [(32, 576), (8, 144)], ids=["7b", "reference"])
def test_schedules_are_policies_of_every_plain_space_and_are_read_back(name, shape):
    space = proposals(name, *shape)
    depth, tokens = shape
    form = Form.of(space.filled(middle(space)), depth, space.sites, tokens)
    assert form.layers
    assert set(form.layers) <= set(space.sites)
    rng = random.Random(name)
    for _ in range(6):
        chosen = rng.sample(form.layers, rng.randint(1, len(form.layers)))
        asked = Schedule.of(depth, {layer: Fraction(rng.randint(1, tokens - 1), tokens) for layer in chosen})
        made = space.free(form.document(asked))
        expected = form.start
        for layer, keep in asked.steps:
            expected = expected.cut(layer, keep)
        assert schedule_of(made.canonical, tokens) == expected
        assert space.costs(made)["budget"] == pytest.approx(float(expected.budget(tokens)))


@pytest.mark.parametrize("name", sorted(DECIDE | RESTORE))
def test_spaces_whose_counts_follow_from_the_image_are_refused_with_a_reason(name):
    space = proposals(name)
    with pytest.raises(BadInput, match=r"decides|brings tokens back"):
        Form.of(space.filled(middle(space)), space.depth, space.sites, space.tokens)
