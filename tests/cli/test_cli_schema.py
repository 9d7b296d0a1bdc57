"""`autoprune schema` against real documents: an editor must not mark what the project ships, and must mark mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest_cli import cli

from autoprune.spec.template import TEMPLATE

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    *(("policy", path) for path in sorted((ROOT / "policies").glob("*.yaml"))),
    *(("space", path) for path in sorted((ROOT / "search_spaces").glob("*.yaml"))),
    *(("spec", path) for path in sorted((ROOT / "examples").glob("*/spec.yaml"))),
    ("spec", ROOT / "tests" / "data" / "full_spec.yaml"),
]


def schema(kind: str) -> dict[str, Any]:
    done = cli("schema", kind)
    assert done.code == 0
    jsonschema.Draft202012Validator.check_schema(done.json)
    return dict(done.json)


def mistakes(kind: str, document: Any) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft202012Validator(schema(kind)).iter_errors(document)]


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=[str(path.relative_to(ROOT)) for _, path in SHIPPED])
def test_what_is_shipped_is_valid(kind: str, path: Path) -> None:
    assert mistakes(kind, yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("tau", [0.5, "1/2", ".5"])
def test_numbers_of_parts_may_be_text(tau: object) -> None:
    assert mistakes("policy", {**POLICY, "stages": [{**STAGE, "select": {"nms": {"tau": tau}}}]}) == []


def test_there_is_something_to_validate() -> None:
    assert {kind for kind, _ in SHIPPED} == {"policy", "space", "spec"}
    assert len(SHIPPED) >= 12


def test_the_template_is_valid() -> None:
    assert mistakes("spec", yaml.safe_load(TEMPLATE)) == []


SPEC: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "data" / "full_spec.yaml").read_text())
POLICY: dict[str, Any] = yaml.safe_load((ROOT / "policies" / "fastv.yaml").read_text())
STAGE: dict[str, Any] = {"at": "llm:2", "keep": "1/2", "score": {"feature_norm": {"space": "keys"}}}
SPACE: dict[str, Any] = yaml.safe_load((ROOT / "search_spaces" / "two_stage_mixed.yaml").read_text())
WRONG = [
    ("spec", {**SPEC, "serach": {}}, "serach"),
    ("spec", {**SPEC, "search": {"trials": "many"}}, "trials"),
    ("spec", {**SPEC, "search": {"executor": "rays"}}, "executor"),
    ("spec", {**SPEC, "constraints": ["exact_mach >= 0.9 * baseline"]}, "constraints"),
    ("spec", {**SPEC, "objectives": ["minimise prefill_flops"]}, "objectives"),
    ("policy", {**POLICY, "stages": [{**STAGE, "kep": 1}]}, "stages"),
    ("policy", {**POLICY, "stages": [{**STAGE, "score": {"atention": {}}}]}, "stages"),
    ("policy", {**POLICY, "stages": [{**STAGE, "score": {"relevance": {}}}]}, "stages"),
    ("policy", {**POLICY, "stages": [{**STAGE, "select": {"nms": {"tau": "most"}}}]}, "stages"),
    ("policy", {**POLICY, "schema": "autoprune/policy/2"}, "schema"),
    ("space", {**SPACE, "parms": {}}, "parms"),
    ("space", {**SPACE, "params": {"l1": {"lyer": [1, 2]}}}, "params"),
]


@pytest.mark.parametrize(
    ("kind", "document", "where"), WRONG, ids=[f"{k} {w} {i}" for i, (k, _, w) in enumerate(WRONG)]
)
def test_mistakes_are_marked(kind: str, document: Any, where: str) -> None:
    assert any(where in mistake for mistake in mistakes(kind, document)), mistakes(kind, document)


@pytest.mark.parametrize("kind", ["spec", "policy", "space"])
def test_the_schema_is_titled(kind: str) -> None:
    assert cli("schema", kind).json["title"] == f"autoprune/{kind}/1"
