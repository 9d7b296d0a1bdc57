"""Policies side by side on the reference model: the same questions at the same budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Cli, cli
from scipy.stats import spearmanr

pytestmark = [pytest.mark.e2e, pytest.mark.mlflow]

LATE = """\
schema: autoprune/policy/1
name: late
stages: [{at: "llm:6", keep: 1/4, score: {llm_attention: {from: last}}}]
"""


@pytest.fixture(scope="module")
def compared(write_spec: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cli]:
    folder = tmp_path_factory.mktemp("compare")
    spec = write_spec(folder)
    (folder / "policies").mkdir()
    (folder / "policies" / "late.yaml").write_text(LATE)
    asked = ["--policies", "random,fastervlm,late", "--budgets", "0.5,1/10", "--limit", "64", "--json"]
    return spec, cli("compare", str(spec), *asked)


def rows(document: dict[str, Any]) -> dict[tuple[str, float], dict[str, Any]]:
    return {(row["policy"], row["target"]): row for row in document["rows"]}


def test_every_policy_has_a_row_for_every_budget(compared: tuple[Path, Cli]) -> None:
    _, done = compared
    assert done.code == 0, done.out
    found = rows(done.json)
    assert set(found) == {(p, b) for p in ("random", "fastervlm", "late") for b in (0.5, 0.1)}
    assert done.json["split"] == "holdout"
    assert done.json["records"] == 64
    base = done.json["baseline"]
    assert base["budget"] == 1
    for policy in ("random", "fastervlm"):
        for budget in (0.5, 0.1):
            row = found[policy, budget]
            assert row["state"] == "measured"
            assert budget - 1 / 144 < row["budget"] <= budget  # one site: exact to less than a token
            estimate = row["exact_match"]
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
            assert row["prefill_flops"] < base["prefill_flops"]
            assert set(row["by_type"]) == set(base["by_type"])
            assert row["information_flow"] > 0
            assert row["prefill_ratio"]["low"] <= row["prefill_ratio"]["value"] <= row["prefill_ratio"]["high"]
        assert found[policy, 0.1]["information_flow"] > found[policy, 0.5]["information_flow"]
        assert found[policy, 0.1]["exact_match"]["value"] < base["exact_match"]["value"]


def test_cheap_measures_are_held_against_the_score(compared: tuple[Path, Cli]) -> None:
    """Over all rows that were measured; those of one target are too few."""
    _, done = compared
    measured = [row for row in done.json["rows"] if row["state"] == "measured"]
    scores = [row["exact_match"]["value"] for row in measured]
    found = {(one["measure"], one["target"]): one for one in done.json["agreement"]}
    assert {target for _, target in found} == {None, 0.5, 0.1}
    for label in ("information_flow", "prefill_flops", "selection_flops", "kv_bytes", "budget"):
        whole = found[label, None]
        assert whole["n"] == len(measured) >= 4
        assert whole["rho"] == pytest.approx(spearmanr([-row[label] for row in measured], scores).statistic)
        assert found[label, 0.5]["n"] == sum(row["target"] == 0.5 for row in measured) < 4
        assert found[label, 0.5]["rho"] is None


def test_a_budget_out_of_reach_is_a_row_that_says_so(compared: tuple[Path, Cli]) -> None:
    row = rows(compared[1].json)["late", 0.5]
    assert row["state"] == "infeasible"
    assert "cheapest possible: 0.75" in row["reason"]  # six of eight layers run before it


def test_files_and_run(compared: tuple[Path, Cli]) -> None:
    from mlflow import MlflowClient

    spec, done = compared
    (folder,) = (spec.parent / ".autoprune" / "studies").glob("small-comparison-*")
    assert json.loads((folder / "comparison.json").read_text()) == done.json
    assert (folder / "comparison.png").stat().st_size > 5000
    client = MlflowClient(f"sqlite:///{spec.parent / '.autoprune' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    value = rows(done.json)["random", 0.5]["exact_match"]["value"]
    assert run.data.metrics["random.at_0.500.exact_match"] == value
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"comparison.json", "comparison.png"}


def test_what_was_measured_is_not_measured_again(compared: tuple[Path, Cli], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.measures.evaluator import ModelEvaluator

    def refuse(*_: Any) -> None:
        raise AssertionError("measured again")

    spec, done = compared
    monkeypatch.setattr(ModelEvaluator, "evaluate", refuse)
    asked = ["--policies", "late,random", "--budgets", "0.5", "--limit", "64", "--no-timing", "--json"]
    again = cli("compare", str(spec), *asked)
    assert again.code == 0, again.out
    assert rows(again.json)["random", 0.5]["exact_match"] == rows(done.json)["random", 0.5]["exact_match"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--policies", "fastvlm"], "fastervlm"),
        (["--budgets", "1.5"], "at most 1"),
        (["--budgets", "third"], "is no number"),
        (["--policies", ""], "no policies to compare"),
        (["--policies", "random", "--budgets", " , "], "no budgets to compare"),
    ],
)
def test_bad_input(
    compared: tuple[Path, Cli], options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = cli("compare", str(compared[0]), *options)
    assert done.code == 2
    assert says in capsys.readouterr().err


def test_bad_input_is_reported_at_once(compared: tuple[Path, Cli], capsys: pytest.CaptureFixture[str]) -> None:
    done = cli("compare", str(compared[0]), "--policies", "random,fastvm", "--budgets", "0.33,1.5,x")
    assert done.code == 2
    said = capsys.readouterr().err
    for text in ("'1.5' is not above 0 and at most 1", "'x' is no number", "'fastvm'; did you mean 'fastv'"):
        assert text in said


RULED = """\
schema: autoprune/policy/1
name: ruled
stages:
  - {at: projector, keep: {rule: {outlier: {beyond: 1000}}, most: 1/2, least: 1/8}, score: feature_norm}
  - {at: "llm:4", keep: {of_current: 1/2}, score: {llm_attention: {from: last}}}
"""


def test_a_budget_that_was_not_reached_is_said(compared: tuple[Path, Cli]) -> None:
    spec, _ = compared
    (spec.parent / "policies" / "ruled.yaml").write_text(RULED)
    asked = ["--policies", "ruled", "--budgets", "0.4,0.6", "--limit", "16", "--no-timing"]
    done = cli("compare", str(spec), *asked, "--json")
    assert done.code == 0, done.out
    found = rows(done.json)
    assert not found["ruled", 0.4]["reached"]
    assert found["ruled", 0.4]["budget"] == pytest.approx(1 / 8)  # nothing stands out: the least, at every layer
    assert found["ruled", 0.6]["reached"]  # above what the rule may keep, so it is scaled like a fraction
    assert 0.6 - 1 / 144 < found["ruled", 0.6]["budget"] <= 0.6
    shown = cli("compare", str(spec), *asked).out
    assert "0.125 not reached" in shown
    assert "selection" not in shown  # nothing was timed


def test_timing_is_a_phase_of_its_own(compared: tuple[Path, Cli], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune import api
    from autoprune.measures.evaluator import ModelEvaluator
    from autoprune.measures.latency import Spread, Timing
    from autoprune.ports import Progress

    class Seen:
        def __init__(self) -> None:
            self.all: list[Progress] = []

        def update(self, progress: Progress) -> None:
            self.all.append(progress)

    spread, seen = Spread(0.5, 0.4, 0.6), Seen()
    monkeypatch.setattr(ModelEvaluator, "prefill", lambda *_: Timing(spread, spread))
    made = api.compare(compared[0], ("late", "random"), ("0.5", "1/10"), limit=64, observer=seen)
    assert list(dict.fromkeys(p.phase for p in seen.all)) == ["loading", "baseline", "compare", "timing"]
    timed = [(p.complete, p.target) for p in seen.all if p.phase == "timing"]
    assert timed == [(0, 2), (1, 2), (2, 2)]  # what could not be measured is not timed
    assert (seen.all[-1].failed, seen.all[-1].infeasible) == (0, 2)
    assert ["prefill_ratio" in row for row in made.document["rows"]] == [False, False, True, True]


def test_in_parity_the_releases_positions_count(compared: tuple[Path, Cli]) -> None:
    spec, before = compared
    asked = ["--policies", "fastervlm,late", "--budgets", "0.1", "--limit", "64", "--no-timing", "--parity", "--json"]
    done = cli("compare", str(spec), *asked)
    assert done.code == 0, done.out
    assert (done.json["parity"], before.json["parity"]) == (True, False)
    found, plain = rows(done.json)["fastervlm", 0.1], rows(before.json)["fastervlm", 0.1]
    assert found["digest"] != plain["digest"]
    assert found["budget"] == plain["budget"]
    assert found["information_flow"] != plain["information_flow"]
