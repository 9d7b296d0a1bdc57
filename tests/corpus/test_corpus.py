"""Malformed documents: each is refused with exactly the codes and positions that are expected, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from corpus_support import BASE, ROOT, corpus, lay_out, make_case, shown, table, validate

CASES = corpus()


@pytest.mark.parametrize("kind", ["spec", "policy", "space"])
def test_what_is_spoilt_is_good(kind: str, tmp_path: Path) -> None:
    folder = make_case(tmp_path)
    done = validate(folder / f"{kind}.yaml", None if kind == "spec" else folder / "checkpoint")
    assert (done.code, done.errors, done.stderr) == (0, (), "")
    assert kind in BASE


@pytest.mark.parametrize("case", CASES, ids=[f"{case['file']}: {case['name']}" for case in CASES])
def test_a_malformed_document_is_refused_where_it_is_wrong(case: Mapping[str, Any], tmp_path: Path) -> None:
    path, model = lay_out(make_case(tmp_path), case)
    done = validate(path, model)
    assert (done.code, done.stderr) == (2, "")
    assert [shown(error) for error in done.errors] == case["expect"]
    for error in done.errors:
        lines = Path(error["file"]).read_text().split("\n")
        assert 1 <= error["line"] <= len(lines)
        assert 1 <= error["column"] <= len(lines[error["line"] - 1]) + 1


def test_there_are_as_many_as_promised() -> None:
    codes = {line.split()[0] for case in CASES for line in case["expect"]}
    assert len(CASES) >= 150
    assert len(codes) >= 40


def test_the_page_lists_them() -> None:
    """`python tests/corpus/corpus_support.py > docs/error_corpus.md` brings it up to date."""
    assert (ROOT / "docs" / "error_corpus.md").read_text() == table()
