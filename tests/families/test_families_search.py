"""Every family end to end: a checkpoint saved with its own processor, loaded by path, searched, its policy used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from conftest_cli import cli
from PIL import Image
from tiny_families import IMAGE

import autoprune
from autoprune.api.study import Prepared
from autoprune.calibration.records import Record
from autoprune.check import check
from autoprune.measures.loading import load_model

SIZES = ((48, 48), (64, 40), (80, 96))  # three sizes, one of them square
SPEC = """\
schema: autoprune/spec/1
name: {family}
model: {{path: {family}}}
calibration: {{records: {family}.jsonl, search: 6, holdout: 4, stratify_by: type, seed: 1}}
search_space:
  schema: autoprune/space/1
  stages:
    - {{at: projector, keep: {{float: [0.4, 0.9]}}, score: {{feature_norm: {{space: encoder}}}}, merge: nearest}}
    - {{at: "llm:1/2", keep: {{float: [0.1, 0.3]}}, score: {{llm_attention: {{from: text}}}}}}
objectives: [minimize answer_nll, minimize prefill_flops]
constraints: [kv_bytes <= 1.0 * baseline, exact_match >= 0 * baseline]
search: {{trials: 3, seed: 2, executor: inline}}
"""


def write_images(folder: Path) -> None:
    (folder / "images").mkdir()
    for number in range(24):
        high, wide = SIZES[number % 3]
        pixels = np.random.default_rng(number).integers(0, 256, (high, wide, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")


def write_records(path: Path, place: str) -> None:
    """Twelve questions: about one image, about two, with text before, between and after them."""
    lines: list[dict[str, Any]] = []
    for number in range(12):
        images = [f"images/{2 * number}.png", f"images/{2 * number + 1}.png"]
        asked: dict[str, Any] = {"images": images, "prompt": "w4 ?"}
        if number % 4 < 2:
            asked = {"images": images[:1], "prompt": " ".join(f"w{i}" for i in range(1 + number % 3))}
        elif number % 4 == 3:
            asked = {"images": images, "prompt_raw": f"user : w7 {place} w8 w9 {place} w1 w5 assistant :"}
        lines.append({**asked, "answer": f"w{number} w2", "type": f"t{number % 2}"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class Study:
    """A searched family."""

    family: str
    folder: Path
    front: dict[str, Any]

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        return load_model(str(self.folder / self.family), "float32", "cpu")

    @cached_property
    def prepared(self) -> Prepared:
        return Prepared(check(self.folder / f"{self.family}.yaml"))

    def prompt(self, record: Record) -> dict[str, torch.Tensor]:
        """What the family's own processor makes of a record."""
        _, processor = self.loaded
        content = [*({"type": "image"} for _ in record.images), {"type": "text", "text": record.prompt}]
        text = record.prompt_raw or processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        pictures = [Image.open(path).convert("RGB") for path in record.images]
        return dict(processor(images=[pictures], text=[text], return_tensors="pt"))

    def loss(self, record: Record) -> float:
        """Mean negative log-probability of the answer's tokens and the end token, without any policy."""
        model, processor = self.loaded
        inputs = self.prompt(record)
        words = processor.tokenizer(record.answer)["input_ids"]
        answer = torch.tensor([[*words, processor.tokenizer.eos_token_id]])
        width = inputs["input_ids"].shape[1]
        for name, value in list(inputs.items()):
            if value.shape == (1, width):
                more = answer if name == "input_ids" else torch.full_like(answer, int(name == "attention_mask"))
                inputs[name] = torch.cat([value, more], 1)
        with torch.no_grad():
            logits = model(**inputs).logits[0, width - 1 : -1]
        return float(-logits.log_softmax(1).gather(1, answer.T).mean())

    def policy(self, member: dict[str, Any]) -> Path:
        """A member of the front: where the search saved the selected one, else its document in a file."""
        if member["selected"]:
            (saved,) = (self.folder / ".autoprune" / "studies" / self.front["study"] / "policies").iterdir()
            return saved
        path = self.folder / f"{member['policy']}.yaml"
        path.write_text(json.dumps(member["document"]))
        return path

    def visual(self, record: Record) -> int:
        return int((self.prompt(record)["input_ids"] == IMAGE).sum())

    def entered(self, policy: Path, record: Record) -> list[int]:
        """Visual tokens that enter each decoder layer, as the layers see them."""
        model, _ = self.loaded
        inputs, seen, layers = self.prompt(record), [], model.model.language_model.layers
        with autoprune.load_policy(str(policy)).attach(model), torch.no_grad():
            hooks = [layer.register_forward_pre_hook(lambda m, a: seen.append(a[0].shape[1])) for layer in layers]
            model(**inputs)
        for hook in hooks:
            hook.remove()
        text = inputs["input_ids"].shape[1] - self.visual(record)
        return [width - text for width in seen]

    def counted(self, policy: Path, records: Sequence[Record]) -> float:
        """The budget of a policy on these records, one after the other."""
        rows = [self.entered(policy, record) for record in records]
        return sum(map(sum, rows)) / sum(len(row) * self.visual(r) for row, r in zip(rows, records, strict=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that the databases of studies are made once."""
    folder = tmp_path_factory.mktemp("families")
    write_images(folder)
    return folder


@pytest.fixture(scope="module", params=list(tiny_checkpoints.SAVED))
def study(request: pytest.FixtureRequest, root: Path) -> Study:
    name = request.param
    tiny_checkpoints.save(name, root / name)
    write_records(root / f"{name}.jsonl", tiny_checkpoints.SAVED[name].place)
    spec = root / f"{name}.yaml"
    spec.write_text(SPEC.format(family=name))
    done = cli("search", str(spec), "--json")
    assert done.code == 0, done.out
    return Study(name, root, done.json)


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5)


def test_the_front_is_what_runs_of_its_policies_show(study: Study) -> None:
    """The baseline is the model without any policy; budgets are what the decoder layers were given."""
    front, splits = study.front, study.prepared.splits
    assert front["trials"] == {"complete": 3, "failed": 0, "running": 0}
    assert sum(member["selected"] for member in front["members"]) == 1
    several = [record for record in (*splits.search, *splits.holdout) if len(record.images) == 2]
    assert any(record.prompt_raw for record in several)
    losses = [study.loss(record) for record in splits.holdout]
    baseline = front["baseline"]["holdout"]
    assert baseline["answer_nll"]["value"] == near(sum(losses) / len(losses))
    assert baseline["budget"]["value"] == 1
    for member in front["members"]:
        assert member["constraints"]["kv_bytes <= 1.0 * baseline"] == "certified"
        policy = study.policy(member)
        assert study.counted(policy, splits.search) == near(member["budget"])
        assert member["search"]["budget"] == member["budget"]
        assert study.counted(policy, splits.holdout) == near(member["holdout"]["budget"]["value"])
        assert member["holdout"]["answer_nll"]["value"] != near(baseline["answer_nll"]["value"])


def test_a_policy_of_the_front_answers(study: Study) -> None:
    """`autoprune run` with one image and with two, as many as the processor makes of them."""
    policy = study.policy(next(member for member in study.front["members"] if member["selected"]))
    for count in (1, 2):
        paths = [str(study.folder / "images" / f"{number}.png") for number in range(count)]
        images = [word for path in paths for word in ("--image", path)]
        done = cli("run", str(policy), *images, "--prompt", "w3 w5 ?", "--max-new-tokens", "3", "--json")
        assert done.code == 0, done.out
        record = Record("0", tuple(paths), prompt="w3 w5 ?")
        lengths = study.entered(policy, record)
        assert done.json["tokens_per_layer"] == lengths
        assert done.json["tokens"] == study.visual(record)
        assert done.json["budget"] == near(sum(lengths) / len(lengths) / study.visual(record))
        assert lengths[0] < done.json["tokens"]
