"""A model that answers: loaded as its policy was measured, prompted as the calibration records were."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api.state import check_device
from autoprune.api.study import weights_folder
from autoprune.errors import BadInput
from autoprune.measures.device import best_device

if TYPE_CHECKING:
    from PIL.Image import Image

    from autoprune.pruning.loaded import LoadedPolicy


@dataclass(frozen=True)
class Speaker:
    """A loaded model and its processor."""

    network: Any
    processor: Any

    def inputs(self, pictures: Sequence[Image], prompt: str) -> Any:
        """What `generate` takes for one question: the pictures, then the prompt, in the processor's chat template."""
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        start = self.processor.tokenizer.bos_token
        special = not (start and text.startswith(start))
        nested = [
            pictures
        ]  # by prompt, as a chat's are: OneVision cuts an image only where it is its prompt's only one
        made = self.processor(images=nested, text=[text], add_special_tokens=special, return_tensors="pt")
        return made.to(self.network.device)

    def text(self, inputs: Any, made: Any) -> str:
        """What the model said after the prompt."""
        said = made[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.tokenizer.decode(said, skip_special_tokens=True))


def speaker(loaded: LoadedPolicy, model: str | None, device: str, needs: str) -> Speaker:
    """The model `model` (a folder or hub id), else the one the policy was made for, on a device (`auto`: a GPU if there
    is one). Raises BadInput, saying how to name a model (`needs`) where none is known."""
    device = best_device() if device == "auto" else device
    check_device(device)
    made_for = loaded.metadata.get("model", {})
    name = model or made_for.get("path")
    if not name:
        raise BadInput(
            f"policy {loaded.policy.name!r} was made for no particular model: name one with {needs}", code="needs-model"
        )
    if model is None and not Path(name).is_dir() and made_for.get("name"):
        name = str(made_for["name"])

    from autoprune.measures.loading import load_model

    folder = weights_folder(str(name), made_for.get("revision") if model is None else None)
    measured = loaded.metadata.get("environment", {})
    attention = measured.get("attn_implementation", "sdpa")
    return Speaker(*load_model(folder, measured.get("dtype", "float32"), device, attention))


def picture(source: Any) -> Image:
    """An RGB image from a path, the bytes of a file, a `data:` URI with base64, or a PIL image. Raises BadInput."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source.convert("RGB")
    shown = source if isinstance(source, str | Path) and not str(source).startswith("data:") else "the image"
    try:
        with Image.open(_opened(source)) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it holds no image of a known format"
        raise BadInput(f"{shown} cannot be read as an image: {reason}", code="unreadable-image") from error


def _opened(source: Any) -> Any:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(bytes(source))
    if isinstance(source, str) and source.startswith("data:"):
        head, _, body = source.partition(",")
        if not head.endswith(";base64"):
            raise BadInput("a data: image is written as data:image/png;base64,…", code="unreadable-image")
        try:
            return io.BytesIO(base64.b64decode(body, validate=True))
        except binascii.Error as error:
            raise BadInput(f"the data: image is not base64: {error}", code="unreadable-image") from error
    if isinstance(source, str | Path):
        return source
    raise BadInput(
        f"an image is a path, bytes, a data: URI or a PIL image, not {type(source).__name__}", code="wrong-type"
    )
