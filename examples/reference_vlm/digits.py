"""Real handwritten digits in three pools that share no image.

scikit-learn ships 1797 digits of 8x8 pixels. They carry no writer ids, so the pools are disjoint by image, not by
writer. A digit's pool follows from the SHA-256 of its pixels: no random generator and no file order is involved,
and two identical images can never land in different pools.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pool = Literal["train", "search", "test"]
POOLS: tuple[Pool, ...] = get_args(Pool)
Floats = NDArray[np.float32]

HELD_OUT_PER_CLASS = 30
"""Digits of each class in the `search` pool, and again as many in `test`; the rest, two thirds, train."""

BIG = 24
"""Side in pixels of the tile of a single digit."""
SMALL = (14, 10)
"""Height and width of one digit of a plate."""
_UPSAMPLED = 40


@dataclass(frozen=True)
class Distortion:
    """How far a digit is bent away from its scan. The held-out pools are only turned and scaled a little."""

    rotation: float
    scale: float
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    stroke: float = 0.0


GENTLE = Distortion(rotation=0.17, scale=0.08)
STRONG = Distortion(rotation=0.25, scale=0.12, shear=0.18, shift=0.05, elastic=0.035, stroke=0.22)


@dataclass(frozen=True)
class DigitTiles:
    """Ready-made alpha tiles: `big[i, v]` and `small[i, v]` are variant v of digit i, `by_class[c]` lists class c."""

    big: Floats
    small: Floats
    by_class: tuple[NDArray[np.int64], ...]


@cache
def _scans() -> tuple[Floats, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.images, np.float32), np.asarray(bunch.target, np.int64)


def pool_members(pool: Pool) -> NDArray[np.int64]:
    """Indices of the pool's digits in scikit-learn's order; duplicates keep their first occurrence."""
    images, labels = _scans()
    keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    unique = {key: index for index, key in reversed(list(enumerate(keys)))}
    chosen: list[int] = []
    for value in range(10):
        ordered = [unique[key] for key in sorted(unique) if labels[unique[key]] == value]
        first, second = HELD_OUT_PER_CLASS, 2 * HELD_OUT_PER_CLASS
        chosen += {"test": ordered[:first], "search": ordered[first:second], "train": ordered[second:]}[pool]
    return np.array(sorted(chosen), np.int64)


def scans_of(pool: Pool) -> Floats:
    """The pool's original 8x8 scans."""
    return _scans()[0][pool_members(pool)]


def _upsample(scan: Floats) -> Floats:
    image = Image.fromarray((scan / 16 * 255).astype(np.uint8))
    return np.asarray(image.resize((_UPSAMPLED, _UPSAMPLED), Image.Resampling.BICUBIC), np.float32) / np.float32(255)


def _centered(samples: int) -> Floats:
    """Sample positions across a side of length one, around zero."""
    return (np.arange(samples, dtype=np.float32) + np.float32(0.5)) / np.float32(samples) - np.float32(0.5)


def _smooth_field(
    rng: np.random.Generator, count: int, y: Floats, x: Floats, amplitude: float
) -> tuple[Floats, Floats]:
    """Two displacement fields per digit, bilinear between 4x4 random control points."""
    control = rng.normal(0, amplitude, (2, count, 4, 4)).astype(np.float32)

    def at(grid: Floats) -> Floats:
        v, u = (np.clip((t + 0.5) * 3, 0, 2.999) for t in (y, x))
        i, j = v.astype(np.int64), u.astype(np.int64)
        fv, fu = v - i, u - j
        top = grid[:, i, j] * (1 - fu) + grid[:, i, j + 1] * fu
        bottom = grid[:, i + 1, j] * (1 - fu) + grid[:, i + 1, j + 1] * fu
        return np.asarray(top * (1 - fv) + bottom * fv, np.float32)

    return at(control[0]), at(control[1])


def _warp(
    sources: Floats, size: tuple[int, int], span: tuple[float, float], distortion: Distortion, rng: np.random.Generator
) -> Floats:
    """One random variant of every digit as a tile of `size`; `span` is how much of the scan a tile side covers.

    Sampled finer than needed and averaged, since a tile is smaller than its source.
    """
    (height, width), count = size, len(sources)
    over = round(_UPSAMPLED / height)

    def uniform(limit: float) -> Floats:
        return rng.uniform(-limit, limit, (count, 1, 1)).astype(np.float32)

    y, x = np.meshgrid(_centered(height * over), _centered(width * over), indexing="ij")
    angle, shear = uniform(distortion.rotation), uniform(distortion.shear)
    zoom_y, zoom_x = 1 + uniform(distortion.scale), 1 + uniform(distortion.scale)
    dy, dx = _smooth_field(rng, count, y, x, distortion.elastic)
    ys, xs = y * span[0] * zoom_y + dy, x * span[1] * zoom_x + dx
    xs = xs + shear * ys
    v = np.cos(angle) * ys - np.sin(angle) * xs + uniform(distortion.shift)
    u = np.sin(angle) * ys + np.cos(angle) * xs + uniform(distortion.shift)
    # A border of zeros makes everything outside the scan transparent.
    padded = np.pad(sources, ((0, 0), (1, 1), (1, 1)))
    limit = _UPSAMPLED + 0.999
    v, u = (np.clip((t + 0.5) * _UPSAMPLED + 0.5, 0, limit) for t in (v, u))
    i, j = v.astype(np.int64), u.astype(np.int64)
    fv, fu = v - i, u - j
    side = padded.shape[-1]
    corner = np.arange(count)[:, None, None] * side**2 + i * side + j

    def at(offset: int) -> Floats:
        return np.asarray(padded.ravel()[corner + offset], np.float32)

    fine = (at(0) * (1 - fu) + at(1) * fu) * (1 - fv) + (at(side) * (1 - fu) + at(side + 1) * fu) * fv
    tile = fine.reshape(count, height, over, width, over).mean((2, 4))
    # Gain and offset move the edge of the soft stroke: below zero offset is a thicker pen, above a thinner one.
    gain, offset = 1.28 + uniform(distortion.stroke), uniform(distortion.stroke / 2)
    return np.asarray(np.clip(tile * gain - offset * (tile > 0.02), 0, 1), np.float32)


@cache
def digit_tiles(pool: Pool) -> DigitTiles:
    """Every digit of the pool in several variants: strongly distorted to train on, gently otherwise."""
    members = pool_members(pool)
    images, labels = _scans()
    sources = np.stack([_upsample(image) for image in images[members]])
    variants, distortion = (12, STRONG) if pool == "train" else (5, GENTLE)
    rng = np.random.default_rng([17, POOLS.index(pool)])
    # A big digit fills about 20 of its 24 pixels; a small one leaves out the scan's empty side columns.
    big = [_warp(sources, (BIG, BIG), (1.2, 1.2), distortion, rng) for _ in range(variants)]
    small = [_warp(sources, SMALL, (1.0, 0.82), distortion, rng) for _ in range(variants)]
    by_class = tuple(np.flatnonzero(labels[members] == value) for value in range(10))
    return DigitTiles(np.stack(big, 1), np.stack(small, 1), by_class)
