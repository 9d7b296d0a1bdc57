from __future__ import annotations

from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from autoprune.document.numbers import exact, text
from autoprune.document.problems import Problem, Problems, dotted, from_pydantic, suggest
from autoprune.document.yaml import parse
from autoprune.errors import BadInput


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    trials: int = 1
    mode: Literal["fast", "slow"] = "fast"


class _Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    search: _Inner | Literal["auto"] = "auto"
    list_of: list[_Inner] = []

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("that name is taken")
        return value


def _found(data: object) -> dict[str, Problem]:
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate(data)
    return {dotted(p.path): p for p in from_pydantic(caught.value, model=_Outer, data=data)}


def test_pydantic_findings_become_ours() -> None:
    found = _found({"nam": "x", "list_of": [{"trails": 2}, {"mode": "fats", "trials": "many"}]})
    assert found["nam"] == Problem(
        ("nam",), "unknown-key", "unknown key 'nam'; allowed: name, search, list_of; did you mean 'name'?", key=True
    )
    assert "name" not in found  # it is misspelt, not missing
    assert _found({"list_of": []})["name"].message == "the key 'name' is missing"
    assert found["list_of[0].trails"].message == "unknown key 'trails'; allowed: trials, mode; did you mean 'trials'?"
    assert found["list_of[1].mode"].message == "must be 'fast' or 'slow', not 'fats'; did you mean 'fast'?"
    assert "not 'many'" in found["list_of[1].trials"].message


def test_union_members_and_validators_leave_no_trace_in_the_path() -> None:
    found = _found({"name": "bad", "search": {"trails": 1}})
    assert found["name"].message == "that name is taken"
    assert "search.trails" in found


def test_problems_are_positioned_sorted_and_raised_together() -> None:
    source = parse("a: 0.97 * bas\nb: {c: 1}\n", "spec.yaml")
    problems = Problems()
    problems.add(("b", "c"), "conflict", "second", key=True)
    problems.add(("a",), "not-a-number", "first", offset=7)
    problems.add(("a",), "not-a-number", "first", offset=7)
    with pytest.raises(BadInput) as caught:
        problems.raise_for(source)
    assert str(caught.value) == "spec.yaml:1:11: a: first [not-a-number]\nspec.yaml:2:5: b.c: second [conflict]"
    Problems().raise_for(source)
    assert not Problems()


def test_suggest() -> None:
    assert suggest("fastvv", ("fastv", "stride")) == "; did you mean 'fastv'?"
    assert suggest("zzz", ("fastv",)) == ""


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.33, (33, 100)),
        ("1/6", (1, 6)),
        (".33", (33, 100)),
        ("2", (2, 1)),
        (3, (3, 1)),
        ("1e-3", (1, 1000)),
        (1e-6, (1, 10**6)),
    ],
)
def test_exact_numbers(value: object, number: tuple[int, int]) -> None:
    assert exact(value) == Fraction(*number)


@pytest.mark.parametrize(
    "value", [True, None, "x", "1/0", float("nan"), float("inf"), "25%", "1 / 2", "1_0", [1], "1e999"]
)
def test_what_is_no_number_says_so(value: object) -> None:
    with pytest.raises(ValueError, match=r"number|zero|range"):
        exact(value)


@given(st.fractions())
def test_text_gives_the_number_back(number: Fraction) -> None:
    assert exact(text(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_taken_by_their_shortest_form(value: float) -> None:
    assert exact(value) == Fraction(repr(value))
