"""Small worlds for selectors: the same numbers as tensors for a part and as lists for a plain loop."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autoprune.pruning import parts
from autoprune.pruning.decoder_signals import NormedStates, ProjectedFeatures
from autoprune.pruning.signals import Signal, Site
from autoprune.pruning.view import Grid, Quota, StageView

Row = list[float]
COUNTS, TEXTS, WIDTH, DIM = [13, 20, 9], [2, 4, 3], 22, 8
PROTECTED = [(3, 12), (), (0, 1)]
SITE = Site("llm", 3, 6, 3, True)


@dataclass(frozen=True)
class Sample:
    """One sample as lists: feature rows and prompt rows by space, scores, and what may be chosen."""

    rows: dict[str, list[Row]]
    text: dict[str, list[Row]]
    scores: list[float]
    candidates: list[int]


@dataclass(frozen=True)
class Task:
    """A sample, what earlier picks took, how many to choose, and the scores if there are any."""

    sample: Sample
    taken: list[int]
    k: int
    scores: list[float] | None

    @property
    def free(self) -> list[int]:
        return [i for i in self.sample.candidates if i not in self.taken]


def cosine(a: Row, b: Row) -> float:
    length = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def exact_row(dice: random.Random) -> Row:
    """Four entries of ±1/2: cosines are multiples of 1/4 in any precision, so equal gains are equal."""
    row = [0.0] * DIM
    for place in dice.sample(range(DIM), 4):
        row[place] = dice.choice([-0.5, 0.5])
    return row


def loose_rows(dice: random.Random, count: int) -> list[Row]:
    """Random rows of random length, somewhat alike."""
    return [[dice.gauss(0.4, 1) for _ in range(DIM)] for _ in range(count)]


def make(kind: str, seed: int) -> list[Sample]:
    """`ties`: exact cosines and few different scores; `loose`: random numbers."""
    dice, samples = random.Random(seed), []
    for count, text, protected in zip(COUNTS, TEXTS, PROTECTED, strict=True):
        if kind == "ties":
            some = [exact_row(dice) for _ in range(6)]
            rows = {space: [list(dice.choice(some)) for _ in range(count)] for space in SPACES}
            scores = [dice.choice([0.0, 0.25, 0.5, 1.0]) for _ in range(count)]
            candidates = [i for i in range(count) if i not in protected]
            scores[candidates[1]], scores[candidates[2]] = 0.0, 1.0
        else:
            rows = {space: loose_rows(dice, count) for space in SPACES}
            scores = [dice.gauss(0, 1) for _ in range(count)]
            candidates = [i for i in range(count) if i not in protected]
        prompt = {s: [[dice.gauss(0, 1) for _ in range(DIM)] for _ in range(text)] for s in TEXT_SPACES}
        samples.append(Sample(rows, prompt, scores, candidates))
    return samples


SPACES = ("projected", "encoder", "hidden", "normed")
TEXT_SPACES = ("projected", "hidden", "normed")


def key_norms(sample: Sample) -> list[float]:
    """Norms of the prompt rows' keys: any numbers that follow from no feature row's own length."""
    return [abs(row[0]) for row in sample.text["hidden"]]


def padded(rows: Sequence[Sequence[Any]], width: int, front: bool = False) -> torch.Tensor:
    """[B, width, ...] with NaN where a sample has no row."""
    tensors = [torch.tensor(r) for r in rows]
    out = torch.full((len(rows), width, *tensors[0].shape[1:]), float("nan"))
    for b, values in enumerate(tensors):
        out[b, slice(width - len(values), width) if front else slice(len(values))] = values
    return out


def mask(indices: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    out = torch.zeros(len(indices), width, dtype=torch.bool)
    for b, chosen in enumerate(indices):
        out[b, list(chosen)] = True
    return out


def no_groups(asked: object) -> Any:
    raise NotImplementedError("these worlds have no groups, and one picture")


def view_of(samples: Sequence[Sample], width: int = WIDTH, prompt: int = 5) -> StageView:
    """Visual tokens padded at the end, prompt rows at the front."""
    features = {s: padded([x.rows[s] for x in samples], width) for s in SPACES}
    real = mask([range(prompt - len(x.text["hidden"]), prompt) for x in samples], prompt)
    words = {s: padded([x.text[s] for x in samples], prompt, front=True) for s in TEXT_SPACES}
    loud = padded([key_norms(x) for x in samples], prompt, front=True)
    counts = [len(x.scores) for x in samples]
    valid = mask([range(n) for n in counts], width)
    numbers = torch.arange(width).expand(len(samples), width)

    def provide(signal: Signal) -> torch.Tensor:
        known = {ProjectedFeatures: "projected", NormedStates: "normed"}
        return features[known.get(type(signal), "encoder")]

    return StageView(
        site=SITE,
        hidden=features["hidden"],
        valid=valid,
        candidates=mask([x.candidates for x in samples], width),
        tokens=numbers,
        place=numbers,
        mass=torch.ones(len(samples), width),
        provide=provide,
        grid=Grid(numbers * 0, numbers * 0, numbers // 4, numbers % 4),
        text=lambda space: (words[space] if isinstance(space, str) else loud, real),
        partition=no_groups,
        unpruned=torch.tensor(counts),
        pairs=no_groups,
    )


@dataclass
class Run:
    """A selector at work on a batch of tasks."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        info = parts.find("selector", self.name)
        assert info is not None
        self.info = info
        self.config = info.config.model_validate(self.params)

    def __call__(self, tasks: Sequence[Task], width: int = WIDTH) -> list[list[int]]:
        """The chosen tokens of each sample; what every selector must keep is checked on the way."""
        view = view_of([t.sample for t in tasks], width)
        taken = mask([t.taken for t in tasks], width)
        free = view.candidates & ~taken
        listed = [t.scores for t in tasks if t.scores is not None]
        scores = padded(listed, width) if listed else None
        wanted = [t.k for t in tasks]
        earlier = max(len(t.taken) for t in tasks)
        quota = Quota(torch.tensor(wanted), max(wanted), min(wanted), earlier)
        chosen = self.info.run(view, scores, quota, free, taken, self.config)
        assert chosen.dtype == torch.bool
        assert chosen.sum(1).tolist() == wanted
        assert not (chosen & ~free).any()
        return [row.nonzero()[:, 0].tolist() for row in chosen]


def tasks(samples: Sequence[Sample], k: Sequence[int | str], earlier: bool, scored: bool = True) -> list[Task]:
    """One task a sample. `earlier`: some tokens are taken already (none in the last sample). k "all": all the free."""
    found = []
    for number, (sample, wanted) in enumerate(zip(samples, k, strict=True)):
        taken = sample.candidates[1 :: 4 + number] if earlier and number < 2 else []
        free = len(sample.candidates) - len(taken)
        count = free if wanted == "all" else int(wanted)
        found.append(Task(sample, taken, count, sample.scores if scored else None))
    return found


QUOTAS: list[list[int | str]] = [[1, 3, 2], [5, 7, 0], [4, "all", 3]]
