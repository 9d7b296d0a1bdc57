"""How records become token ids and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from autoprune.calibration.batches import batches, plan
from autoprune.calibration.encoding import Encoder
from autoprune.calibration.records import Record
from autoprune.errors import BadInput

TURNS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ before }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% else %}"
)
SPACED = (
    "{% set before = 'USER: ' %}" + TURNS + " ASSISTANT: {{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
LINED = (
    "{% set before = '<s>user\n' %}" + TURNS + "<s>assistant\n{{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]


def byte_level(merges: list[tuple[str, str]]) -> Tokenizer:
    """A byte-level BPE, as GPT-2's or Qwen's: a leading space is a character (Ġ) of its word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *letters, *("".join(merge) for merge in merges)]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def encoder(template: str | None, merges: tuple[tuple[str, str], ...] = (), start: bool = True) -> Encoder:
    raw = byte_level([("Ġ", "r"), ("Ġr", "e"), ("Ġre", "d"), ("r", "e"), ("re", "d"), *merges])
    raw.add_special_tokens(SPECIAL)
    if start:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    side = {"height": 16, "width": 16}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=side, crop_size=side),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return Encoder(processor, image_token_id=4, eos=(3,))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.new("RGB", (20, 20), (9, 80, 7)).save(path)
    return str(path)


def words(made: Encoder, ids: tuple[int, ...]) -> list[str]:
    found: list[str] = made.tokenizer.convert_ids_to_tokens(list(ids))
    return found


def record(image: str, prompt: str = "hue?", answer: str | None = "red", raw: bool = False) -> Record:
    texts: dict[str, Any] = {"prompt_raw" if raw else "prompt": prompt}
    return Record("7", (image,), answer=answer, **texts)


# ------------------------------------------------------------------------------------------------ the rule for answers
def test_a_template_with_a_space_gives_a_spaced_first_word(image: str) -> None:
    made = encoder(SPACED)
    assert words(made, made.row(record(image)).answer) == ["Ġred", "</s>"]


def test_a_template_with_a_line_break_gives_a_bare_first_word(image: str) -> None:
    made = encoder(LINED)
    assert words(made, made.row(record(image)).answer) == ["red", "</s>"]


@pytest.mark.parametrize(
    ("prompt", "first"),
    [("<image>hue: say", "Ġred"), ("<image>say ", "red"), ("<image>say\n", "red"), ("<image>x<s>", "red")],
)
def test_after_a_raw_prompt(image: str, prompt: str, first: str) -> None:
    made = encoder(None)
    assert words(made, made.row(record(image, prompt, raw=True)).answer) == [first, "</s>"]


def test_a_merge_across_the_boundary_is_not_the_models_answer(image: str) -> None:
    """'ed' after 'r' would merge into the prompt's last token; generation starts after that token."""
    made = encoder(None)
    prompt = "<image>say r"
    whole = made.tokenizer(prompt + "ed")["input_ids"]
    before = made.tokenizer(prompt)["input_ids"]
    assert whole[: len(before)] != before
    made._separator = lambda record, prompt: ""  # type: ignore[method-assign]
    assert words(made, made.answer(record(image, prompt, "ed", raw=True), prompt)) == ["e", "d", "</s>"]


def test_the_prompt_is_the_processors(image: str) -> None:
    made = encoder(SPACED)
    row = made.row(record(image))
    text = "USER: <image>hue? ASSISTANT:"
    with Image.open(image) as opened:
        direct = made.processor(images=[opened.convert("RGB")], text=[text], return_tensors="pt")
    assert row.tokens["input_ids"].tolist() == direct["input_ids"][0].tolist()
    assert row.tokens["input_ids"][0] == 2
    assert (row.visual, row.tiles, row.length) == (4, 1, len(direct["input_ids"][0]))
    assert torch.equal(row.vision["pixel_values"], direct["pixel_values"])


def test_a_start_token_is_not_doubled(image: str) -> None:
    row = encoder(LINED).row(record(image))
    assert row.tokens["input_ids"][:2].tolist().count(2) == 1


def test_records_of_one_image_share_its_pixels(image: str) -> None:
    made = encoder(SPACED)
    one, two = made.row(record(image)), made.row(record(image, "size?", "big"))
    assert one.vision["pixel_values"] is two.vision["pixel_values"]


def test_without_an_answer_there_are_no_answer_tokens(image: str) -> None:
    assert encoder(SPACED).row(record(image, answer=None)).answer == ()


@pytest.mark.parametrize(
    ("prompt", "raw", "template", "message"),
    [
        ("no placeholder", True, SPACED, "0 image placeholders '<image>' for 1 images"),
        ("<image><image> two", True, SPACED, "2 image placeholders"),
        ("what <image>", True, SPACED, "ends in an image"),
        ("what", False, None, "no chat template: give records 'prompt_raw'"),
    ],
)
def test_prompts_that_do_not_fit(image: str, prompt: str, raw: bool, template: str | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        encoder(template).row(record(image, prompt, raw=raw))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("not pixels")
    with pytest.raises(BadInput, match=r"record '7': .*a\.png cannot be read as an image"):
        encoder(SPACED).row(record(str(path)))


# -------------------------------------------------------------------------------------------------------------- batches
def test_batches_are_left_padded_and_know_their_answers(image: str) -> None:
    made = encoder(SPACED)
    texts = [("a", "red"), ("a longer question", "blue"), ("b", None), ("four", "re")]
    rows = [made.row(record(image, prompt, answer)) for prompt, answer in texts]
    answers = [row.answer for row in rows]
    seen: list[int] = []
    for batch in batches(rows, answers, 2, pad=0):
        seen.extend(batch.indices)
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert batch.inputs["pixel_values"].shape[0] == batch.size
        expected = []
        for b, place in enumerate(batch.indices):
            whole = [*rows[place].tokens["input_ids"].tolist(), *answers[place]]
            assert ids[b].tolist() == [0] * (ids.shape[1] - len(whole)) + whole
            assert mask[b].sum() == len(whole)
            assert ids[b, batch.answer_start[b] :].tolist() == list(answers[place])
            assert ids[b, batch.last_prompt[b]] == rows[place].tokens["input_ids"][-1]
            expected += list(answers[place])
        assert batch.targets.tolist() == expected
        assert ids[batch.owners, batch.columns + 1].tolist() == expected
        assert batch.scored == max(len(answers[place]) for place in batch.indices) + 1
    assert sorted(seen) == [0, 1, 2, 3]


def test_the_plan_puts_similar_lengths_together_longest_first() -> None:
    assert plan([3, 9, 4, 8, 8], 2) == [[1, 3], [4, 2], [0]]
