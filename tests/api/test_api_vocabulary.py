"""The reference of parts says what the registry says."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.api.vocabulary import KINDS, list_parts, markdown, parameter_text
from autoprune.errors import BadInput
from autoprune.pruning import parts

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"


def test_the_page_is_the_registrys() -> None:
    """`autoprune parts --markdown > docs/parts.md` brings it up to date."""
    assert PAGE.read_text() == markdown(list_parts())


def test_every_part_is_listed_with_all_it_takes() -> None:
    listed = {(p["kind"], p["name"]): p for p in list_parts()}
    assert set(KINDS) == set(parts.PACKAGES)
    for kind in parts.PACKAGES:
        for name in parts.names(kind):
            info = parts.find(kind, name)
            assert info is not None
            fields = info.config.model_fields
            assert set(listed[kind, name]["parameters"]) == {f.alias or key for key, f in fields.items()}
            assert listed[kind, name]["summary"]


def test_a_parameter_shows_its_default_and_what_is_allowed() -> None:
    (outlier,) = list_parts("outlier")
    shown = [parameter_text(name, spec) for name, spec in outlier["parameters"].items()]
    assert shown[0] == 'method = "iqr" (iqr, lof)'
    assert shown[1] == "beyond = 1.5 (> 0)"


def test_an_unknown_part_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"no part is called 'outlyer'.*did you mean 'outlier'"):
        list_parts("outlyer")


def test_an_unknown_part_is_answered_with_what_there_is() -> None:
    with pytest.raises(BadInput, match="no part is called 'elbo'; did you mean 'elbow'\\?; `autoprune parts`"):
        list_parts("elbo")
    with pytest.raises(BadInput, match=r"no part is called 'zzz'; known: .*elbow.*nms.*; `autoprune parts`"):
        list_parts("zzz")
