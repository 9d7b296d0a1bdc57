"""Selectors on worlds one can see through, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from selector_loops import plain_dpp
from selector_worlds import (
    SPACES,
    TEXT_SPACES,
    Row,
    Run,
    Sample,
    Task,
    make,
    tasks,
)

from autoprune.document.yaml import parse, write
from autoprune.errors import BadInput
from autoprune.policy.document import Policy
from autoprune.pruning.lookup import RegisteredParts


def line(scores: list[float], rows: list[list[float]], text: list[list[float]] | None = None) -> Sample:
    prompt = text or [[1.0, 0.0]]
    return Sample(dict.fromkeys(SPACES, rows), dict.fromkeys(TEXT_SPACES, prompt), scores, list(range(len(rows))))


def choose(name: str, sample: Sample, k: int, scored: bool = True, **params: Any) -> list[int]:
    (found,) = Run(name, params)([Task(sample, [], k, sample.scores if scored else None)], len(sample.scores))
    return found


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def test_spread_adds_distances_up_where_far_takes_the_nearest() -> None:
    sample = line([3.0, 2.0, 1.0, 0.0], [EAST, WEST, WEST, NORTH])
    assert choose("far", sample, 3) == [0, 1, 3]
    assert choose("spread", sample, 3) == [0, 1, 2]  # to both together, west is as unlike as north


def test_far_times_score_weighs_distance() -> None:
    sample = line([1.0, 0.9, 0.5, 0.0], [EAST, EAST, NORTH, WEST])
    assert choose("far_times_score", sample, 2) == [0, 2]  # .9·0, .5·1, 0·2
    alike = line([2.0, 2.0, 2.0, 2.0], [EAST, EAST, NORTH, WEST])
    assert choose("far_times_score", alike, 2) == choose("far", alike, 2) == [0, 3]


def test_nms_lets_equals_of_the_threshold_pass_and_fills_up_by_score() -> None:
    sample = line([5.0, 4.0, 3.0, 2.0, 1.0], [EAST, EAST, NORTH, EAST, WEST])
    assert choose("nms", sample, 3, tau=0.5) == [0, 2, 4]
    assert choose("nms", sample, 4, tau=0.5) == [0, 1, 2, 4]
    assert choose("nms", sample, 3, tau=0) == [0, 2, 4]
    assert choose("nms", sample, 2, tau=-0.1) == [0, 4]
    assert choose("nms", sample, 3, tau=1) == [0, 1, 2]


def test_cover_answers_the_prompt_before_the_picture() -> None:
    sample = line([0.0] * 5, [EAST, EAST, EAST, NORTH, WEST], text=[NORTH, NORTH])
    assert choose("cover", sample, 1) == [3]
    assert choose("cover", sample, 2) == [0, 3]
    assert choose("cover", sample, 3, text_weight=0) == [0, 3, 4]  # those like the first are covered
    assert choose("cover", sample, 1, kernel="cosine", text_weight=0) == [0]  # most tokens look like it
    assert choose("cover", sample, 1, vision_weight=0) == [3]


def test_dpp_takes_no_direction_twice_and_then_goes_by_relevance() -> None:
    sample = line([0.1, 1.0, 0.9, 0.2, 0.3], [NORTH, EAST, EAST, NORTH, WEST])
    assert choose("dpp", sample, 2) == [1, 3]
    assert choose("dpp", sample, 3) == [1, 2, 3]
    assert choose("dpp", sample, 4) == [1, 2, 3, 4]
    assert choose("dpp", sample, 2, scored=False) == [0, 1]


def test_dpp_knows_what_is_spanned_near_the_rank_of_its_space() -> None:
    """Half of the directions are short: in float32 a spanned token seems to add something. Alone or in a batch."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 36, 6, generator=generator) * torch.tensor([1, 1, 1, 0.1, 0.1, 0.1])
    scores = torch.rand(200, 36, generator=generator) ** 4
    text: dict[str, list[Row]] = {key: [[1.0] * 6] for key in TEXT_SPACES}
    worlds = [
        Sample(dict.fromkeys(SPACES, rows[i].tolist()), text, scores[i].tolist(), list(range(36))) for i in (24, 159, 0)
    ]
    wanted = [Task(sample, [], 20, sample.scores) for sample in worlds]
    run = Run("dpp", {"space": "encoder"})
    together = run(wanted, 36)
    assert together == [run([task], 36)[0] for task in wanted] == [plain_dpp(task, "encoder") for task in wanted]


def test_pivot_keeps_exactly_k_where_dart_rounds() -> None:
    rows = [[math.cos(a), math.sin(a)] for a in (0.0, 0.1, 0.2, 1.5, 3.0, 3.1, -1.5)]
    sample = line([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], rows, text=[[0.1, 9.0], [0.0, 1.0]])
    assert choose("pivot", sample, 1, image=1, text=1) == [0]
    assert choose("pivot", sample, 2, image=1, text=1) == [0, 5]  # the image pivot's turn: west
    assert choose("pivot", sample, 3, image=1, text=1) == [0, 5, 6]  # the louder word points north: south
    assert choose("pivot", sample, 4, image=1, text=1) == [0, 4, 5, 6]


def test_peel_drops_the_more_duplicated_side_first() -> None:
    sample = line([4.0, 3.0, 2.0, 1.0], [EAST, WEST, NORTH, WEST])
    assert choose("peel", sample, 3, split="half") == [0, 1, 2]  # west below, west above
    assert choose("peel", sample, 3, split="alternate") == [0, 1, 3]  # east and north are equals: the later goes
    assert choose("peel", sample, 3, split="full", by="sum") == [0, 1, 2]  # the wests are alike: the later goes
    turned = line([4.0, 3.0, 2.0, 1.0], [WEST, EAST, NORTH, WEST])
    assert choose("peel", turned, 3, scored=False) == [1, 2, 3]


@pytest.mark.parametrize("name", ["top", "far_times_score", "nms", "pivot"])
def test_a_selector_that_ranks_needs_a_score(name: str) -> None:
    (task,) = tasks(make("loose", 1)[:1], [2], False, scored=False)
    with pytest.raises(BadInput, match=f"selector '{name}' needs a score"):
        Run(name)([task])
    assert said({"at": "llm:3", "keep": 0.5, "select": name}) == ["stages[0]", f"select: {name} needs a `score`"]


def test_a_score_weight_needs_a_score() -> None:
    (task,) = tasks(make("loose", 1)[:1], [2], False, scored=False)
    with pytest.raises(BadInput, match="score_weight needs a score"):
        Run("cover", {"score_weight": 0.7})([task])


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("nms", {"tau": 1.5}, "less than or equal to 1"),
        ("nms", {"tau": "half"}, "must be a number"),
        ("nms", {"tau": True}, "must be a number"),
        ("cover", {"text_temperature": 0}, "greater than 0"),
        ("cover", {"vision_weight": -1}, "greater than or equal to 0"),
        ("cover", {"kernel": "dot"}, "'softmax' or 'cosine'"),
        ("dpp", {"relevance_weight": 1}, "less than 1"),
        ("pivot", {"image": 0}, "greater than or equal to 1"),
        ("pivot", {"space": "pixels"}, "'hidden'"),
        ("peel", {"step": 0}, "greater than or equal to 1"),
        ("peel", {"step": 2.5}, "valid integer"),
        ("spread", {"tau": 1}, "tau"),
    ],
)
def test_wrong_parameters_are_said(name: str, params: dict[str, Any], says: str) -> None:
    path, message = said({"at": "llm:3", "keep": 0.5, "score": "random", "select": {name: params}})
    assert path == f"stages[0].select.{name}.{next(iter(params))}"
    assert says in message


def test_words_have_no_rows_of_the_tower() -> None:
    path, message = said({"at": "llm:3", "keep": 0.5, "score": "random", "select": {"pivot": {"space": "encoder"}}})
    assert path == "stages[0].select.pivot"
    assert "the prompt has no rows in the space `encoder`: set `text: 0`" in message


def test_covering_nothing_is_refused() -> None:
    stage = {"at": "llm:3", "keep": 0.5, "select": {"cover": {"text_weight": 0, "vision_weight": 0}}}
    assert "text_weight and vision_weight cannot both be 0" in said(stage)[1]


def said(stage: dict[str, Any]) -> list[str]:
    text = write({"schema": "autoprune/policy/1", "stages": [stage]})
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(text, "p.yaml"), RegisteredParts())
    (problem,) = caught.value.problems
    return [problem.path, problem.message]


def test_numbers_may_be_fractions() -> None:
    assert Run("nms", {"tau": "9/10"}).config == Run("nms").config
