"""The codes that no malformed document alone brings about: each is raised here by what does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from conftest_cli import Cli, cli
from corpus_support import CHECKPOINT, make_case, validate

from autoprune.calibration import sources
from autoprune.codes import Code
from autoprune.document.yaml import MAX_CHARACTERS, parse
from autoprune.errors import BadInput
from autoprune.models import read_geometry
from autoprune.policy.document import Policy
from autoprune.policy.front import Front
from autoprune.policy.scale import at_budget
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import make_plan

HEAD = "schema: autoprune/policy/1\nstages:\n"
CURVE = "  - {along: [2, 6], curve: {linear: {from: {to_budget: 1/2}, to: 0}}, select: stride}\n"
TWO = "  - {at: llm:1, keep: 0.9, select: stride}\n" + CURVE


def policy(stages: str) -> Policy:
    return Policy.from_source(parse(HEAD + stages), RegisteredParts())


def other_depth() -> None:
    from autoprune.policy.canonical import resolve

    geometry = read_geometry(CHECKPOINT)
    plain = resolve(policy("  - {at: llm:1, keep: 0.9, select: stride}\n"), geometry, RegisteredParts(), 144)
    make_plan(plain, replace(geometry, depth=9))


def missing_package() -> None:
    sources._needed("a_package_that_nobody_has", "records.parquet")


CALLS: dict[Code, Callable[[], object]] = {
    "too-large": lambda: parse("#" * (MAX_CHARACTERS + 1)),
    "not-a-front": lambda: Front.from_json({"members": [{}]}),
    "cannot-scale": lambda: at_budget(policy(TWO), Fraction(1, 4), read_geometry(CHECKPOINT)),
    "policy-mismatch": other_depth,
    "not-installed": missing_package,
}


@pytest.mark.parametrize("code", CALLS)
def test_a_call_says_it(code: Code) -> None:
    with pytest.raises(BadInput) as caught:
        CALLS[code]()
    assert caught.value.code == code


def run(*arguments: str) -> Callable[[Path], Cli]:
    return lambda folder: cli(*(one.format(folder=folder) for one in arguments), "--json")


MODEL = ("--model", str(CHECKPOINT))
COMMANDS: dict[Code, Callable[[Path], Cli]] = {
    "not-utf8": run("validate", "{folder}/images/0.png"),
    "needs-model": run("run", "fastv", "--image", "{folder}/images/0.png", "--prompt", "how many ?"),
    "unreadable-image": run("run", "fastv", *MODEL, "--image", "{folder}/spec.yaml", "--prompt", "how many ?"),
    "no-such-device": run(
        "run", "fastv", *MODEL, "--image", "{folder}/images/0.png", "--prompt", "how many ?", "--device", "cuda:99"
    ),
    "no-registry": run("policy", "show", "models:/x@champion", "--tracking-uri", "sqlite:///{folder}/none.db"),
    "not-a-uri": run("policy", "show", "models:/x"),
    "not-a-policy": run("policy", "show", "{folder}/images"),
    "bad-input": run("studies", "--store", "sqlite:///{folder}/none.db"),
}


@pytest.mark.parametrize("code", COMMANDS)
def test_a_command_says_it(code: Code, tmp_path: Path) -> None:
    done = COMMANDS[code](make_case(tmp_path))
    assert done.code == 2, done.out
    assert [error["code"] for error in done.json["errors"]] == [code]


def test_records_that_are_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = make_case(tmp_path)
    (folder / "records.parquet").write_text("not parquet")
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace("records.jsonl", "records.parquet"))
    assert validate(spec).codes == {"unreadable-records"}


def test_a_record_that_the_processor_refuses(tmp_path: Path) -> None:
    from autoprune.calibration.encoding import Encoder, load_processor
    from autoprune.calibration.records import Record

    config = json.loads((CHECKPOINT / "config.json").read_text())
    encoder = Encoder(load_processor(str(CHECKPOINT)), config["image_token_index"], (0,))
    image = make_case(tmp_path) / "images" / "0.png"
    with pytest.raises(BadInput) as caught:
        encoder.row(Record(id="7", images=(str(image),), prompt_raw="no placeholder"))
    assert caught.value.code == "unusable-record"


def test_what_the_model_cannot_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.check import documents

    lacking = replace(read_geometry(CHECKPOINT), lacks={"feature_norm": "no norms in this model"})
    monkeypatch.setattr(documents, "read_geometry", lambda folder: lacking)
    folder = make_case(tmp_path)
    assert validate(folder / "policy.yaml", folder / "checkpoint").codes == {"unsupported-by-model"}


def test_a_stage_that_drops_nothing_is_a_warning(tmp_path: Path) -> None:
    folder = make_case(tmp_path)
    space = folder / "space.yaml"
    space.write_text(
        "schema: autoprune/space/1\nstages: [{at: llm:2, keep: {tokens: {int: [200, 300]}}, select: stride}]\n"
    )
    done = cli("validate", str(folder / "spec.yaml"), "--json")
    assert done.code == 0, done.out
    assert [warning["code"] for warning in done.json["warnings"]] == ["nothing-dropped"]


def test_a_model_whose_weights_are_only_pickled(tmp_path: Path) -> None:
    folder = make_case(tmp_path)
    (folder / "checkpoint" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert validate(folder / "spec.yaml").codes == {"not-safetensors"}
    (folder / "checkpoint" / "model.safetensors").write_bytes(b"")
    assert validate(folder / "spec.yaml").code == 0


CODES: set[str] = {
    *CALLS,
    *COMMANDS,
    "unreadable-records",
    "unusable-record",
    "not-safetensors",
    "unsupported-by-model",
    "nothing-dropped",
}
