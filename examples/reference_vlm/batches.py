"""Batches for training and measuring: scenes, their pixels, and all questions of a picture packed into one row.

Packing is what makes training affordable on two cores: the picture (147 tokens) is computed once and answers a dozen
questions. Positions and the attention mask make every question see the picture and itself only, so the computation is
exactly that of one question at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from questions import KINDS, Question, ask_several
from scenes import PATCHES, Painter, PatchLabels, Scene, sample_scene
from vocabulary import HEAD, PAD, answer_tokens, question_tokens

IGNORED = -100
"""The label of positions that are not trained on."""
PREFIX = len(HEAD) + PATCHES

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    scenes: list[Scene]
    pixels: NDArray[np.uint8]
    patches: PatchLabels
    questions: list[list[Question]]


@dataclass(frozen=True)
class Packed:
    """The text of one picture per row, as (pictures, length) arrays.

    `segments` numbers the questions from 1 (0 would be the shared picture, -1 is padding); `labels` are shifted
    already: the prediction at a position is compared with the label at the same position.
    """

    tokens: Ints
    positions: Ints
    segments: Ints
    labels: Ints


def sample_batch(
    painter: Painter, rng: np.random.Generator, pictures: int, questions: int, weights: Sequence[float] | None = None
) -> Batch:
    scenes = [sample_scene(rng) for _ in range(pictures)]
    pixels, patches = painter.paint(scenes, rng)
    return Batch(scenes, pixels, patches, [ask_several(scene, rng, questions, weights) for scene in scenes])


def text_length(questions: Sequence[Question]) -> int:
    """Tokens of one picture's questions and answers."""
    return sum(len(question_tokens(one.text)) + len(answer_tokens(one.answer)) for one in questions)


def pack(questions: Sequence[Sequence[Question]], length: int) -> Packed:
    """Lay every picture's questions one after the other into rows of `length`; those that do not fit are left out."""
    shape = (len(questions), length)
    packed = Packed(np.full(shape, PAD), np.zeros(shape, np.int64), np.full(shape, -1), np.full(shape, IGNORED))
    for row, of_picture in enumerate(questions):
        start = 0
        for segment, question in enumerate(of_picture, start=1):
            asked, answer = question_tokens(question.text), answer_tokens(question.answer)
            here = slice(start, start + len(asked) + len(answer))
            if here.stop > length:
                break
            packed.tokens[row, here] = asked + answer
            packed.positions[row, here] = np.arange(PREFIX, PREFIX + len(asked) + len(answer))
            packed.segments[row, here] = segment
            packed.labels[row, here] = [IGNORED] * (len(asked) - 1) + answer + [IGNORED]
            start = here.stop
    return packed


def tally(right: NDArray[np.bool_], packed: Packed, questions: Sequence[Sequence[Question]]) -> NDArray[np.int64]:
    """Questions answered right and questions asked, per kind: (2, kinds). `right` says it per position.

    A question is right when all its answer tokens are, the end of the sequence included.
    """
    counts = np.zeros((2, len(KINDS)), np.int64)
    for row, of_picture in enumerate(questions):
        for segment, question in enumerate(of_picture, start=1):
            mine = packed.segments[row] == segment
            if mine.any():
                scored = mine & (packed.labels[row] != IGNORED)
                counts[:, KINDS.index(question.kind)] += (int(right[row][scored].all()), 1)
    return counts
