"""The catalog's page says what the catalog says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autoprune.api.methods import PROMISED, list_methods, markdown
from autoprune.cli.comparing import methods

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"


def test_the_page_is_the_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`autoprune methods --markdown > docs/methods.md` brings it up to date."""
    monkeypatch.chdir(tmp_path)  # where no `policies/` of a user lies
    assert PAGE.read_text() == markdown(list_methods())


def test_adaptive_methods_are_those_whose_counts_a_rule_decides() -> None:
    rules = {method["name"]: method["count_rules"] for method in list_methods()}
    assert rules["prumerge"] == ["outlier"]
    assert rules["sparsity_meets_similarity"] == ["elbow", "threshold"]
    assert rules["autoprune_2025"] == ["logistic"]  # shares a budget among layers
    assert rules["fastv"] == rules["aim"] == []


def test_a_rule_that_only_shares_a_fixed_count_is_not_adaptive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.yaml").write_text(
        "schema: autoprune/policy/1\n"
        "stages:\n"
        "  - {at: input, keep: {rule: elbow, fit: 1/2}, score: feature_norm, group: {tile: {split: rule}}}\n"
        "  - {along: [2, 4], keep: {rule: elbow, fit: {of_current: 1/2}}, score: feature_norm}\n"
    )
    monkeypatch.chdir(tmp_path)
    (mine,) = (method for method in list_methods() if method["name"] == "mine")
    assert mine["count_rules"] == []


def test_what_is_guessed_is_said_where_the_confidence_is_low() -> None:
    page = PAGE.read_text()
    low = [method["name"] for method in list_methods() if method["confidence"] == "low"]
    assert re.findall(r"^- \*\*(\w+)\*\*: .", page.partition("## What was guessed")[2], re.M) == low


def test_the_command_gives_what_it_promises(capsys: pytest.CaptureFixture[str]) -> None:
    methods(json=True)
    listed = json.loads(capsys.readouterr().out)
    assert listed == [{key: method[key] for key in PROMISED} for method in list_methods()]
