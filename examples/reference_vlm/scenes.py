"""Scenes: what is in a picture, and the picture itself.

A picture is 96x96 pixels, 3x3 cells of 32 pixels, 12x12 patches of 8. Each cell holds at most one thing: a coloured
shape, a coloured handwritten digit, or a plate with a number of three handwritten digits. Everything lies on a
coloured texture with pixel noise, so the background is not trivially flat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from digits import BIG, SMALL, DigitTiles, Floats, Pool, digit_tiles
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from vocabulary import COLORS, SHAPES

CANVAS, PATCH, CELL = 96, 8, 32
GRID = CANVAS // PATCH
PATCHES = GRID * GRID
PLATE = (16, 32)
COVERED = 0.12
"""Share of a patch's pixels above which the patch counts as part of a thing."""

Kind = Literal["shape", "digit", "plate"]
_RGB = np.array(list(COLORS.values()), np.float32)
_SHAPE_SIZES = (15, 17, 19, 21, 22)
_TEXTURES, _TEXTURE_SIDE = 384, 128
NO_COLOR = -1


@dataclass(frozen=True)
class Thing:
    """One thing in a cell: `value` is the shape's index, the digit, or the plate's number."""

    kind: Kind
    cell: int
    value: int
    color: int = NO_COLOR

    @property
    def plate_digits(self) -> tuple[int, int, int]:
        """The plate's number, digit by digit, leading zeros included."""
        return self.value // 100, self.value // 10 % 10, self.value % 10


Scene = tuple[Thing, ...]


@dataclass(frozen=True)
class PatchLabels:
    """What every patch shows, zero being background: the trainer's auxiliary targets, shaped (scenes, 144)."""

    kind: NDArray[np.int64]
    color: NDArray[np.int64]
    digit: NDArray[np.int64]


KIND_CLASSES = 1 + len(SHAPES) + 2
COLOR_CLASSES = 1 + len(COLORS)
DIGIT_CLASSES = 1 + 10


def _polygon(shape: str, r: float) -> list[tuple[float, float]]:
    if shape == "square":
        q = r * 0.86
        return [(-q, -q), (q, -q), (q, q), (-q, q)]
    if shape == "triangle":
        return [(0, -r), (r, r * 0.8), (-r, r * 0.8)]
    if shape == "star":
        radii = [r, r * 0.42] * 5
        return [
            (radius * math.sin(k * math.pi / 5), -radius * math.cos(k * math.pi / 5)) for k, radius in enumerate(radii)
        ]
    if shape == "cross":
        w = r * 0.36
        return [
            (-w, -r),
            (w, -r),
            (w, -w),
            (r, -w),
            (r, w),
            (w, w),
            (w, r),
            (-w, r),
            (-w, w),
            (-r, w),
            (-r, -w),
            (-w, -w),
        ]
    return [(0, -r * 1.05), (r * 0.75, 0), (0, r * 1.05), (-r * 0.75, 0)]


def _shape_tile(shape: str, size: int, angle: float) -> Floats:
    over = 4
    image = Image.new("L", (BIG * over, BIG * over), 0)
    draw = ImageDraw.Draw(image)
    center, r = BIG * over / 2, size * over / 2
    if shape == "circle":
        draw.ellipse((center - r, center - r, center + r, center + r), fill=255)
    else:
        cos, sin = math.cos(angle), math.sin(angle)
        draw.polygon(
            [(center + x * cos - y * sin, center + x * sin + y * cos) for x, y in _polygon(shape, r)], fill=255
        )
    return np.asarray(image.resize((BIG, BIG), Image.Resampling.BOX), np.float32) / np.float32(255)


@cache
def _shape_tiles() -> Floats:
    rng = np.random.default_rng(23)
    return np.stack([[_shape_tile(shape, size, rng.uniform(-0.14, 0.14)) for size in _SHAPE_SIZES] for shape in SHAPES])


def _resized_noise(noise: Floats) -> Floats:
    channels = [
        Image.fromarray(noise[..., c]).resize((_TEXTURE_SIDE, _TEXTURE_SIDE), Image.Resampling.BICUBIC)
        for c in range(3)
    ]
    return np.stack([np.asarray(channel, np.float32) for channel in channels], -1)


@cache
def _textures(pool: Pool) -> Floats:
    """Backgrounds: noise at three scales around a random grey-ish tone. Every pool has its own."""
    rng = np.random.default_rng([29, sum(map(ord, pool))])
    textures = np.empty((_TEXTURES, _TEXTURE_SIDE, _TEXTURE_SIDE, 3), np.float32)
    for texture in textures:
        texture[:] = rng.uniform(70, 150) + rng.uniform(-12, 12, 3)
        for cells, amplitude in ((4, 26.0), (12, 16.0), (40, 12.0)):
            noise = rng.normal(0, amplitude, (cells, cells, 1)) + rng.normal(0, amplitude * 0.35, (cells, cells, 3))
            texture += _resized_noise(noise.astype(np.float32))
    return textures.clip(0, 255)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A picture to ask about: one to four shapes, up to two digits of different colours, and usually a plate."""
    cells = iter(rng.permutation(9).tolist())
    shapes = rng.permutation(len(SHAPES))
    if rng.random() < 0.4:  # few kinds of shape: otherwise almost every count would be one
        shapes = shapes[: rng.integers(1, 3)]
    things = [
        Thing("shape", next(cells), int(rng.choice(shapes)), int(rng.integers(len(COLORS))))
        for _ in range(rng.integers(1, 5))
    ]
    for color in rng.permutation(len(COLORS))[: rng.integers(0, 3)].tolist():
        things.append(Thing("digit", next(cells), int(rng.integers(10)), color))
    if rng.random() < 0.7:
        things.append(Thing("plate", next(cells), int(rng.integers(1000))))
    return tuple(things)


def sample_crowded_scene(rng: np.random.Generator) -> Scene:
    """A picture for the vision stage: nearly every cell is filled, mostly with digits and plates.

    Ten or more digits in a picture are what teaches the tower to read in minutes.
    """
    things = []
    for order, cell in enumerate(rng.permutation(9)[: rng.integers(7, 10)].tolist()):
        color = int(rng.integers(len(COLORS)))
        if order < 2:
            things.append(Thing("shape", cell, int(rng.integers(len(SHAPES))), color))
        elif order < 5:
            things.append(Thing("digit", cell, int(rng.integers(10)), color))
        else:
            things.append(Thing("plate", cell, int(rng.integers(1000))))
    return tuple(things)


class Painter:
    """Turns scenes into pixels with the digits and textures of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._digits: DigitTiles = digit_tiles(pool)
        self._shapes = _shape_tiles()
        self._textures = _textures(pool)

    def paint(self, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[NDArray[np.uint8], PatchLabels]:
        """Pixels (scenes, 96, 96, 3) and what every patch shows."""
        count = len(scenes)
        pixels = np.stack([self._background(rng) for _ in scenes])
        labels = PatchLabels(*(np.zeros((count, GRID, GRID), np.int64) for _ in range(3)))
        for index, scene in enumerate(scenes):
            for thing in scene:
                y, x, alpha = self._place(thing, pixels[index], rng)
                _mark(thing, y, x, alpha, PatchLabels(labels.kind[index], labels.color[index], labels.digit[index]))
        pixels += rng.normal(0, 7, (count, CANVAS, CANVAS, 1)).astype(np.float32)
        flat = (maps.reshape(count, PATCHES) for maps in (labels.kind, labels.color, labels.digit))
        return pixels.clip(0, 255).astype(np.uint8), PatchLabels(*flat)

    def _background(self, rng: np.random.Generator) -> Floats:
        texture = self._textures[rng.integers(_TEXTURES)]
        y, x = rng.integers(_TEXTURE_SIDE - CANVAS + 1, size=2)
        flip_y, flip_x = rng.choice([-1, 1], size=2)
        part: Floats = texture[y : y + CANVAS, x : x + CANVAS][::flip_y, ::flip_x]
        return part

    def _digit(self, tiles: Floats, value: int, rng: np.random.Generator) -> Floats:
        variants: Floats = tiles[rng.choice(self._digits.by_class[value])]
        one: Floats = variants[rng.integers(len(variants))]
        return one

    def _place(self, thing: Thing, canvas: Floats, rng: np.random.Generator) -> tuple[int, int, Floats]:
        """Draw one thing somewhere in its cell; returns its corner and its alpha tile."""
        row, column = divmod(thing.cell, 3)
        if thing.kind == "plate":
            y, x = row * CELL + int(rng.integers(CELL - PLATE[0] + 1)), column * CELL
            ink = np.zeros(PLATE, np.float32)
            for slot, value in enumerate(thing.plate_digits):
                left = 1 + slot * SMALL[1]
                ink[1 : 1 + SMALL[0], left : left + SMALL[1]] = self._digit(self._digits.small, value, rng)
            paper, pen = rng.uniform(5, 50), rng.uniform(200, 250)
            if rng.random() < 0.5:
                paper, pen = pen, paper
            canvas[y : y + PLATE[0], x : x + PLATE[1]] = (paper + (pen - paper) * ink)[..., None]
            return y, x, np.ones(PLATE, np.float32)
        y, x = (start * CELL + int(rng.integers(CELL - BIG + 1)) for start in (row, column))
        if thing.kind == "shape":
            alpha = self._shapes[thing.value, rng.integers(len(_SHAPE_SIZES))]
        else:
            alpha = self._digit(self._digits.big, thing.value, rng)
        color = np.clip(_RGB[thing.color] + rng.normal(0, 9, 3), 0, 255)
        region = canvas[y : y + BIG, x : x + BIG]
        region += alpha[..., None] * (color - region)
        return y, x, alpha


def _mark(thing: Thing, y: int, x: int, alpha: Floats, labels: PatchLabels) -> None:
    """Write a thing into the label maps (12, 12) of its picture."""
    top, left = y // PATCH, x // PATCH
    rows, columns = (
        (start + side - 1) // PATCH - start // PATCH + 1 for start, side in zip((y, x), alpha.shape, strict=True)
    )
    area = np.zeros((rows * PATCH, columns * PATCH), np.float32)
    area[y - top * PATCH :, x - left * PATCH :][: alpha.shape[0], : alpha.shape[1]] = alpha
    hit = area.reshape(rows, PATCH, columns, PATCH).mean((1, 3)) > COVERED
    here = (slice(top, top + rows), slice(left, left + columns))
    kind = {"shape": 1 + thing.value, "digit": 1 + len(SHAPES), "plate": 2 + len(SHAPES)}[thing.kind]
    labels.kind[here][hit] = kind
    labels.color[here][hit] = 1 + thing.color
    if thing.kind == "digit":
        labels.digit[here][hit] = 1 + thing.value
    elif thing.kind == "plate":
        first, second, third = thing.plate_digits
        # A plate is four patches wide: the middle two show mostly the second digit.
        values = np.broadcast_to(np.array([first, second, second, third]) + 1, hit.shape)
        labels.digit[here][hit] = values[hit]
