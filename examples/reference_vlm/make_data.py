"""Write visual questions as calibration records: pictures as PNG, questions as one JSONL file.

    python examples/reference_vlm/make_data.py --out calib --images 700 --questions-per-image 2 --pool search --seed 7

Every record is `{"images": ["images/000000.png"], "prompt": …, "answer": …, "type": …}`, paths relative to the JSONL.
The prompt is the plain question: the processor's chat template adds the rest. The same seed and pool give the same
pictures in the same order, so asking for more of them extends a set.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from digits import POOLS, Pool
from numpy.typing import NDArray
from PIL import Image
from questions import KINDS, Question, ask
from scenes import Painter, PatchLabels, Scene, sample_scene


@dataclass(frozen=True)
class Example:
    """One picture with its questions."""

    scene: Scene
    pixels: NDArray[np.uint8]
    patches: PatchLabels
    questions: list[Question]


def _balanced(scene: Scene, rng: np.random.Generator, count: int, asked: Counter[str]) -> list[Question]:
    """`count` different questions, of the kinds asked least so far; `asked` is updated.

    Drawing kinds evenly would give few relations and numbers, since not every scene has something to ask.
    """
    questions: dict[str, Question] = {}
    for _ in range(10 * count):
        if len(questions) == count:
            break
        luck = rng.random(len(KINDS))
        for kind in sorted(KINDS, key=lambda kind: (asked[kind], luck[KINDS.index(kind)])):
            question = ask(kind, scene, rng)
            if question is not None and question.text not in questions:
                questions[question.text] = question
                asked[kind] += 1
                break
    return list(questions.values())


def examples(pool: Pool, images: int, questions_per_image: int, seed: int) -> Iterator[Example]:
    """Pictures with the pool's digits, in a fixed order."""
    painter = Painter(pool)
    asked: Counter[str] = Counter()
    for index in range(images):
        rng = np.random.default_rng([seed, POOLS.index(pool), index])
        scene = sample_scene(rng)
        pixels, patches = painter.paint([scene], rng)
        yield Example(scene, pixels[0], patches, _balanced(scene, rng, questions_per_image, asked))


def write(out: Path, pool: Pool, images: int, questions_per_image: int, seed: int) -> None:
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for index, example in enumerate(examples(pool, images, questions_per_image, seed)):
        name = f"images/{index:06d}.png"
        Image.fromarray(example.pixels).save(out / name, compress_level=1)
        for question in example.questions:
            record = {"images": [name], "prompt": question.text, "answer": question.answer, "type": question.kind}
            lines.append(json.dumps(record) + "\n")
    (out / "records.jsonl").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write visual questions as calibration records.")
    parser.add_argument("--out", type=Path, required=True, help="folder for records.jsonl and images/")
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--questions-per-image", type=int, default=2)
    parser.add_argument("--pool", choices=get_args(Pool), required=True, help="whose digits: no two pools share one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.out, options.pool, options.images, options.questions_per_image, options.seed)


if __name__ == "__main__":
    main()
