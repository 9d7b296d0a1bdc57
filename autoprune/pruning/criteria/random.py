"""Pseudo-random scores that depend on the image alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.encoder_signals import Pixels
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Random(PartConfig):
    """seed: another seed, another order."""

    seed: int = Field(0, strict=True)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Pixels(),)


def _wrapped(number: int) -> int:
    """As a signed 64-bit integer would hold it: tensors wrap by themselves, Python's integers do not."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def flops(config: Random, sizes: Sizes) -> int:
    """0: a hash in integers, no multiply-add of floating-point numbers."""
    return 0


@part("criterion", "random", Random, flops=flops)
def random(view: StageView, config: Random) -> Tensor:
    """A hash of (seed, the image's pixels, the token's number in its image), uniform in [0, 1).

    No random generator is involved, so it is the same in every batch, process and thread.
    """
    import torch

    odd, mixer = 0x2545F4914F6CDD1D, 0x369DEA0F31A53F85  # any two odd 63-bit constants
    value = view.provide(Pixels()) + (view.place + 1) * odd + _wrapped((config.seed + 1) * mixer)
    for shift in (33, 29, 31):
        value = (value ^ ((value >> shift) & ((1 << (64 - shift)) - 1))) * mixer
    return ((value >> 40) & 0xFFFFFF).to(torch.float32) / float(1 << 24)
