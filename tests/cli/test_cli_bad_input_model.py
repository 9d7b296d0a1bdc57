"""What the spec's model cannot give is found before the search."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from bad_input_support import CHECKPOINT, edit, errors
from conftest_cli import cli


def test_unsupported_family(case: Path) -> None:
    (case / "model").mkdir()
    (case / "model" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    edit(case, "spec.yaml", str(CHECKPOINT), "model")
    found = errors(case)
    assert "bert" in found[0]["message"]
    assert "llava" in found[0]["message"]
    assert found[0]["path"] == "model.path"


def test_a_hub_id_that_cannot_be_looked_up_is_a_warning(case: Path) -> None:
    edit(case, "spec.yaml", str(CHECKPOINT), "somebody/unknown-model")
    done = cli("validate", str(case / "spec.yaml"), "--json")
    assert done.code == 0
    assert "model checks skipped" in done.json["warnings"][0]["message"]


def warnings(folder: Path) -> list[tuple[str, int, int, str]]:
    done = cli("validate", str(folder / "spec.yaml"), "--json")
    assert done.code == 0, done.out
    return [(Path(w["file"]).name, w["line"], w["column"], w["message"]) for w in done.json["warnings"]]


def test_what_only_this_machine_lacks_is_a_warning(
    case: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else found(name))
    edit(case, "spec.yaml", "checkpoint}", "checkpoint, device: cuda:77}")
    edit(case, "spec.yaml", "name: case", "name: case\nsearch: {executor: ray}")
    device, ray = warnings(case)
    assert device[:2] == ("spec.yaml", 4)
    assert "device 'cuda:77' is not there; this machine has cpu" in device[3]
    assert ray[:3] == ("spec.yaml", 3, 20)
    assert "Ray is not installed" in ray[3]
    assert cli("validate", str(case / "spec.yaml")).code == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: ") for line in said] == [True, True]


KEEPS = [  # the example's images have 144 tokens, a record of the case one image
    ("{tokens: 145}", [19]),
    ("{tokens: 144}", []),
    ("{tokens: {int: [9, 9999]}}", []),
    ("{tokens: {int: [145, 9999]}}", [19]),
    ("{choice: [1/2, {tokens: 145}]}", [34]),
]


@pytest.mark.parametrize(("keep", "columns"), KEEPS, ids=[k[0] for k in KEEPS])
def test_a_count_above_what_any_record_has_is_a_warning(case: Path, keep: str, columns: list[int]) -> None:
    stage = f"- {{keep: {keep}, at: llm:1, score: random}}"
    (case / "space.yaml").write_text(f"schema: autoprune/space/1\nstages:\n{stage}\n")
    message = "keeps 145 tokens; no record has more than 144: nothing is dropped here"
    assert warnings(case) == [("space.yaml", 3, column, message) for column in columns]


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
    edit(case, "spec.yaml", str(CHECKPOINT), str(model))


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
MIX = "{mix: {weights: {random: 1/3, %s: 2/3}}}"
MEMBER = "stages[0].score.mix.weights."


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
        (
            ["at: projector", "keep: 1/2", f"score: {MIX % 'encoder_attention'}"],
            6,
            42,
            f"{MEMBER}encoder_attention",
            CLS,
        ),
        (["at: projector", "keep: 1/2", f"score: {MIX % 'named'}"], 6, 42, f"{MEMBER}named", CLS),
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


def test_a_member_whose_weight_is_searched_is_said_where_the_weights_are_declared(case: Path) -> None:
    without_class_token(case)
    (case / "space.yaml").write_text(
        "schema: autoprune/space/1\nparams:\n  w: {weights: [random, encoder_attention]}\n"
        "stages:\n  - {at: projector, keep: 1/2, score: {mix: {weights: $w}}}\n"
    )
    (error,) = errors(case)
    assert (error["line"], error["column"], error["path"]) == (3, 25, "params.w.weights[1]")
    assert CLS in error["message"]


def test_positions_that_the_model_does_not_have_are_said_at_their_key(case: Path) -> None:
    model = case / "model"
    model.mkdir()
    text = {"num_hidden_layers": 8, "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]}}
    (model / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", "text_config": text}))
    edit(case, "spec.yaml", str(CHECKPOINT), str(model))
    stages = "  - {at: llm:1, keep: 1/2, score: random}\n  - {at: llm:2, keep: 1/3, score: random, positions: compact}"
    (case / "space.yaml").write_text(f"schema: autoprune/space/1\nstages:\n{stages}\n")
    (error,) = errors(case)
    assert (error["line"], error["column"], error["path"]) == (4, 43, "stages[1].positions")
    assert "positions 'compact' is not possible on multi-axis RoPE" in error["message"]


def test_what_a_model_lacks_is_said_in_the_policys_document(case: Path) -> None:
    stage = "{at: llm:80, keep: 1/2, score: feature_norm, protect: {index: [500]}}"
    (case / "deep.yaml").write_text(f"schema: autoprune/policy/1\nname: deep\nstages:\n  - {stage}\n")
    image = str(case / "images" / "1.png")
    done = cli("run", str(case / "deep.yaml"), "--image", image, "--prompt", "?", "--model", str(CHECKPOINT), "--json")
    assert done.code == 2, done.out
    places = {(Path(e["file"]).name, e["line"], e["path"]) for e in done.json["errors"]}
    assert places == {("deep.yaml", 4, "stages[0].at"), ("deep.yaml", 4, "stages[0].protect.index")}
