"""Bad input: one clear, positioned message each, all at once, exit code 2, nothing half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CHECKPOINT = ROOT / "examples" / "reference_vlm" / "checkpoint"

SPEC = f"""\
schema: autoprune/spec/1
name: case
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration:
  records: records.jsonl
  images: images
  search: 2
  holdout: 2
search_space: space.yaml
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.97 * baseline]
"""
SPACE = """\
schema: autoprune/space/1
name: case
budget: {float: [0.1, 0.6]}
params:
  l1: {layer: [2, 1/3]}
stages:
  - {at: "llm:$l1", keep: solve, score: {llm_attention: {from: last}}}
"""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    shutil.copytree(DATA / "images", tmp_path / "images")
    shutil.copy(DATA / "records.jsonl", tmp_path / "records.jsonl")
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def errors(folder: Path) -> list[dict[str, Any]]:
    done = cli("validate", str(folder / "spec.yaml"), "--json")
    assert done.code == 2, done.out
    assert done.json["ok"] is False
    found = done.json["errors"]
    assert found
    for error in found:
        assert set(error) == {"file", "line", "column", "path", "message"}
    return list(found)


def test_the_base_case_is_good(case: Path) -> None:
    done = cli("validate", str(case / "spec.yaml"), "--json")
    assert done.code == 0, done.out
    assert done.json["ok"] is True
    assert done.json["errors"] == []


SPEC_CASES = [
    ("search: 2", "serach: 2", 7, 3, "did you mean 'search'"),
    ("search: 2", "search: many", 7, 11, "many"),
    ("name: case", "name: [1]", 2, 7, "string"),
    ("exact_match >=", "exact_mach >=", 11, 15, "did you mean 'exact_match'"),
    ("0.97 * baseline", "0.97 * baselin", 11, 37, "did you mean 'baseline'"),
    ("minimize prefill_flops", "minimize prefill_flop", 10, 45, "did you mean 'prefill_flops'"),
    ("minimize prefill_flops", "maximize prefill_flops", 10, 36, "minimize prefill_flops"),
    ("maximize exact_match", "{minimize: {information_flow: {distence: l2}}}", 10, 45, "distance"),
    ("search_space: space.yaml", "search_space: fastvv", 9, 15, "did you mean 'fastv'"),
    ("records: records.jsonl", "records: nothing.jsonl", 5, 12, "no such file"),
    ("images: images", "images: pictures", 6, 11, "no such folder"),
    ("search: 2", "search: 200", 7, 11, "search 200 + holdout 2 records are asked for, 4 are there"),
    ("search: 2", "stratify_by: typ\n  search: 2", 7, 16, "did you mean 'type'"),
    (">= 0.97 * baseline", ">= 97", 11, 15, "exact_match lies between 0 and 1"),
    ("maximize exact_match", "{minimize: {information_flow: {layers: [1/2, 99]}}}", 10, 53, "layer 99 is not among"),
]


@pytest.mark.parametrize(("old", "new", "line", "column", "says"), SPEC_CASES, ids=[c[1] for c in SPEC_CASES])
def test_spec_mistakes(case: Path, old: str, new: str, line: int, column: int, says: str) -> None:
    edit(case, "spec.yaml", old, new)
    found = errors(case)
    match = [e for e in found if says in e["message"]]
    assert match, found
    assert (match[0]["line"], match[0]["column"]) == (line, column)
    assert match[0]["file"].endswith("spec.yaml")


SPACE_CASES = [
    ("llm_attention", "llm_atention", 7, "did you mean 'llm_attention'"),
    ("from: last", "form: last", 7, "did you mean 'from'"),
    ("{layer: [2, 1/3]}", "{layer: [2, 40]}", 5, "beyond the model"),
    ("{layer: [2, 1/3]}", "{layer: [6, 3]}", 5, "empty"),
    (
        'params:\n  l1: {layer: [2, 1/3]}\nstages:\n  - {at: "llm:$l1"',
        "stages:\n  - {at: projector",
        5,
        "is legal at llm, not at projector",
    ),
    (
        'params:\n  l1: {layer: [2, 1/3]}\nstages:\n  - {at: "llm:$l1"',
        "stages:\n  - {at: llm:0",
        5,
        "`layer: prev` at llm:0",
    ),
    ("stages:", "stages:\n  - {at: llm:1, keep: solve, score: feature_norm}", 8, "solve"),
    ("score: {", "group: {windows: 1/4}, score: {", 7, "did you mean 'window'"),
    ("budget: {float: [0.1, 0.6]}", "budget: {float: [0.6, 0.1]}", 3, "0.6"),
    ("params:", "arms: []\nparams:", 4, "not available in this version"),
    ("stages:", "warm_start: [fastv, fastvv]\nstages:", 6, "unknown policy 'fastvv'"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), SPACE_CASES, ids=[c[3] for c in SPACE_CASES])
def test_space_mistakes(case: Path, old: str, new: str, line: int, says: str) -> None:
    edit(case, "space.yaml", old, new)
    found = errors(case)
    match = [e for e in found if says in e["message"]]
    assert match, found
    assert match[0]["line"] == line
    assert match[0]["file"].endswith("space.yaml")


def test_an_inline_space_is_positioned_in_the_spec(case: Path) -> None:
    inline = "search_space:\n  schema: autoprune/space/1\n  stages: [{at: llm:2, keep: 1/2, score: nonsense}]"
    edit(case, "spec.yaml", "search_space: space.yaml", inline)
    found = errors(case)
    assert found[0]["line"] == 11
    assert found[0]["path"].startswith("search_space.stages[0]")


def test_all_mistakes_at_once(case: Path) -> None:
    edit(case, "spec.yaml", "exact_match >=", "exact_mach >=")
    edit(case, "spec.yaml", "minimize prefill_flops", "minimize nothing")
    edit(case, "space.yaml", "from: last", "from: lats")
    (case / "images" / "1.png").unlink()
    files = {Path(e["file"]).name for e in errors(case)}
    assert files == {"spec.yaml", "space.yaml", "records.jsonl"}


HIDDEN = [  # (what is wrong, what it must not hide or bring along: (key path, words) of every message)
    (
        [
            ("search: 2", "search: many"),
            ("minimize prefill_flops", "minimise prefill_flops"),
            ("* baseline", "* basline"),
        ],
        {
            ("calibration.search", "many"),
            ("objectives[1]", "did you mean 'minimize'"),
            ("constraints[0]", "did you mean 'baseline'"),
            ("stages[0].score.llm_attention.form", "did you mean 'from'"),
        },
    ),
    (
        [("space.yaml", "two_stage_mixd"), ("* baseline", "* basline"), ("prefill_flops", "prefil_flops")],
        {
            ("search_space", "did you mean 'two_stage_mixed'"),
            ("objectives[1]", "did you mean 'prefill_flops'"),
            ("constraints[0]", "did you mean 'baseline'"),
        },
    ),
    (
        [("exact_match >= 0.97 * baseline", "exact_mach >= 0.97 * basline"), ("objectives: [", "objectives: [3, ")],
        {
            ("constraints[0]", "did you mean 'exact_match'"),
            ("constraints[0]", "did you mean 'baseline'"),
            ("objectives[0]", "valid string"),
            ("stages[0].score.llm_attention.form", "did you mean 'from'"),
        },
    ),
    (
        [("  search: 2", "  serach: 2"), ("model: {path:", "model: {pth:")],
        {
            ("calibration.serach", "did you mean 'search'"),
            ("model.pth", "did you mean 'path'"),
            ("stages[0].score.llm_attention.form", "did you mean 'from'"),
        },
    ),
]


@pytest.mark.parametrize(("edits", "expected"), HIDDEN, ids=["types", "names", "goals", "keys"])
def test_a_mistake_hides_no_other_and_brings_none_along(
    case: Path, edits: list[tuple[str, str]], expected: set[tuple[str, str]]
) -> None:
    for old, new in edits:
        edit(case, "spec.yaml", old, new)
    edit(case, "space.yaml", "from: last", "form: last")
    found = errors(case)
    for path, words in expected:
        assert [e for e in found if e["path"] == path and words in e["message"]], (path, words, found)
    assert len(found) == len(expected), [e["message"] for e in found]


def test_missing_answers_are_one_mistake(case: Path) -> None:
    lines = [json.loads(line) for line in (case / "records.jsonl").read_text().splitlines()]
    del lines[1]["answer"]
    (case / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (error,) = errors(case)
    assert (error["line"], error["path"]) == (2, "answer")
    assert error["message"] == "missing; exact_match compares with it"


def test_missing_image_names_the_record(case: Path) -> None:
    (case / "images" / "1.png").unlink()
    found = errors(case)
    assert {e["line"] for e in found} == {2, 4}
    assert "no such image" in found[0]["message"]


def test_empty_calibration_set(case: Path) -> None:
    (case / "records.jsonl").write_text("")
    assert "empty" in errors(case)[0]["message"]


def test_a_measure_that_needs_answers_the_data_lacks(case: Path) -> None:
    lines = [json.loads(line) for line in (case / "records.jsonl").read_text().splitlines()]
    without = [{k: v for k, v in line.items() if k != "answer"} for line in lines]
    (case / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in without))
    messages = " ".join(e["message"] for e in errors(case))
    assert "exact_match" in messages
    assert "answer" in messages


def test_unsupported_family(case: Path) -> None:
    (case / "model").mkdir()
    (case / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    edit(case, "spec.yaml", str(ROOT / "examples" / "reference_vlm" / "checkpoint"), "model")
    found = errors(case)
    assert "bert" in found[0]["message"]
    assert "llava" in found[0]["message"]
    assert found[0]["path"] == "model.path"


def test_a_hub_id_that_cannot_be_looked_up_is_a_warning(case: Path) -> None:
    edit(case, "spec.yaml", str(ROOT / "examples" / "reference_vlm" / "checkpoint"), "somebody/unknown-model")
    done = cli("validate", str(case / "spec.yaml"), "--json")
    assert done.code == 0
    assert "model checks skipped" in done.json["warnings"][0]["message"]


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

    def broken(path: Path) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(autoprune.check, "check", broken)
    assert cli("validate", "x.yaml").code == 1
    said = capsys.readouterr().err
    logs = list((tmp_path / "autoprune").glob("error-*.log"))
    assert len(logs) == 1
    assert str(logs[0]) in said
    assert "Traceback" not in said
    assert "ZeroDivisionError" in logs[0].read_text()


TYPES = [
    ("search: 2", "search: true", 7, 11),
    ("holdout: 2", "holdout: true", 8, 12),
    ("name: case", "name: case\nsearch: {seed: '3'}", 3, 16),
]


@pytest.mark.parametrize(("old", "new", "line", "column"), TYPES)
def test_types_are_not_guessed(case: Path, old: str, new: str, line: int, column: int) -> None:
    edit(case, "spec.yaml", old, new)
    assert (line, column) in [(e["line"], e["column"]) for e in errors(case)]


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
    assert cli("search", str(case / "spec.yaml"), "--json").code == 2
    listed = cli("studies", "--store", f"sqlite:///{case / '.autoprune' / 'autoprune.db'}", "--json")
    assert [study["state"] for study in listed.json["studies"]] == ["created"]


def test_a_figure_of_no_known_kind_is_refused_before_any_work(case: Path) -> None:
    done = cli("run", "fastervlm", "--image", "x.png", "--prompt", "?", "--figure", "kept.xyz", "--json")
    assert done.code == 2
    assert "a figure is written as .png, .svg, .pdf" in done.json["errors"][0]["message"]


def without_class_token(case: Path) -> None:
    """The case's model is one with a SigLIP tower."""
    model = case / "model"
    model.mkdir()
    tower = {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14}
    text = {"model_type": "llama", "num_hidden_layers": 8}
    config = {
        "model_type": "llava",
        "vision_config": tower,
        "text_config": text,
        "vision_feature_select_strategy": "full",
    }
    (model / "config.json").write_text(json.dumps(config))
    edit(case, "spec.yaml", str(ROOT / "examples" / "reference_vlm" / "checkpoint"), str(model))


def test_a_criterion_that_the_models_tower_cannot_give_is_found_before_the_search(case: Path) -> None:
    """In any option of any choice: here only the second one asks a SigLIP tower for its class token."""
    without_class_token(case)
    (case / "space.yaml").write_text(
        "schema: autoprune/space/1\nname: case\nparams:\n  how: {choice: [all, cls]}\n"
        "stages:\n  - {at: projector, keep: 1/2, score: {encoder_attention: {from: $how}}}\n"
    )
    (error,) = errors(case)
    assert (error["line"], error["column"], error["path"]) == (6, 39, "stages[0].score")
    assert "this model's vision tower has no class token; `without_cls: all`" in error["message"]


CLS = "no class token"
HALVES = "{encoder_attention: {from: all, heads: top_half}}"
RISE = "{llm_attention: {rise: true}}"


@pytest.mark.parametrize(
    ("lines", "line", "column", "path", "says"),
    [
        (["at: projector", "keep: 1/2", f"score: {HALVES}"], 6, 12, "stages[0].score", "top_half"),
        (["at: llm:1", "keep: 1/2", f"score: {RISE}"], 6, 12, "stages[0].score", "rise"),
        (
            ["at: llm:1", "keep: 1/2", "pick:", "  - {share: 1/2, score: random}", f"  - {{score: {RISE}}}"],
            8,
            17,
            "stages[0].pick[1].score",
            "rise",
        ),
        (["at: projector", "keep: 1/2", "score: named"], 6, 12, "stages[0].score", CLS),
    ],
)
def test_what_a_model_cannot_give_is_said_where_the_part_stands(
    case: Path, lines: list[str], line: int, column: int, path: str, says: str
) -> None:
    without_class_token(case)
    stage = "\n    ".join(lines)
    named = "criteria: {named: {encoder_attention: {}}}\n" if "named" in stage else ""
    (case / "space.yaml").write_text(f"schema: autoprune/space/1\nname: case\nstages:\n  - {stage}\n{named}")
    (error,) = errors(case)
    assert (error["line"], error["column"], error["path"]) == (line, column, path)
    assert says in error["message"]


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


def test_what_a_model_lacks_is_said_in_the_policys_document(case: Path) -> None:
    stage = "{at: llm:80, keep: 1/2, score: feature_norm, protect: {index: [500]}}"
    (case / "deep.yaml").write_text(f"schema: autoprune/policy/1\nname: deep\nstages:\n  - {stage}\n")
    image = str(case / "images" / "1.png")
    done = cli("run", str(case / "deep.yaml"), "--image", image, "--prompt", "?", "--model", str(CHECKPOINT), "--json")
    assert done.code == 2, done.out
    places = {(Path(e["file"]).name, e["line"], e["path"]) for e in done.json["errors"]}
    assert places == {("deep.yaml", 4, "stages[0].at"), ("deep.yaml", 4, "stages[0].protect.index")}


def test_an_executor_that_does_not_exist_is_found_before_the_model_is_loaded(
    case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.api.searching.Prepared", None)
    done = cli("search", str(case / "spec.yaml"), "--executor", "rya", "--json")
    assert done.code == 2, done.out
    assert "did you mean 'ray'" in done.json["errors"][0]["message"]


def test_only_what_goes_on_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from autoprune.cli.errors import report_interrupted

    assert [report_interrupted(command, as_json=False) for command in ("run", "search")] == [130, 130]
    assert capsys.readouterr().err.splitlines() == [
        "interrupted", "interrupted; the same command continues where this one stopped",
    ]  # fmt: skip
