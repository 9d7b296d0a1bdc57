"""The reference model: disjoint digits, deterministic data, answerable questions, a checkpoint that answers them."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the scenes show scikit-learn's digits")

import torch
from digits import POOLS, Pool, scans_of
from make_data import Example, examples, write
from PIL import Image
from questions import KINDS, ask
from scenes import CANVAS, PATCHES, Painter, Thing, sample_crowded_scene
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration
from vocabulary import EOS, HEAD, IMAGE, TOKEN_ID, answer_tokens, encode, question_tokens

REFERENCE = Path(__file__).parents[2] / "examples" / "reference_vlm"
CHECKPOINT = REFERENCE / "checkpoint"


@pytest.fixture(scope="module")
def fresh() -> list[Example]:
    """Pictures with test digits under a seed that nothing else uses."""
    return list(examples("test", images=40, questions_per_image=3, seed=90210))


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor() -> object:
    return AutoProcessor.from_pretrained(CHECKPOINT, backend="pil")


def chat(processor, question: str) -> str:
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    return processor.apply_chat_template([message], add_generation_prompt=True)


class TestDigits:
    def test_no_image_is_in_two_pools(self) -> None:
        seen = [{scan.tobytes() for scan in scans_of(pool)} for pool in POOLS]
        assert all(a.isdisjoint(b) for i, a in enumerate(seen) for b in seen[:i])
        assert [len(pool) for pool in seen] == [1197, 300, 300]


class TestData:
    @pytest.mark.parametrize("pool", ["search", "test"])
    def test_same_seed_same_bytes(self, tmp_path: Path, pool: Pool) -> None:
        for name in ("a", "b"):
            write(tmp_path / name, pool, images=6, questions_per_image=2, seed=5)
        files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
        assert len(files) == 7
        assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)

    def test_more_images_extend_the_set(self) -> None:
        few, more = (list(examples("search", images, 2, seed=5)) for images in (3, 6))
        for a, b in zip(few, more, strict=False):
            assert np.array_equal(a.pixels, b.pixels)
            assert a.questions == b.questions

    def test_seeds_and_pools_give_other_pictures(self) -> None:
        pictures = [example.pixels.tobytes() for seed in (1, 2) for example in examples("search", 3, 1, seed)]
        pictures += [example.pixels.tobytes() for example in examples("test", 3, 1, 1)]
        assert len(set(pictures)) == len(pictures)

    def test_records_are_what_a_calibration_reads(self, tmp_path: Path) -> None:
        write(tmp_path, "search", images=60, questions_per_image=2, seed=5)
        records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
        assert len(records) == 120
        for record in records:
            assert set(record) == {"images", "prompt", "answer", "type"}
            with Image.open(tmp_path / record["images"][0]) as image:
                assert image.size == (CANVAS, CANVAS)
        counts = Counter(record["type"] for record in records)
        assert set(counts) == set(KINDS)
        assert max(counts.values()) - min(counts.values()) <= 2

    def test_every_question_and_answer_is_in_the_vocabulary(self) -> None:
        for example in examples("search", images=150, questions_per_image=8, seed=3):
            assert example.questions
            for question in example.questions:
                assert question_tokens(question.text)
                assert answer_tokens(question.answer)[-1] == EOS


class TestQuestions:
    """A small scene whose answers can be read off: every kind asked many times, every answer checked by hand."""

    scene = (
        Thing("shape", cell=0, value=0, color=0),  # a red circle, top left
        Thing("shape", cell=1, value=3, color=2),  # a blue star, right of it
        Thing("shape", cell=8, value=3, color=3),  # a yellow star, bottom right
        Thing("digit", cell=4, value=7, color=1),  # a green 7 in the center, below the blue star
        Thing("plate", cell=5, value=42),  # 042, right of the digit, above the yellow star
    )
    right: ClassVar = {
        "color": {("circle", "red"), ("digit", "green")},
        "shape": {("red", "circle"), ("blue", "star"), ("yellow", "star")},
        "digit": {("green", "7")},
        "where": {("circle", "top left"), ("digit", "center"), ("number", "right")},
        "number": {("", "0 4 2")},
    }

    def asked(self, kind: str) -> set[tuple[str, str]]:
        rng = np.random.default_rng(0)
        questions = [ask(kind, self.scene, rng) for _ in range(300)]
        return {(question.text, question.answer) for question in questions if question is not None}

    @pytest.mark.parametrize("kind", sorted(right))
    def test_one_thing(self, kind: str) -> None:
        pairs, asked = self.right[kind], self.asked(kind)
        assert all(any(named in text and answer == right for named, right in pairs) for text, answer in asked)
        assert all(any(named in text for text, _ in asked) for named, _ in pairs)

    def test_count(self) -> None:
        numbers = {"stars": "two", "circles": "one", "squares": "zero", "triangles": "zero"}
        answers = self.asked("count")
        for plural, number in numbers.items():
            assert {answer for text, answer in answers if plural in text} == {number}

    def test_exist(self) -> None:
        present = {"red circle", "blue star", "yellow star"}
        answers = self.asked("exist")
        assert {answer for _, answer in answers} == {"yes", "no"}
        for text, answer in answers:
            assert (answer == "yes") == any(thing in text for thing in present)

    def test_relation(self) -> None:
        assert self.asked("relation") == {
            ("what is right of the circle?", "star"),
            ("what is above the digit?", "star"),
            ("what is right of the digit?", "number"),
            ("what is left of the number?", "digit"),
            ("what is below the number?", "star"),
        }

    def test_nothing_to_ask_is_said(self) -> None:
        alone = (Thing("shape", cell=0, value=0, color=0),)
        rng = np.random.default_rng(0)
        assert [kind for kind in KINDS if ask(kind, alone, rng) is None] == ["digit", "relation", "number"]


class TestPatchLabels:
    def test_things_are_marked_where_they_are(self) -> None:
        rng = np.random.default_rng(0)
        scenes = [sample_crowded_scene(rng) for _ in range(4)]
        _, labels = Painter("search").paint(scenes, rng)
        for index, scene in enumerate(scenes):
            kinds = labels.kind[index].reshape(3, 4, 3, 4).swapaxes(1, 2).reshape(9, 16)
            filled = {cell for cell in range(9) if kinds[cell].any()}
            assert filled == {thing.cell for thing in scene}


class TestCheckpoint:
    def test_small_half_precision_and_without_torchvision(self, processor) -> None:
        weights = CHECKPOINT / "model.safetensors"
        assert weights.stat().st_size <= 12 * 2**20
        assert AutoModelForImageTextToText.from_pretrained(CHECKPOINT).dtype == torch.float16
        assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"

    def test_the_template_gives_the_training_layout(self, processor, fresh: list[Example]) -> None:
        for example in fresh[:5]:
            for question in example.questions:
                inputs = processor(
                    images=Image.fromarray(example.pixels), text=chat(processor, question.text), return_tensors="pt"
                )
                expected = [*HEAD, *[IMAGE] * PATCHES, *question_tokens(question.text)]
                assert inputs["input_ids"][0].tolist() == expected
                answer = processor.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
                assert [*answer, processor.tokenizer.eos_token_id] == answer_tokens(question.answer)

    def test_the_tokenizer_knows_the_words(self, processor) -> None:
        text = "What number is written on the plate ?"
        assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == encode(text)
        assert processor.tokenizer.get_vocab() == TOKEN_ID

    def test_generates_right_answers(self, model, processor, fresh: list[Example]) -> None:
        pairs = [(example.pixels, question) for example in fresh for question in example.questions]
        right = []
        for start in range(0, len(pairs), 40):
            part = pairs[start : start + 40]
            inputs = processor(
                images=[Image.fromarray(pixels) for pixels, _ in part],
                text=[chat(processor, question.text) for _, question in part],
                padding=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                output = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
            answers = processor.batch_decode(output, skip_special_tokens=True)
            right += [answer.strip() == question.answer for answer, (_, question) in zip(answers, part, strict=True)]
        assert len(right) >= 100
        assert np.mean(right) >= 0.85


class TestTraining:
    def test_a_few_steps_lower_the_loss_and_leave_a_loadable_folder(self, tmp_path: Path) -> None:
        size = [
            "--steps",
            "25",
            "--processes",
            "1",
            "--pictures",
            "8",
            "--question-pictures",
            "4",
            "--report-every",
            "8",
        ]
        command = [sys.executable, REFERENCE / "train.py", "--out", tmp_path, *size]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        entries = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
        for stage in ("vision", "question"):
            losses = [entry["loss"] for entry in entries if entry["stage"] == stage and "loss" in entry]
            assert losses[-1] < 0.95 * losses[0]
        assert AutoModelForImageTextToText.from_pretrained(tmp_path).num_parameters() > 10**6


def test_the_readme_shows_what_the_evaluation_wrote() -> None:
    table = (REFERENCE / "evaluation.md").read_text()
    readme = (REFERENCE / "README.md").read_text()
    rows = re.findall(r"^\|.*\|$", table, re.MULTILINE)
    assert rows
    assert all(row in readme for row in rows)
    verdicts = re.findall(r"^- (?:ok|MISSED): .*$", table, re.MULTILINE)
    assert len(verdicts) == 5
    assert "MISSED" not in table
    assert all(verdict in readme for verdict in verdicts)
