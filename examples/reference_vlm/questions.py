"""Questions about a scene, with their only right answer.

Every kind needs other regions of the picture: one thing (`color`, `shape`, `digit`, `where`), two neighbours
(`relation`), all shapes (`count`, `exist`), or the fine strokes of a plate (`number`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scenes import Scene, Thing
from vocabulary import COLOR_NAMES, NUMBER_WORDS, PLACES, PLURALS, SHAPES

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str


_NEIGHBOURS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _of_kind(scene: Scene, kind: str) -> list[Thing]:
    return [thing for thing in scene if thing.kind == kind]


def _name(thing: Thing) -> str:
    return {"shape": SHAPES[thing.value % len(SHAPES)], "digit": "digit", "plate": "number"}[thing.kind]


def _unambiguous(scene: Scene) -> list[Thing]:
    """Things whose name alone tells which one is meant."""
    names = [_name(thing) for thing in scene]
    return [thing for thing, name in zip(scene, names, strict=True) if names.count(name) == 1]


Maker = Callable[[Scene, np.random.Generator], tuple[str, str] | None]
"""Asks one question of its kind, as (text, answer), or returns None if the scene has nothing to ask about."""


def _color(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    things = [thing for thing in _unambiguous(scene) if thing.kind != "plate"]
    if not things:
        return None
    thing = _pick(rng, things)
    form = _pick(rng, ("what color is the {}?", "what is the color of the {}?", "name the color of the {}."))
    return form.format(_name(thing)), COLOR_NAMES[thing.color]


def _shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    shapes = _of_kind(scene, "shape")
    colors = [thing.color for thing in shapes]
    unique = [thing for thing in shapes if colors.count(thing.color) == 1]
    if not unique:
        return None
    thing = _pick(rng, unique)
    form = _pick(rng, ("what shape is {}?", "which shape is {}?", "name the {} shape."))
    return form.format(COLOR_NAMES[thing.color]), SHAPES[thing.value]


def _digit(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    digits = _of_kind(scene, "digit")
    if not digits:
        return None
    thing = _pick(rng, digits)
    form = _pick(rng, ("what digit is {}?", "which digit is {}?", "read the {} digit."))
    return form.format(COLOR_NAMES[thing.color]), str(thing.value)


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    shapes = [thing.value for thing in _of_kind(scene, "shape")]
    asked = _pick(rng, shapes) if rng.random() < 0.75 else int(rng.integers(len(SHAPES)))
    form = _pick(rng, ("how many {} are there?", "how many {}?", "count the {}."))
    return form.format(PLURALS[asked]), NUMBER_WORDS[shapes.count(asked)]


def _exist(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    present = [(thing.value, thing.color) for thing in _of_kind(scene, "shape")]
    shape, color = asked = _pick(rng, present)
    if rng.random() < 0.5:
        # Near misses: another thing's shape or colour makes the question depend on both words.
        near = [(other, color) for other, _ in present] + [(shape, other) for _, other in present]
        near += [(int(rng.integers(len(SHAPES))), color), (shape, int(rng.integers(len(COLOR_NAMES))))]
        absent = [pair for pair in near if pair not in present]
        asked = _pick(rng, absent) if absent else asked
    form = _pick(rng, ("is there a {} {}?", "do you see a {} {}?"))
    return form.format(COLOR_NAMES[asked[1]], SHAPES[asked[0]]), "yes" if asked in present else "no"


def _where(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    things = _unambiguous(scene)
    if not things:
        return None
    thing = _pick(rng, things)
    return _pick(rng, ("where is the {}?", "find the {}.")).format(_name(thing)), PLACES[thing.cell]


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    by_place = {divmod(thing.cell, 3): thing for thing in scene}
    pairs = []
    for anchor in _unambiguous(scene):
        row, column = divmod(anchor.cell, 3)
        for relation, (down, across) in _NEIGHBOURS.items():
            other = by_place.get((row + down, column + across))
            if other is not None:
                pairs.append((relation, anchor, other))
    if not pairs:
        return None
    relation, anchor, other = _pick(rng, pairs)
    return f"what is {relation} the {_name(anchor)}?", _name(other)


def _number(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    plates = _of_kind(scene, "plate")
    if len(plates) != 1:
        return None
    form = _pick(rng, ("what is the number?", "read the number.", "what number is written on the plate?"))
    return form, " ".join(map(str, plates[0].plate_digits))


_MAKERS: dict[str, Maker] = {
    "color": _color,
    "shape": _shape,
    "digit": _digit,
    "count": _count,
    "exist": _exist,
    "where": _where,
    "relation": _relation,
    "number": _number,
}
KINDS = tuple(_MAKERS)


def ask(kind: str, scene: Scene, rng: np.random.Generator) -> Question | None:
    """A question of `kind` about `scene`, or None if the scene has nothing of the kind to ask about."""
    made = _MAKERS[kind](scene, rng)
    return None if made is None else Question(kind, *made)


def ask_several(
    scene: Scene, rng: np.random.Generator, count: int, weights: Sequence[float] | None = None
) -> list[Question]:
    """At most `count` different questions, their kinds drawn with `weights`."""
    share = None if weights is None else np.asarray(weights) / np.sum(weights)
    questions: dict[str, Question] = {}
    for index in rng.choice(len(KINDS), size=count * 3, p=share):
        question = ask(KINDS[index], scene, rng)
        if question is not None and len(questions) < count:
            questions.setdefault(question.text, question)
    return list(questions.values())
