"""What is remembered of images that have been through tower and projector.

generate() computes image features before the forward and may repeat them per beam. So the facts ride on each image's
feature tensor, or, where the features of all images are one tensor, on the output that holds it: wherever the library
carries the features, the facts are there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError
from autoprune.models.family import ImageLayout
from autoprune.pruning.signals import Signal

if TYPE_CHECKING:
    from torch import Tensor

ATTRIBUTE = "_autoprune_facts"


@dataclass(eq=False)
class ImageFacts:
    """Of one image with n visual tokens. signals: EncoderFeatures and EncoderKeys [n, width], Pixels [n] int64, all
    others [n]."""

    layout: ImageLayout
    newline: Tensor
    signals: dict[Signal, Tensor]

    @property
    def tokens(self) -> int:
        return len(self.layout.source)


@dataclass(eq=False)
class SeenImages:
    """What a forward needs of a `get_image_features` that ran earlier: it stands in for that function's output."""

    pooler_output: Any
    deepstack_features: Any
    facts: list[ImageFacts]

    @classmethod
    def of(cls, output: Any) -> SeenImages:
        """The features of an output that carries facts; all else of it (every block's states) is let go."""
        if isinstance(output, cls):
            return output
        return cls(output.pooler_output, getattr(output, "deepstack_features", None), _riding(output))

    @property
    def signals(self) -> frozenset[Signal]:
        """Those that are known of every image."""
        return frozenset.intersection(*(frozenset(f.signals) for f in self.facts)) if self.facts else frozenset()

    def add_to(self, facts: Sequence[ImageFacts]) -> None:
        """Give facts of the same images the signals that are known already."""
        for known, new in zip(self.facts, facts, strict=True):
            new.signals = {**known.signals, **new.signals}


def carry(output: Any, facts: list[ImageFacts]) -> None:
    """Let facts ride on the features of a `get_image_features` output."""
    features = output.pooler_output
    if hasattr(features, "shape"):
        setattr(output, ATTRIBUTE, facts)
        return
    for tensor, fact in zip(features, facts, strict=True):
        setattr(tensor, ATTRIBUTE, fact)


def facts_of(output: Any, n: Sequence[int]) -> list[ImageFacts]:
    """The facts of every image of a get_image_features output, in order; `n` are the samples' visual tokens.

    Raises AutoPruneError if they were computed elsewhere.
    """
    found = output.facts if isinstance(output, SeenImages) else _riding(output)
    features = output.pooler_output
    return _repeated(found, n) if hasattr(features, "shape") and len(features) > len(found) else found


def _riding(output: Any) -> list[ImageFacts]:
    features = output.pooler_output
    if hasattr(features, "shape"):
        found = list(getattr(output, ATTRIBUTE, [None]))
    else:
        found = [getattr(f, ATTRIBUTE, None) for f in features]
    if any(f is None for f in found):
        raise AutoPruneError("the image features were not computed under this policy: attach before computing them")
    return found


def _repeated(facts: list[ImageFacts], n: Sequence[int]) -> list[ImageFacts]:
    """For beams generate() repeats a sample's rows and all its images together; `n` is of the repeated samples."""
    times = sum(n) // sum(f.tokens for f in facts)
    repeated, position = [], 0
    for expected in n[::times]:
        start, seen = position, 0
        while seen < expected and position < len(facts):
            seen += facts[position].tokens
            position += 1
        repeated += facts[start:position] * times
    return repeated
