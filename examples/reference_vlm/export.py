"""Write a trained model as a folder that `from_pretrained` and `AutoProcessor` load."""

from copy import deepcopy
from pathlib import Path

from architecture import build_processor
from transformers import LlavaForConditionalGeneration


def export(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Half-precision weights, config, generation config, processor, tokenizer and chat template."""
    deepcopy(model).half().save_pretrained(folder)
    build_processor().save_pretrained(folder)
