"""Synthetic samples with a value for every signal, and every part in every variant."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

import pruning_support  # noqa: F401 - one thread, quiet library
import torch
from pydantic import ValidationError

from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage, Score
from autoprune.pruning import parts
from autoprune.pruning.decoder_signals import DecoderKeys, DecoderWalk, KeyNorm, NormedStates, ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures, EncoderKeys, EncoderWalk, Pixels
from autoprune.pruning.grouping import Partition, partition
from autoprune.pruning.pairs import Pairs
from autoprune.pruning.plan import PlannedStage, make_plan
from autoprune.pruning.signals import Signal
from autoprune.pruning.stage import Reduction, reduce
from autoprune.pruning.view import Grid, StageView, TextSpace

VISION = VisionGeometry(depth=3, width=12, heads=2, mlp=24, image_size=48, patch_size=8, has_cls=True)
GEOMETRY = Geometry("llava", 6, 16, 4, 2, 4, 32, 128, VISION, 36)
COUNTS = [23, 36, 11]  # visual tokens of the samples
TEXTS = [2, 4, 3]  # prompt rows of the samples
PROTECTED = [(4, 22), (), (0, 1, 10)]
WIDTHS: dict[type, int] = {EncoderFeatures: 12, ProjectedFeatures: 16, NormedStates: 16, EncoderKeys: 6, DecoderKeys: 4}
SITES: tuple[tuple[Literal["projector", "llm"], int], ...] = (("projector", 0), ("llm", 0), ("llm", 3))


def variants(kind: parts.Kind) -> Iterator[Part]:
    """Every part with every value of its enumerated parameters, as far as they go together; of the feature spaces, that
    are the same numbers to a part, one with all of the other parameters and each with their first values."""
    for name in parts.names(kind):
        info = parts.find(kind, name)
        assert info is not None
        if info.tier == "T4":  # an oracle for diagnostics, which policies cannot use
            continue
        choices = {}
        for key, field in info.config.model_fields.items():
            if get_origin(field.annotation) is Literal:
                choices[field.alias or key] = get_args(field.annotation)
        spaces = choices.pop("space", ())
        given = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
        first = {"space": info.config.model_fields["space"].default} if spaces else {}
        others = [{**given[0], "space": space} for space in spaces if space not in first.values()]
        for params in [{**values, **first} for values in given] + others:
            with contextlib.suppress(ValidationError):
                info.config.model_validate(params)
                yield Part(name, params)


def identifier(part: Any) -> str | None:
    return "-".join([part.name, *map(str, part.params.values())]) if isinstance(part, Part) else None


def plan_stage(
    score: Score | None,
    select: Part | None = None,
    merge: Part | None = None,
    where: int = 2,
    group: Part | None = None,
) -> PlannedStage | None:
    """The stage bound to the test geometry, or None where the part is refused at this site."""
    site, layer = SITES[where]
    picks = (ResolvedPick(score, select or Part("stride"), group=group),)
    stage = ResolvedStage(site, layer, Keep("fraction", Fraction(1, 2)), picks, merge or Part("drop"))
    try:
        return make_plan(ResolvedPolicy((stage,), 6), GEOMETRY).stages[0]
    except BadInput:
        return None


def layout(tokens: int) -> ImageLayout:
    number = torch.arange(tokens)
    return ImageLayout(number, torch.zeros_like(number), number // 6, number % 6, 1)


class World:
    """Synthetic samples with a value for every signal; the same numbers whether batched or alone."""

    def __init__(self, samples: Sequence[int]) -> None:
        self.samples = list(samples)
        self.width = max(COUNTS[s] for s in samples)

    def values(self, name: str, size: tuple[int, ...]) -> torch.Tensor:
        rows = torch.full((len(self.samples), self.width, *size), float("nan"))  # padding must never matter
        for b, s in enumerate(self.samples):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + s)
            rows[b, : COUNTS[s]] = torch.randn(COUNTS[s], *size, generator=generator)
        return rows

    def signal(self, signal: Signal) -> torch.Tensor:
        if isinstance(signal, Pixels):
            images = torch.tensor([[7919 * (s + 1)] for s in self.samples])
            return images.expand(-1, self.width)
        width = next((w for kind, w in WIDTHS.items() if isinstance(signal, kind)), None)
        if isinstance(signal, EncoderWalk | DecoderWalk) and signal.heads == "each":
            width = VISION.heads if isinstance(signal, EncoderWalk) else GEOMETRY.heads
        return self.values(repr(signal), () if width is None else (width,)).nan_to_num(0)

    def view(self, planned: PlannedStage, protect: bool = True) -> StageView:
        counts = torch.tensor([COUNTS[s] for s in self.samples])
        numbers = torch.arange(self.width).expand(len(self.samples), self.width)
        valid = numbers < counts[:, None]
        shielded = torch.zeros_like(valid)
        for b, s in enumerate(self.samples if protect else []):
            shielded[b, list(PROTECTED[s])] = True
        mass = self.values("mass", ()).abs().nan_to_num(1) + 0.5
        hidden = self.values("hidden", (16,)).nan_to_num(0)
        grid = Grid(numbers // 100, numbers // 100, numbers // 6, numbers % 6)
        free = valid & ~shielded
        return StageView(
            planned.site,
            hidden,
            valid,
            free,
            numbers,
            numbers,
            mass,
            self.signal,
            grid,
            self.text,
            self.partition,
            counts,
            self.pairs,
        )

    def partition(self, use: Any) -> Partition:
        """Samples of one image, six tokens a row."""
        layouts = [layout(COUNTS[s]) for s in self.samples]
        found, groups, largest = partition(use, layouts, [1] * len(layouts))
        ids = torch.zeros(len(self.samples), self.width, dtype=torch.long)
        pieces = torch.split(found, [COUNTS[s] for s in self.samples])
        for b, (s, own) in enumerate(zip(self.samples, pieces, strict=True)):
            ids[b, : COUNTS[s]] = own
        return Partition(ids, groups, largest)

    def pairs(self, space: TextSpace) -> Pairs:
        """Every 16 tokens are a pair; all text belongs to the last one."""
        rows, real = self.text(space)
        tokens = torch.arange(self.width).expand(len(self.samples), self.width) // 16
        last = torch.tensor([[(COUNTS[s] - 1) // 16] for s in self.samples])
        return Pairs(tokens.minimum(last), rows, torch.where(real, last, -1), last, int(last.amax()) + 1)

    def text(self, space: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded prompt rows: 2, 4 and 3 of them."""
        size = () if isinstance(space, KeyNorm) else (WIDTHS.get(type(space), 16),)
        real = torch.zeros(len(self.samples), 4, dtype=torch.bool)
        rows = torch.full((len(self.samples), 4, *size), float("nan"))
        for b, s in enumerate(self.samples):
            real[b, 4 - TEXTS[s] :] = True
            generator = torch.Generator().manual_seed(zlib.crc32(str(space).encode()) + s)
            rows[b, 4 - TEXTS[s] :] = torch.randn(TEXTS[s], *size, generator=generator)
        return rows, real

    def reduce(self, planned: PlannedStage, keep: Sequence[int]) -> Reduction:
        now = [COUNTS[s] for s in self.samples]
        return reduce(planned, self.view(planned), keep, now, [len(PROTECTED[s]) for s in self.samples])


ALL = World([0, 1, 2])
SELECTORS, MERGERS = list(variants("selector")), list(variants("merger"))
RANDOM = Part("random", {"seed": 1})
