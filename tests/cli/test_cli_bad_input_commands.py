"""Commands that are given something wrong: said before any work, exit code 2, nothing half written."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input_support import CHECKPOINT, SPEC, edit
from conftest_cli import cli


@pytest.mark.mlflow
def test_unreachable_mlflow_is_bad_input_and_writes_nothing(case: Path) -> None:
    (case / "spec.yaml").write_text(SPEC + "output: {tracking_uri: 'http://127.0.0.1:9'}\n")
    done = cli("search", str(case / "spec.yaml"), "--json")
    assert done.code == 2, done.out
    assert "127.0.0.1:9" in done.json["errors"][0]["message"]
    assert not (case / ".autoprune").exists()


def test_too_few_records_is_bad_input_and_writes_nothing(case: Path) -> None:
    edit(case, "spec.yaml", "search: 2", "search: 200")
    done = cli("search", str(case / "spec.yaml"), "--json")
    assert done.code == 2, done.out
    assert "200" in done.json["errors"][0]["message"]
    assert not (case / ".autoprune" / "autoprune.db").exists()


POLICIES = [
    ("keep: $x", "a hole in a fixed policy"),
    ("keep: {float: [0.1, 0.5]}", "a hole in a fixed policy"),
    ("kep: 1/2", "did you mean 'keep'"),
    ("keep: 1/2, score: atention", "unknown criterion"),
    ("keep: 1/2}, {at: llm:4, keep: 3/4, score: feature_norm", "rise"),
]


@pytest.mark.parametrize(("stage", "says"), POLICIES, ids=[p[0] for p in POLICIES])
def test_corrupt_policies(tmp_path: Path, stage: str, says: str) -> None:
    score = "" if "score" in stage.split("}")[0] else ", score: feature_norm"
    head, sep, tail = stage.partition("}, {")
    text = f"schema: autoprune/policy/1\nname: bad\nstages: [{{at: llm:2, {head}{score}{sep}{tail}}}]\n"
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    done = cli("policy", "show", str(path), "--json")
    assert done.code == 2, done.out
    match = [e for e in done.json["errors"] if says in e["message"]]
    assert match, done.out
    assert match[0]["line"] == 3


def test_a_policy_that_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("stages: [\n")
    done = cli("policy", "show", str(path), "--json")
    assert done.code == 2
    assert done.json["errors"][0]["line"] == 2


def test_wrong_command_lines() -> None:
    assert cli("serach").code == 2
    assert cli("front", "--nonsense").code == 2
    assert cli("validate", "does-not-exist.yaml").code == 2


def test_init_writes_a_spec_that_only_lacks_its_data(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    assert cli("init", str(path), "--json").json == {"written": str(path)}
    assert cli("init", str(path)).code == 2
    paths = {e["path"] for e in cli("validate", str(path), "--json").json["errors"]}
    assert paths == {"calibration.records"}


def test_unexpected_errors_keep_their_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import autoprune.check

    def broken(path: Path, model: str | None) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(autoprune.check, "check_any", broken)
    assert cli("validate", "x.yaml").code == 1
    said = capsys.readouterr().err
    logs = list((tmp_path / "autoprune").glob("error-*.log"))
    assert len(logs) == 1
    assert str(logs[0]) in said
    assert "Traceback" not in said
    assert "ZeroDivisionError" in logs[0].read_text()


MACHINE = [
    ("name: case", "name: case\noutput: {tracking_uri: 'http://127.0.0.1:9'}", 3, "cannot be reached"),
    ("checkpoint}", "checkpoint, device: cuda:7}", 3, "device 'cuda:7' is not there; this machine has cpu"),
    ("name: case", "name: case\noutput: {store: 'oracle://nowhere/x'}", 3, ""),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), MACHINE, ids=["mlflow", "device", "store"])
def test_what_the_machine_lacks_is_said_in_the_spec_before_anything_is_written(
    case: Path, old: str, new: str, line: int, says: str
) -> None:
    edit(case, "spec.yaml", old, new)
    done = cli("search", str(case / "spec.yaml"), "--json")
    assert done.code == 2, done.out
    (error,) = done.json["errors"]
    assert error["line"] == line
    assert says in error["message"]
    assert not list(case.glob(".autoprune/autoprune.db"))


def test_an_untested_transformers_version_is_refused_before_the_search(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.api.state.version", lambda _: "6.0.1")
    done = cli("search", str(case / "spec.yaml"), "--json")
    assert done.code == 2
    assert "transformers 6.0.1 is not among the tested versions" in done.json["errors"][0]["message"]
    assert not (case / ".autoprune").exists()


def test_an_executor_that_cannot_start_leaves_no_running_study(case: Path) -> None:
    pytest.importorskip("ray")
    edit(case, "spec.yaml", "name: case", "name: case\nsearch: {trials: 2, executor: {ray: {workers: 4000}}}")
    done = cli("search", str(case / "spec.yaml"), "--json")
    assert done.code == 2
    (error,) = done.json["errors"]
    assert error["path"] == "search.executor"
    assert "4000 workers with 0 GPUs and 1 CPUs each do not fit, only" in error["message"]
    listed = cli("studies", "--store", f"sqlite:///{case / '.autoprune' / 'autoprune.db'}", "--json")
    assert [study["state"] for study in listed.json["studies"]] == ["created"]


def test_a_figure_of_no_known_kind_is_refused_before_any_work(case: Path) -> None:
    done = cli("run", "fastervlm", "--image", "x.png", "--prompt", "?", "--figure", "kept.xyz", "--json")
    assert done.code == 2
    assert "a figure is written as .png, .svg, .pdf" in done.json["errors"][0]["message"]


RUN = [
    (["--model", "/nope"], "no such model folder: /nope"),
    (["--figure", "/nope/x.png"], "no such folder: /nope"),
    (["--prompt", " "], "the prompt is empty"),
    (["--image", "nothing.png"], "nothing.png cannot be read as an image: No such file or directory"),
]


@pytest.mark.parametrize(("options", "says"), RUN, ids=[r[0][0] for r in RUN])
def test_what_run_is_given_is_looked_at_before_any_work(case: Path, options: list[str], says: str) -> None:
    given = {"--image": str(case / "images" / "1.png"), "--prompt": "?", "--model": str(CHECKPOINT)}
    given.update([tuple(options)])  # type: ignore[list-item]
    done = cli("run", "fastv", *(word for pair in given.items() for word in pair), "--json")
    assert done.code == 2, done.out
    assert [e["message"] for e in done.json["errors"]] == [says] or says in done.json["errors"][0]["message"]
    assert not Path("/nope").exists()


def test_an_executor_that_does_not_exist_is_found_before_the_model_is_loaded(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.api.searching.Prepared", None)
    done = cli("search", str(case / "spec.yaml"), "--executor", "rya", "--json")
    assert done.code == 2, done.out
    assert "did you mean 'ray'" in done.json["errors"][0]["message"]


def test_a_cluster_is_nothing_to_the_executor_here(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.api.searching.Prepared", None)
    done = cli("search", str(case / "spec.yaml"), "--executor", "inline", "--address", "head:6379", "--json")
    assert done.code == 2, done.out
    assert "inline runs here, not on the cluster at 'head:6379'" in done.json["errors"][0]["message"]


def test_only_what_goes_on_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from autoprune.cli.errors import report_interrupted

    assert [report_interrupted(command, as_json=False) for command in ("run", "search")] == [130, 130]
    assert capsys.readouterr().err.splitlines() == [
        "interrupted", "interrupted; the same command continues where this one stopped",
    ]  # fmt: skip
