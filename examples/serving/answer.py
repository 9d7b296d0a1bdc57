"""A transformers pipeline behind a policy handle: the pipeline knows nothing of it, and follows the alias all the same.

    python examples/serving/answer.py models:/quickstart@champion IMAGE "what is the number?" [PROMPT …]

One request per prompt, each in a thread of its own, as a server would have them.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import autoprune

CHECKPOINT = Path(__file__).resolve().parents[1] / "reference_vlm" / "checkpoint"


def serve(model: str | Path) -> Any:
    """An image-text-to-text pipeline over an unmodified model."""
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model, backend="pil")
    return pipeline("image-text-to-text", model=network, processor=processor)


def answer(pipe: Any, image: Image.Image, prompt: str) -> tuple[str, float]:
    """The answer and what it cost: the visual positions that entered the decoder layers, of the unpruned ones."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
    with autoprune.using(prompt=prompt) as used:  # under the policy in force; `used` is this request's own record
        found = pipe(text=[{"role": "user", "content": content}], max_new_tokens=8, return_full_text=False)
        return found[0]["generated_text"].strip(), used.budget().mean


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy")
    parser.add_argument("image", type=Path)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--model", default=CHECKPOINT)
    parser.add_argument("--refresh", default="60s")
    given = parser.parse_args(arguments)
    pipe = serve(given.model)
    image = Image.open(given.image).convert("RGB")
    with autoprune.PolicyHandle(given.policy, refresh=given.refresh) as handle:
        handle.attach(pipe.model, tokenizer=pipe.tokenizer)
        with ThreadPoolExecutor(max_workers=4) as pool:
            answers = list(pool.map(lambda prompt: answer(pipe, image, prompt), given.prompts))
        for prompt, (text, budget) in zip(given.prompts, answers, strict=True):
            print(f"{prompt} {text}  ({budget:.2f} of the visual positions)")
        print(json.dumps(handle.status().to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
