"""Records as token ids: the prompt exactly as the processor makes it, the answer exactly as the model would go on.

How an answer is tokenised. `generate` starts after the prompt's ids, so the answer must be a continuation of *them*:

1. What stands between prompt and answer (often a space) is asked of the chat template: the conversation with the
   answer as an assistant turn is rendered, and whatever separates the generation prompt from the answer is kept.
   For `prompt_raw`, and for templates that rewrite the answer, it is one space, or nothing if the prompt ends in
   whitespace or a special token.
2. Prompt and prompt + separator + answer are tokenised as whole texts, and the ids after the prompt's are the answer.
   So a BPE or SentencePiece tokenizer sees the leading space where it really is ("assistant:" + " red" -> "▁red").
3. Where the tokenizer merges across the boundary the prompt's ids are no prefix; then separator + answer is tokenised
   on its own, because the model could not have produced the merged token either.

One end-of-sequence token follows the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration import image_only
from autoprune.calibration.records import Record
from autoprune.errors import BadInput
from autoprune.policy.geometry import PatchGrid, Pictures

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One record as model inputs. `tokens[name]` has shape [S] (`input_ids` and whatever else goes with each token),
    `vision[name]` the processor's tensors of its images, `answer` the ids after the prompt (empty without an answer),
    `visual` how many of the S positions are image placeholders, `tiles` how many images the vision tower sees, `grids`
    how many patches high and wide each is where they have any size. `words`: what the user says, as a guard's rules
    about prompts are to see it, without the chat template around it; all of a `prompt_raw`."""

    id: str
    tokens: Mapping[str, Tensor]
    vision: Mapping[str, Tensor]
    answer: tuple[int, ...]
    visual: int
    tiles: int
    grids: tuple[PatchGrid, ...] = ()
    words: str = ""

    @property
    def pictures(self) -> Pictures:
        """What the vision tower is given."""
        return self.grids or self.tiles

    @property
    def length(self) -> int:
        """Prompt tokens, placeholders included."""
        return int(self.tokens["input_ids"].shape[0])


def load_processor(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The model's processor from local files, with the PIL image backend: the same pixels on every machine."""
    from transformers import AutoProcessor

    options = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        return AutoProcessor.from_pretrained(path, backend="pil", **options)
    except (AttributeError, ImportError, OSError, ValueError):  # a video part has no PIL backend, or misses torchvision
        if not image_only.fits(path, options):
            raise
    return image_only.load(path, options)


class Encoder:
    """Turns records into rows. Image tensors are shared between the records of one image.

    `image_token_id`: the placeholder. `eos`: every id that ends a generation; the tokenizer's own is appended to
    answers if it is among them, else the first.
    """

    def __init__(self, processor: Any, image_token_id: int, eos: Sequence[int], dtype: Any = None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = image_token_id
        self.eos = tuple(eos)
        self.dtype = dtype
        self._vision: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def row(self, record: Record) -> Row:
        """The record's inputs. Raises BadInput for an unreadable image, a prompt that does not fit its images, or a
        prompt that ends in an image (no text token would be left to answer from)."""
        text = self.prompt(record)
        self._check_placeholders(record, text)
        pictures = _open(record)
        nested = [pictures] if pictures else pictures  # as a chat's: some families cut a sample's only image otherwise
        try:
            made = self.processor(
                images=nested, text=[text], add_special_tokens=self._special(text), return_tensors="pt"
            )
        except ValueError as error:
            raise BadInput(
                f"record {record.id!r}: the processor refuses it: {error}", code="unusable-record"
            ) from error
        ids = made["input_ids"]
        tokens = {name: value[0] for name, value in made.items() if value.shape == ids.shape}
        tokens.pop("attention_mask", None)
        vision = {name: value for name, value in made.items() if value.shape != ids.shape}
        if int(ids[0, -1]) == self.image_token_id:
            raise BadInput(
                f"record {record.id!r}: the prompt ends in an image; put text after it", code="unusable-record"
            )
        shared = self._vision.setdefault(record.images, {name: self._cast(value) for name, value in vision.items()})
        visual = int((ids == self.image_token_id).sum())
        answer = self.answer(record, text) if record.answer is not None else ()
        tiles, grids = _tiles(vision, len(record.images)), _grids(vision)
        return Row(record.id, tokens, shared, answer, visual, tiles, grids, record.prompt or record.prompt_raw or "")

    def prompt(self, record: Record) -> str:
        """The prompt's text, one placeholder per image."""
        if record.prompt_raw is not None:
            return record.prompt_raw
        return self._render(self._question(record), generate=True)

    def answer(self, record: Record, prompt: str) -> tuple[int, ...]:
        """Ids of the record's answer after that prompt, and an end token (rule: see the module)."""
        special = self._special(prompt)
        text = self._separator(record, prompt) + str(record.answer)
        before = self.tokenizer(prompt, add_special_tokens=special)["input_ids"]
        whole = self.tokenizer(prompt + text, add_special_tokens=special)["input_ids"]
        if whole[: len(before)] == before:
            ids = whole[len(before) :]
        else:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids or self.image_token_id in ids:
            raise BadInput(
                f"record {record.id!r}: the answer {record.answer!r} has no tokens of its own", code="unusable-record"
            )
        return (*ids, self._end)

    @property
    def _end(self) -> int:
        own = self.tokenizer.eos_token_id
        return int(own) if own in self.eos else self.eos[0]

    def _separator(self, record: Record, prompt: str) -> str:
        answer = str(record.answer)
        if record.prompt_raw is None:
            turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
            whole = self._render([*self._question(record), turn], generate=False)
            between, found, _ = whole.removeprefix(prompt).partition(answer)
            if whole.startswith(prompt) and found and not between.strip():
                return between
        closed = prompt[-1:].isspace() or any(prompt.endswith(token) for token in self.tokenizer.all_special_tokens)
        return "" if closed or not prompt else " "

    def _question(self, record: Record) -> list[dict[str, Any]]:
        images: list[dict[str, str]] = [{"type": "image"} for _ in record.images]
        return [{"role": "user", "content": [*images, {"type": "text", "text": str(record.prompt)}]}]

    def _render(self, conversation: list[dict[str, Any]], generate: bool) -> str:
        if self.processor.chat_template is None:
            raise BadInput(
                "the model's processor has no chat template: give records 'prompt_raw' instead of 'prompt'",
                code="unusable-record",
            )
        from jinja2 import TemplateError

        try:
            text = self.processor.apply_chat_template(conversation, add_generation_prompt=generate, tokenize=False)
        except TemplateError as error:  # wrong, or stopped by the sandbox it runs in
            raise BadInput(f"the model's chat template cannot be used: {error}", code="unusable-record") from error
        return str(text)

    def _special(self, text: str) -> bool:
        """Whether the tokenizer adds its start token: not if the template wrote it already."""
        start = self.tokenizer.bos_token
        return not (start and text.startswith(start))

    def _check_placeholders(self, record: Record, text: str) -> None:
        token = getattr(self.processor, "image_token", None)
        if token is not None and text.count(token) != len(record.images):
            raise BadInput(
                f"record {record.id!r}: the prompt has {text.count(token)} image placeholders {token!r} "
                f"for {len(record.images)} images",
                code="unusable-record",
            )

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value


def _grids(vision: Mapping[str, Tensor]) -> tuple[PatchGrid, ...]:
    """Patches high and wide of each image, where the processor says so."""
    grids = vision.get("image_grid_thw")
    return () if grids is None else tuple((high, wide) for _, high, wide in grids.tolist())


def _tiles(vision: Mapping[str, Tensor], images: int) -> int:
    """How many pictures the vision tower is given: tiles are counted where the processor cuts an image into several."""
    pixels = vision.get("pixel_values")
    if pixels is None or pixels.dim() < 4:
        return images
    return int(pixels.shape[0] if pixels.dim() == 4 else pixels.shape[0] * pixels.shape[1])


def _open(record: Record) -> list[Any]:
    from PIL import Image

    opened = []
    for path in record.images:
        try:
            with Image.open(path) as image:
                opened.append(image.convert("RGB"))
        except OSError as error:
            raise BadInput(
                f"record {record.id!r}: {path} cannot be read as an image: {error}", code="unreadable-image"
            ) from error
    return opened
