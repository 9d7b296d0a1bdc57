"""Documents, policies, models and records made to run something: nothing of it runs. Each would make a folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli

from autoprune.document.json import parse_json
from autoprune.document.yaml import parse
from autoprune.errors import BadInput, Mistake
from autoprune.policy.document import Policy
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.registry.load import load_policy
from autoprune.registry.reference import parse as parse_uri

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "reference_vlm" / "checkpoint"
POLICY = "schema: autoprune/policy/1\nname: fine\nstages: [{at: llm:2, keep: 1/2, select: stride}]\n"


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A good saved policy."""
    folder = tmp_path / "saved"
    LoadedPolicy(Policy.from_source(parse(POLICY), RegisteredParts())).save_pretrained(folder)
    return folder


def test_the_bombs_go_off_where_they_are_loaded(canary: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()


TAGS = (
    "!!python/object/apply:os.mkdir ['{canary}']",
    "!!python/object/new:os.mkdir ['{canary}']",
    "!!python/object/apply:subprocess.check_call [['mkdir', '{canary}']]",
    "!!python/module:antigravity",
    "!!python/name:os.mkdir",
    "!!python/object/apply:builtins.exec ['import os; os.mkdir(\"{canary}\")']",
    "!<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{canary}']",
)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_yaml_build_nothing(tag: str, tmp_path: Path, canary: Path) -> None:
    document = tmp_path / "policy.yaml"
    document.write_text(POLICY.replace("fine", tag.replace("{canary}", str(canary))))
    done = cli("validate", str(document), "--json")
    assert done.code == 2
    assert "unknown-tag" in {error["code"] for error in done.json["errors"]}
    with pytest.raises(BadInput):
        load_policy(document)
    assert not canary.exists()


def test_what_lies_beside_a_policy_is_never_read(saved: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = pickle.dumps(Bomb(canary))
    for name in ("policy.pkl", "pytorch_model.bin", "model.pt", "python_model.pkl", "policy.yaml.pkl"):
        (saved / name).write_bytes(bomb)
    for name in ("__init__.py", "policy.py", "conftest.py", "sitecustomize.py", "yaml.py"):
        (saved / name).write_text(f"import os; os.mkdir({str(canary)!r})")
    monkeypatch.chdir(saved)
    assert load_policy(saved).policy.name == "fine"
    assert not canary.exists()


@pytest.mark.parametrize("module", ["os", "posix", "evil_loader"])
def test_a_loader_that_an_artifact_names_is_not_imported(
    saved: Path, canary: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (saved / "code").mkdir()
    (saved / "code" / "evil_loader.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    flavor = {"loader_module": module, "code": "code", "data": str(canary), "python_version": "3.11.0"}
    (saved / "MLmodel").write_text(json.dumps({"flavors": {"python_function": flavor, "autoprune_policy": flavor}}))
    monkeypatch.syspath_prepend(str(saved / "code"))
    assert load_policy(saved).policy.name == "fine"
    assert "evil_loader" not in sys.modules
    assert not canary.exists()


@pytest.mark.parametrize("name", ["policy.yaml", "metadata.json"])
def test_a_pickle_under_a_good_name_is_refused(saved: Path, canary: Path, name: str) -> None:
    (saved / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(BadInput):
        load_policy(saved)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["policy.yaml", "metadata.json", "front.json"])
def test_links_out_of_a_saved_policy_are_not_followed(saved: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    source = saved / name
    secret.write_bytes(source.read_bytes() if source.exists() else b"{}")
    source.unlink(missing_ok=True)
    source.symlink_to(secret)
    with pytest.raises(BadInput) as caught:
        load_policy(saved)
    assert caught.value.code == "path-leaves-folder"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "../../../../etc"])
def test_names_of_artifacts_do_not_climb(path: str) -> None:
    with pytest.raises(BadInput):
        parse_uri(f"runs:/0123/{path}")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a": NaN}', "not-finite"),
        ('{"a": -Infinity}', "not-finite"),
        ('{"a": ' + "9" * 5000 + "}", "out-of-range"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "too-deep"),
        ('{"a": "\udcff"}'.encode("utf-8", "surrogateescape"), "not-utf8"),
        ("{'a': 1}", "not-json"),
    ],
)
def test_odd_json_is_refused_and_never_a_traceback(text: str | bytes, code: str, saved: Path) -> None:
    with pytest.raises(Mistake) as caught:
        parse_json(text)
    assert caught.value.code == code
    (saved / "metadata.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadInput):
        load_policy(saved)


def checkpoint(folder: Path) -> Path:
    """The reference model's files, to be spoilt."""
    shutil.copytree(CHECKPOINT, folder)
    return folder


def load(folder: Path) -> Any:
    from autoprune.measures.loading import load_model

    return load_model(str(folder), "float32", "cpu")


def test_weights_that_are_pickled_are_not_read(tmp_path: Path, canary: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(BadInput):
        load(folder)
    assert not canary.exists()


def test_code_that_a_model_brings_along_is_not_run(tmp_path: Path, canary: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        name: f"evil.{name}" for name in ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor")
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    load(folder)  # the family is known: the library's own class is taken
    assert not canary.exists()
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput):
        load(folder)
    assert not canary.exists()


def test_a_chat_template_cannot_reach_the_machine(tmp_path: Path, canary: Path) -> None:
    from autoprune.calibration.encoding import Encoder, load_processor
    from autoprune.calibration.records import Record

    processor = load_processor(str(CHECKPOINT))
    reach = "{{ cycler.__init__.__globals__.os.mkdir('" + str(canary) + "') }}"
    processor.chat_template = processor.tokenizer.chat_template = reach
    image = str(ROOT / "tests" / "data" / "images" / "0.png")
    with pytest.raises(BadInput) as caught:
        Encoder(processor, 4, (0,)).row(Record(id="1", images=(image,), prompt="how many ?"))
    assert caught.value.code == "unusable-record"
    assert not canary.exists()


def test_code_from_elsewhere_is_off_unless_somebody_says_so() -> None:
    from autoprune.ports import WorkerSpec
    from autoprune.spec.models import ModelSpec

    assert ModelSpec(path="x").trust_remote_code is False
    assert WorkerSpec.__dataclass_fields__["trust_remote_code"].default is False
