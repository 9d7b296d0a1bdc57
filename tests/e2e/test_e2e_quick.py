"""The quick search on the reference model: a table, its schedules verified and certified, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest_cli import cli

pytestmark = pytest.mark.e2e

PLAIN = {"output: {register: small, select: minimize prefill_flops}": "output: {select: minimize prefill_flops}"}


def test_a_quick_search_certifies_and_says_what_it_left_out(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = {"search: 48, holdout: 160": "search: 32, holdout: 64", "seed: 3,": "seed: 3, explain: false,"}
    spec = write_spec(tmp_path, trials=14, **PLAIN, **fewer)
    done = cli("search", str(spec), "--quick")
    said = " ".join(capsys.readouterr().err.split())
    assert done.code == 0, said
    front = cli("front", str(spec), "--json").json
    assert sum(member["selected"] for member in front["members"]) == 1
    assert {s for m in front["members"] for s in m["constraints"].values()} <= {"certified", "undecided", "violated"}
    found = re.search(r"quick: a table of (\d+) entries on 16 records each \(([\d.]+) trials\), and (\d+) of its", said)
    assert found is not None, said
    assert int(found[1]) >= 6
    assert float(found[2]) <= 3.5, "a quarter of the trials"
    assert 2 <= int(found[3]) == front["trials"]["complete"] - 4, "beside the references"
    assert "a full search (without --quick: auto) has the other" in said
    assert "parameters of the space: budget, l1, l2, front" in said


def test_a_quick_search_is_a_study_of_its_own(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    from autoprune import check
    from autoprune.api.study import Prepared

    spec = write_spec(tmp_path)
    ids = [Prepared(check.check(spec, quick=quick)).study_id for quick in (False, True)]
    assert ids[0] != ids[1]
    spec.write_text(spec.read_text().replace("seed: 3,", "seed: 3, strategy: {sensitivity: {then: none}},"))
    assert Prepared(check.check(spec)).study_id == Prepared(check.check(spec, quick=True)).study_id == ids[1]


def test_costs_alone_are_refused_before_anything_is_measured(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goals = {"maximize exact_match, ": "", "constraints: [exact_match >= 0.5 * baseline]": "constraints: []"}
    spec = write_spec(tmp_path, **goals)
    assert cli("search", str(spec), "--quick").code == 2
    assert "sensitivity: objectives and constraints are all costs" in " ".join(capsys.readouterr().err.split())
