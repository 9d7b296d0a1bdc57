"""What no trial could mend is said before the first one: unreachable bounds, no trials, no time."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input_support import edit, errors
from conftest_cli import cli

BOUND = "exact_match >= 0.97 * baseline"
UNREACHABLE = [
    ("budget <= 0.05", "the lowest budget it can reach is 0.25"),
    ("kv_bytes <= 0.01 * baseline", "the lowest kv_bytes it can reach is 0.25 * baseline"),
    ("kv_bytes <= 3000", "the lowest kv_bytes it can reach is "),
    ("prefill_flops <= 0.05 * baseline", "the lowest prefill_flops it can reach is 0."),
    ("budget <= baseline - 90 points", "the lowest budget it can reach is 0.25"),
]


@pytest.mark.parametrize(("bound", "says"), UNREACHABLE, ids=[b for b, _ in UNREACHABLE])
def test_a_bound_beyond_the_space_is_said_with_what_it_can_reach(case: Path, bound: str, says: str) -> None:
    edit(case, "spec.yaml", BOUND, bound)
    (found,) = errors(case)
    assert f"no policy of the space can meet it: {says}" in found["message"]
    assert (found["line"], found["path"]) == (11, "constraints[0]")


def test_a_search_says_it_before_anything_is_written(case: Path) -> None:
    edit(case, "spec.yaml", BOUND, "budget <= 0.05")
    done = cli("search", str(case / "spec.yaml"), "--json")
    assert done.code == 2
    assert "no policy of the space can meet it" in done.json["errors"][0]["message"]
    assert not (case / ".autoprune").exists()


def test_a_budget_beyond_its_own_space_is_said_where_it_stands(case: Path) -> None:
    edit(case, "space.yaml", "[0.1, 0.6]", "[0.05, 0.2]")
    (found,) = errors(case)
    assert "no policy of the space can meet a budget of 0.2: the lowest it can reach is 0.25" in found["message"]
    assert (found["line"], found["file"].endswith("space.yaml")) == (3, True)


@pytest.mark.parametrize("bound", ["budget <= 0.26", "kv_bytes <= 0.3 * baseline", "prefill_flops <= 0.9 * baseline"])
def test_a_bound_within_reach_is_good(case: Path, bound: str) -> None:
    edit(case, "spec.yaml", BOUND, bound)
    done = cli("validate", str(case / "spec.yaml"), "--json")
    assert done.code == 0, done.out


@pytest.mark.parametrize(
    ("search", "column", "says"),
    [
        ("{trials: 0}", 18, "greater than or equal to 1"),
        ("{trials: -3}", 18, "greater than or equal to 1"),
        ("{time: 0s}", 16, "not a positive duration"),
        ("{time: 0}", 16, "not a positive duration"),
        ("{evaluation_timeout: 0m}", 30, "not a positive duration"),
    ],
)
def test_no_trials_and_no_time_are_bad_input(case: Path, search: str, column: int, says: str) -> None:
    edit(case, "spec.yaml", "name: case", f"name: case\nsearch: {search}")
    (found,) = errors(case)
    assert says in found["message"]
    assert (found["line"], found["column"]) == (3, column)


def test_no_trials_on_the_command_line_are_bad_input(case: Path) -> None:
    assert cli("search", str(case / "spec.yaml"), "--trials", "0").code == 2
    assert not (case / ".autoprune").exists()
