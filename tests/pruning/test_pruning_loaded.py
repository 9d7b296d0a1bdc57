"""Saved policies: what they were made for, what is refused, what is only warned of."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_families
import torch
from pruning_support import Sample, difference, generate, inputs, model

from autoprune.document.yaml import parse
from autoprune.errors import AutoPruneError, BadInput, PolicyMismatch
from autoprune.models import Fingerprint, fingerprint
from autoprune.policy.document import Policy
from autoprune.pruning.loaded import LoadedPolicy, refuse_untested
from autoprune.pruning.lookup import RegisteredParts

DOCUMENT: dict[str, Any] = {
    "schema": "autoprune/policy/1",
    "name": "two-stage",
    "stages": [
        {"at": "projector", "keep": "2/3", "select": "far", "merge": {"nearest": {"space": "projected"}}},
        {"at": "llm:1/2", "keep": {"of_current": "1/3"}, "score": {"llm_attention": {"from": "text"}}},
    ],
}
POLICY = Policy.parse(DOCUMENT, RegisteredParts())


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model")
    model().save_pretrained(target)
    return target


@pytest.fixture
def live(saved_model: Path) -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(saved_model).eval()


@pytest.fixture
def certified(saved_model: Path) -> LoadedPolicy:
    return LoadedPolicy(POLICY, fingerprint(saved_model), {"environment": {"dtype": "float32"}, "budget": 0.4})


def test_saving_and_loading_gives_the_same(tmp_path: Path, certified: LoadedPolicy) -> None:
    certified.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["metadata.json", "policy.yaml"]
    again = LoadedPolicy.from_pretrained(tmp_path / "new" / "folder")
    assert again == certified
    LoadedPolicy(POLICY).save_pretrained(tmp_path)
    assert LoadedPolicy.from_pretrained(tmp_path) == LoadedPolicy(POLICY)


def test_attaching_prunes_without_a_word_where_it_is_certified(live: Any, certified: LoadedPolicy) -> None:
    batch = inputs(live, [Sample(9), Sample(14)])
    base = generate(live, batch, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with certified.attach(live, strict=True) as session:
            pruned = generate(live, batch, 3)
    assert session.run.lengths == [[24, 24]] * 3 + [[8, 8]] * 3
    assert difference(pruned, base) > 1e-3
    assert difference(generate(live, batch, 3), base) == 0.0


def test_attaching_works_without_a_with(live: Any, certified: LoadedPolicy) -> None:
    batch = inputs(live, [Sample(9), Sample(14)])
    base = generate(live, batch, 3)
    attached = certified.attach(live)
    assert attached.attached
    generate(live, batch, 3)
    assert attached.session.run.lengths == [[24, 24]] * 3 + [[8, 8]] * 3
    with pytest.raises(AutoPruneError, match="already attached"):
        certified.attach(live)
    attached.detach()
    assert not attached.attached
    assert difference(generate(live, batch, 3), base) == 0.0
    with pytest.raises(AutoPruneError, match="has been detached"), attached:
        pass


def test_detaching_again_leaves_what_was_attached_since(live: Any, certified: LoadedPolicy) -> None:
    batch = inputs(live, [Sample(9)])
    with certified.attach(live) as session:
        pass
    first = certified.attach(live)
    with first:
        first.detach()
    second = certified.attach(live)
    first.detach()
    generate(live, batch, 3)
    assert second.session is not session
    assert second.session.run.lengths == [[24]] * 3 + [[8]] * 3
    with pytest.raises(AutoPruneError, match="already attached"):
        certified.attach(live)
    second.detach()


def test_a_lost_handle_does_not_end_the_pruning(live: Any, certified: LoadedPolicy) -> None:
    batch = inputs(live, [Sample(9)])
    base = generate(live, batch, 3)
    with certified.attach(live):
        pruned = generate(live, batch, 3)
    certified.attach(live)
    gc.collect()
    assert difference(generate(live, batch, 3), pruned) == 0.0
    assert difference(pruned, base) > 1e-3


def test_what_is_no_model_is_refused_at_the_call() -> None:
    with pytest.raises(BadInput, match="this Linear has no config"):
        LoadedPolicy(POLICY).attach(torch.nn.Linear(2, 2))


def test_a_warning_turned_into_an_error_leaves_nothing_attached(live: Any, certified: LoadedPolicy) -> None:
    changed = other_weights(live, certified)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="uncertified"):
            changed.attach(live)
    with certified.attach(live):
        pass


def test_counted_and_fractional_resolutions_agree(live: Any) -> None:
    batch = inputs(live, [Sample(9), Sample(14)])
    with LoadedPolicy(POLICY).attach(live, tokens=36):
        counted = generate(live, batch, 3)
    with LoadedPolicy(POLICY).attach(live):
        assert difference(generate(live, batch, 3), counted) == 0.0


def other_weights(live: Any, loaded: LoadedPolicy) -> LoadedPolicy:
    assert loaded.fingerprint is not None
    return replace(loaded, fingerprint=replace(loaded.fingerprint, weights="0" * 64))


def other_dtype(live: Any, loaded: LoadedPolicy) -> LoadedPolicy:
    return replace(loaded, metadata={"environment": {"dtype": "bfloat16"}})


def untraceable(live: Any, loaded: LoadedPolicy) -> LoadedPolicy:
    live.config._name_or_path = ""
    return loaded


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_weights, "the weights differ"),
        (other_dtype, "measured in bfloat16, the model is in float32"),
        (untraceable, "cannot be traced"),
    ],
)
def test_other_weights_or_types_are_uncertified(
    live: Any, certified: LoadedPolicy, change: Callable[[Any, LoadedPolicy], LoadedPolicy], reason: str
) -> None:
    changed = change(live, certified)
    with pytest.warns(UserWarning, match=f"uncertified here: .*{reason}") as caught, changed.attach(live):
        pass
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with (
        pytest.raises(PolicyMismatch, match=f"not certified for this model: .*{reason}"),
        changed.attach(live, strict=True),
    ):
        pass


def test_another_architecture_is_refused(live: Any, certified: LoadedPolicy) -> None:
    other = replace(certified, fingerprint=Fingerprint("1" * 64, "2" * 64))
    with pytest.raises(PolicyMismatch, match="made for another architecture"), other.attach(live):
        pass


@pytest.mark.parametrize(
    ("version", "fits"), [("5.23.0", True), ("5.23.4", True), ("5.22.9", False), ("5.24.0", False)]
)
def test_untested_libraries_are_refused_with_the_range(version: str, fits: bool) -> None:
    if fits:
        refuse_untested(version)
        return
    with pytest.raises(PolicyMismatch, match=r"tested versions: >= 5\.23, < 5\.24"):
        refuse_untested(version)


def test_the_version_is_looked_at_when_attaching(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "6.0.0")
    with pytest.raises(PolicyMismatch, match=r"transformers 6\.0\.0"), LoadedPolicy(POLICY).attach(live):
        pass


def damage_metadata(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "policy.yaml").unlink(), "not a saved policy"),
        (lambda f: (f / "metadata.json").unlink(), r"metadata\.json is missing"),
        (lambda f: (f / "metadata.json").write_text("{"), "corrupt"),
        (lambda f: (f / "metadata.json").write_text("[]"), "not the metadata of a saved policy"),
        (lambda f: (f / "metadata.json").write_bytes(b"\xff\xfe"), "corrupt"),
        (lambda f: damage_metadata(f, lambda c: c.update(schema="other/1")), "not the metadata of a saved policy"),
        (lambda f: damage_metadata(f, lambda c: c.pop("fingerprint")), "not the metadata of a saved policy"),
        (lambda f: damage_metadata(f, lambda c: c.update(fingerprint="abc")), "must be mappings"),
        (lambda f: damage_metadata(f, lambda c: c.update(fingerprint={"shape": 1})), "fingerprint"),
        (lambda f: (f / "policy.yaml").write_text("stages: ["), r"policy\.yaml:"),
        (
            lambda f: (f / "policy.yaml").write_text("schema: autoprune/policy/1\nstages: [{at: moon}]"),
            r"policy\.yaml:2",
        ),
        (lambda f: (f / "policy.yaml").open("a").write("# edited\n"), "changed after it was saved"),
    ],
)
def test_damaged_folders_are_bad_input(
    tmp_path: Path, certified: LoadedPolicy, damage: Callable[[Path], Any], message: str
) -> None:
    certified.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadInput, match=message):
        LoadedPolicy.from_pretrained(tmp_path)


def test_production_imports_only_what_it_needs(tmp_path: Path, saved_model: Path, certified: LoadedPolicy) -> None:
    certified.save_pretrained(tmp_path)
    code = """
import sys
from autoprune.pruning.loaded import LoadedPolicy
loaded = LoadedPolicy.from_pretrained(sys.argv[1])
print([n for n in ("torch", "transformers") if n in sys.modules])
from transformers import LlavaForConditionalGeneration
with loaded.attach(LlavaForConditionalGeneration.from_pretrained(sys.argv[2])):
    pass
unwanted = ("optuna", "ray", "sqlalchemy", "mlflow", "alembic", "matplotlib", "typer", "rich", "datasets")
print([n for n in unwanted if n in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(saved_model)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:2] == ["[]", "[]"], run.stderr
    assert torch.is_grad_enabled()


STAGE = "stages: [{at: llm:2, keep: 1/2, score: random"


@pytest.mark.parametrize(
    ("family", "text", "parity", "column", "path"),
    [
        ("qwen2_vl", f"{STAGE}, positions: compact}}]", False, 48, "stages[0].positions"),
        ("qwen2_vl", f"{STAGE}}}]\nparity: {{positions: compact}}", True, 10, "parity.positions"),
        (
            "onevision_shrunk",
            "stages: [{at: projector, keep: 1/2, pick: [{score: {mix: {weights: {random: 1, a: 1}}}}]}]\n"
            "criteria: {a: encoder_attention}",
            False,
            80,
            "stages[0].pick[0].score.mix.weights.a",
        ),
    ],
    ids=["positions", "parity", "member"],
)
def test_what_a_model_cannot_give_is_said_at_the_key_in_the_document(
    family: str, text: str, parity: bool, column: int, path: str
) -> None:
    source = parse(f"schema: autoprune/policy/1\n{text}\n", "p.yaml")
    policy = LoadedPolicy(Policy.from_source(source, RegisteredParts()), source=source)
    with pytest.raises(BadInput) as caught:
        policy.attach(tiny_families.model(family), parity=parity)
    (problem,) = caught.value.problems
    line = 3 if path.startswith("parity") else 2
    assert (problem.file, problem.line, problem.column, problem.path) == ("p.yaml", line, column, path)
