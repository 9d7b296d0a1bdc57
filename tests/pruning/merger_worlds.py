"""Samples for mergers: lists for plain loops, and batches of different length whose padding is NaN for the engine."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch

from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedStage
from autoprune.pruning import parts
from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.plan import PlannedPick, PlannedStage, Use
from autoprune.pruning.signals import PartConfig, Signal, Site
from autoprune.pruning.stage import Reduction, reduce
from autoprune.pruning.view import Grid, StageView

torch.set_num_threads(1)

COUNTS, WIDTH, DIM = [23, 36, 11], 38, 6
PROTECTED = [(4, 22), (), (0, 1, 10)]


class Sample:
    """Lists of one sample; the same numbers whatever batch it is in."""

    def __init__(self, number: int, scored: bool, protect: bool) -> None:
        dice, self.count = random.Random(number), COUNTS[number]
        self.protected = PROTECTED[number] if protect else ()
        self.candidates = [i for i in range(self.count) if i not in self.protected]
        made = {
            space: [[dice.gauss(0.3, 1) for _ in range(DIM)] for _ in range(self.count)]
            for space in ("hidden", "projected", "encoder")
        }
        self.hidden, self.features = made["hidden"], made
        self.mass = [dice.choice([1.0, 1.0, 2.0, 3.5]) for _ in range(self.count)]
        # segments of 3 x 3 tokens, two of them in an image
        self.grid = [(i // 18, i % 18 // 9, i % 9 // 3, i % 3) for i in range(self.count)]
        self.scores = [dice.gauss(0.5, 0.6) for _ in range(self.count)] if scored else None
        if self.scores is not None:
            self.scores[7] = float("nan")

    def order(self, tokens: Sequence[int]) -> list[int]:
        """By falling score, NaN last, equals to the earlier."""
        assert self.scores is not None
        worth = [-math.inf if math.isnan(s) else s for s in self.scores]
        return sorted(tokens, key=lambda i: (-worth[i], i))

    def weight(self, token: int) -> float:
        assert self.scores is not None
        score = self.scores[token]
        return score if score > 0 else 0.0  # NaN is not above 0


def padded(rows: Sequence[Sequence[Any]], size: tuple[int, ...] = ()) -> torch.Tensor:
    result = torch.full((len(rows), WIDTH, *size), float("nan"))
    for b, row in enumerate(rows):
        result[b, : len(row)] = torch.tensor(row)
    return result


def view_of(samples: Sequence[Sample]) -> StageView:
    counts = torch.tensor([s.count for s in samples])
    numbers = torch.arange(WIDTH).expand(len(samples), WIDTH)
    valid = numbers < counts[:, None]
    shielded = torch.zeros_like(valid)
    for b, sample in enumerate(samples):
        shielded[b, list(sample.protected)] = True

    def provide(signal: Signal) -> torch.Tensor:
        space = "projected" if isinstance(signal, ProjectedFeatures) else "encoder"
        return padded([s.features[space] for s in samples], (DIM,))

    def refused(asked: object) -> Any:
        raise AssertionError(asked)

    places = [[[p[axis] for p in s.grid] + [0] * (WIDTH - s.count) for s in samples] for axis in range(4)]
    return StageView(
        site=Site("llm", 3, 6, 3, True),
        hidden=padded([s.hidden for s in samples], (DIM,)),
        valid=valid,
        candidates=valid & ~shielded,
        tokens=numbers,
        place=numbers,
        mass=padded([s.mass for s in samples]),
        provide=provide,
        grid=Grid(*(torch.tensor(axis) for axis in places)),
        text=refused,
        partition=refused,
        unpruned=torch.tensor([s.count for s in samples]),
        pairs=refused,
    )


def use(kind: parts.Kind, name: str, params: Mapping[str, Any] | None = None) -> Use:
    info = parts.find(kind, name)
    assert info is not None
    config = info.config.model_validate(dict(params or {}))
    assert isinstance(config, PartConfig)
    return Use(info.run, config)


def run(
    samples: Sequence[Sample], keep: Sequence[int], name: str, params: Mapping[str, Any] | None = None
) -> Reduction:
    """The engine's stage: `top` where there are scores, else `stride`."""
    score = None
    if samples[0].scores is not None:
        given = padded([s.scores or [] for s in samples])
        score = Use(lambda view, config: given, PartConfig())
    select = use("selector", "stride" if score is None else "top")
    stage = ResolvedStage("llm", 3, Keep("fraction", Fraction(1, 2)), (ResolvedPick(None, Part("top")),), Part(name))
    view = view_of(samples)
    merge = use("merger", name, params)
    planned = PlannedStage(0, stage, view.site, (PlannedPick(score, select, None),), merge, frozenset())
    return reduce(planned, view, keep, [s.count for s in samples], [len(s.protected) for s in samples])


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
