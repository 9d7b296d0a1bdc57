"""A model, its processor and its family from local files: safetensors only, never the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration.encoding import load_processor
from autoprune.errors import BadInput
from autoprune.models.family import Family, family_of
from autoprune.models.folder import locate, read_geometry
from autoprune.policy.geometry import Geometry
from autoprune.ports import WorkerSpec

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Loaded:
    """A model ready to be measured. `eos`: ids that end its generations; `pad`: the id left of shorter prompts."""

    model: Any
    processor: Any
    family: Family
    geometry: Geometry
    eos: tuple[int, ...]
    pad: int
    dtype: torch.dtype

    @property
    def image_token(self) -> int:
        return self.family.image_token(self.model.config.to_dict())


def load(spec: WorkerSpec) -> Loaded:
    """The model of a worker spec in evaluation mode. Raises BadInput where it cannot be loaded as asked."""
    import torch

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    folder = str(locate(spec.model_path, spec.revision))
    model, processor = load_model(
        folder, spec.dtype, spec.device, spec.attn_implementation, trust_remote_code=spec.trust_remote_code
    )
    eos = _end_tokens(model, processor)
    pad = processor.tokenizer.pad_token_id
    family = family_of(model.config.to_dict())
    return Loaded(
        model, processor, family, read_geometry(folder), eos, eos[0] if pad is None else int(pad), model.dtype
    )


def load_model(
    folder: str, dtype: str, device: str, attn_implementation: str = "sdpa", *, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Model in evaluation mode and processor of a local folder. Raises BadInput if they cannot be loaded as asked."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise BadInput(f"model.dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    logging.disable_progress_bar()  # we show progress ourselves, and stderr is for people
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            use_safetensors=True,
        )
        processor = load_processor(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"model {folder!r} cannot be loaded: {error}") from error
    return model.to(device).eval().requires_grad_(False), processor


def _end_tokens(model: Any, processor: Any) -> tuple[int, ...]:
    """Every id at which `generate` stops for this model."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = processor.tokenizer.eos_token_id
    if ends is None:
        raise BadInput("neither the generation config nor the tokenizer names an end-of-sequence token")
    return tuple(int(e) for e in ends) if isinstance(ends, list | tuple) else (int(ends),)
