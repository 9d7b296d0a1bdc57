"""The registry of codes: complete, explained, with examples that are true, and every code is raised somewhere."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest_cli import cli
from corpus_support import ROOT, corpus, make_case, spoilt

from autoprune.api.mistakes import example, list_codes, markdown
from autoprune.codes import Code

LISTED = list_codes()
RUN = [one for one in LISTED if one["of"] != "command"]
DOCUMENTS = ("document", "policy", "spec", "check")  # rooms whose errors end up at a place in a document


def test_the_file_explains_every_code_there_is() -> None:
    assert sorted(one["code"] for one in LISTED) == sorted(get_args(Code))
    for one in LISTED:
        assert set(one) == {"code", "section", "means", "do", "of", "bad", "good"}
        assert one["means"].endswith(".")
        assert one["do"].endswith((".", "?"))


@pytest.mark.parametrize("one", RUN, ids=[one["code"] for one in RUN])
def test_the_wrong_example_is_wrong_and_the_right_one_is_right(one: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    wrong = spoilt(make_case(tmp_path / "bad"), one["of"], one["bad"])
    right = spoilt(make_case(tmp_path / "good"), one["of"], one["good"])
    assert wrong.code == 2
    assert one["code"] in wrong.codes
    assert one["code"] not in right.codes
    assert right.code == 0 or one["of"] == "text"  # such a text is no whole document


def raised() -> dict[str, list[str]]:
    """Code -> where the package gives it, by the words that stand in its files."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "autoprune").rglob("*.py")):
        if path.name == "codes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in get_args(Code):
                found.setdefault(str(node.value), []).append(path.name)
    return found


def test_every_code_is_raised() -> None:
    assert set(get_args(Code)) == set(raised())


def test_every_code_of_a_document_is_in_the_corpus() -> None:
    """What no malformed document alone can bring about is in `test_corpus_elsewhere.py`, or a bug."""
    import test_corpus_elsewhere

    hit = {line.split()[0] for case in corpus() for line in case["expect"]}
    assert not hit & test_corpus_elsewhere.CODES
    assert hit | test_corpus_elsewhere.CODES == set(get_args(Code))


@pytest.mark.parametrize("room", DOCUMENTS)
def test_errors_about_documents_have_a_code(room: str) -> None:
    """A `BadInput` or `ValueError` that is raised there says what kind of mistake it is (`code=…`, or a `Mistake`)."""
    wrong = []
    for path in sorted((ROOT / "autoprune" / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            named = {keyword.arg for keyword in node.exc.keywords}
            if getattr(node.exc.func, "id", "") == "BadInput" and not named & {"code", "problems"}:
                wrong.append(f"{path.name}:{node.lineno}")
    assert set(wrong) <= INTERNAL, "give it a code of autoprune/codes.py"


INTERNAL: set[str] = set()


def test_the_page_is_current() -> None:
    """`autoprune explain --markdown > docs/errors.md` brings it up to date."""
    assert (ROOT / "docs" / "errors.md").read_text() == markdown(LISTED)


def test_explain_prints_one_code() -> None:
    done = cli("explain", "unknown-key")
    one = list_codes("unknown-key")[0]
    assert done.code == 0
    for said in (one["means"], one["do"], example(one["bad"]), example(one["good"])):
        assert said in done.out
    assert cli("explain", "[unknown-key]").out == done.out  # as it stands at the end of an error


def test_explain_lists_all_codes() -> None:
    done = cli("explain", "--json")
    assert [one["code"] for one in done.json] == [one["code"] for one in LISTED]


def test_an_unknown_code_is_bad_input() -> None:
    done = cli("explain", "unknown-kye", "--json")
    assert done.code == 2
    assert "did you mean 'unknown-key'" in done.json["errors"][0]["message"]
    assert done.json["errors"][0]["code"] == "unknown-name"


def test_a_line_of_text_ends_with_its_code(tmp_path: Path) -> None:
    path = make_case(tmp_path) / "policy.yaml"
    path.write_text(path.read_text().replace("name:", "nane:"))
    done = subprocess.run(
        [sys.executable, "-m", "autoprune", "validate", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}:2:1: nane: unknown key 'nane'")
    assert done.stderr.endswith(" [unknown-key]\n")
