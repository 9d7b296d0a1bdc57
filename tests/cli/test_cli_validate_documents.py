# ruff: noqa: E501 - tables with one case a line
"""`autoprune validate` of a policy or a search space by itself: checked as what it is, on a model where one is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bad_input_support import CHECKPOINT, ROOT, SPACE
from conftest_cli import cli

POLICY = """\
schema: autoprune/policy/1
name: mine
stages:
  - {at: llm:2, keep: 1/2, score: random}
"""


def mistakes(tmp_path: Path, text: str, *options: str) -> list[tuple[int, str, str]]:
    file = tmp_path / "document.yaml"
    file.write_text(text)
    done = cli("validate", str(file), "--json", *options)
    assert done.code == 2, done.out
    assert all(e["file"] == str(file) for e in done.json["errors"])
    return [(e["line"], e["path"], e["message"]) for e in done.json["errors"]]


@pytest.mark.parametrize(("text", "says"), [(POLICY, "mine"), (SPACE, "l1")])
@pytest.mark.parametrize("options", [(), ("--model", str(CHECKPOINT))])
def test_a_good_document_is_ok(tmp_path: Path, text: str, says: str, options: tuple[str, ...]) -> None:
    file = tmp_path / "document.yaml"
    file.write_text(text)
    done = cli("validate", str(file), *options)
    assert done.code == 0, done.out
    assert "ok" in done.out
    assert says in done.out
    assert cli("validate", str(file), "--json", *options).json == {"ok": True, "errors": [], "warnings": []}


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        (POLICY.replace("random", "randm"), 4, "stages[0].score"),
        (POLICY.replace("policy/1", "polcy/1"), 1, "schema"),
        (POLICY.replace("schema: autoprune/policy/1\n", ""), 1, "schema"),
        (SPACE.replace("llm_attention", "lm_attention"), 7, "stages[0].score.lm_attention"),
        (SPACE.replace("space/1", "spaec/1"), 1, "schema"),
        (SPACE.replace("schema: autoprune/space/1\n", "").replace("solve", "slove"), 6, "stages[0].keep"),
    ],
)
def test_its_own_mistakes_are_said_and_no_missing_keys_of_a_spec(
    tmp_path: Path, text: str, line: int, path: str
) -> None:
    found = mistakes(tmp_path, text)
    assert any(at == (line, path) for at in ((one, two) for one, two, _ in found)), found
    assert not any("model" in where or "calibration" in where for _, where, _ in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POLICY.replace("llm:2", "llm:40").replace("random", "randm"), ["stages[0].at", "stages[0].score"]),
        (POLICY.replace("llm:2", "projector").replace("random", "{encoder_attention: {layer: 99}}"), ["stages[0].score.encoder_attention.layer"]),
        (SPACE.replace("1/3]", "40]"), ["params.l1.layer[1]"]),
    ],
)  # fmt: skip
def test_a_model_says_what_it_does_not_have(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert [path for _, path, _ in mistakes(tmp_path, text, "--model", str(CHECKPOINT))] == expected
    assert len(mistakes(tmp_path, text + "\n", "--model", str(CHECKPOINT))) == len(expected)


def test_what_the_model_cannot_give_stands_where_it_is_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    from dataclasses import replace

    from autoprune.check import documents
    from autoprune.models import read_geometry

    def without(folder: Path) -> Any:
        return replace(read_geometry(folder), lacks={"random": "no dice in this model"})

    monkeypatch.setattr(documents, "read_geometry", without)
    assert mistakes(tmp_path, POLICY, "--model", str(CHECKPOINT)) == [(4, "stages[0].score", "no dice in this model")]


def test_a_spec_names_its_model_itself(case: Path) -> None:
    done = cli("validate", str(case / "spec.yaml"), "--json", "--model", str(CHECKPOINT))
    assert done.code == 2
    assert "names its model itself" in done.json["errors"][0]["message"]


def test_a_model_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "document.yaml"
    file.write_text(POLICY)
    done = cli("validate", str(file), "--json", "--model", str(tmp_path / "nowhere"))
    assert done.code == 2
    assert "no such model folder" in done.json["errors"][0]["message"]


@pytest.mark.parametrize(
    "name", ["policies/vscan.yaml", "search_spaces/arms.yaml", "search_spaces/two_stage_mixed.yaml"]
)
def test_shipped_documents_are_ok(name: str) -> None:
    assert cli("validate", str(ROOT / name)).code == 0


def test_a_mistake_in_one_arm_stands_there(tmp_path: Path) -> None:
    text = (ROOT / "search_spaces" / "arms.yaml").read_text()
    broken = text.replace("keep: solve", "keep: slove", 1)
    assert broken != text
    assert all(path.startswith("arms.") for _, path, _ in mistakes(tmp_path, broken))
