"""What a part sees of a run at one stage: the visual tokens that are still there, side by side for all samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autoprune.pruning.decoder_signals import DecoderKeys, KeyHeads, KeyNorm
from autoprune.pruning.selecting import FeatureSpace, space_signals
from autoprune.pruning.signals import Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.grouping import Partition
    from autoprune.pruning.pairs import Pairs
    from autoprune.pruning.plan import Use

TextSpace = Literal["projected", "hidden", "normed"] | DecoderKeys | KeyNorm


@dataclass(frozen=True, eq=False)
class Quota:
    """How many tokens a selector must choose: `each` [B] per sample on the device; the `most` and `least` of them, and
    the most that `earlier` picks of the stage chose, on the host. `stage` [B]: how many the whole stage keeps; None
    inside a group, where that is not shared out."""

    each: Tensor
    most: int
    least: int = 0
    earlier: int = 0
    stage: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    """Where each token lies, [B, V] int each: number of its image in the sample, segment (0 = the overview or the only
    one, 1 = high-resolution tiles), row and column in the segment. Newlines have the column after the last."""

    image: Tensor
    segment: Tensor
    row: Tensor
    column: Tensor


@dataclass(frozen=True, eq=False)
class StageView:
    """Visual tokens at a stage, raster order, padded at the end to the longest sample. B samples, V tokens.

    hidden [B, V, D]: hidden states entering the stage's decoder layer.
    valid [B, V] bool: real tokens. candidates [B, V] bool: real and not protected; only these can be selected.
    tokens [B, V] int: the token's number in its sample. place [B, V] int: its number in its image.
    mass [B, V] float32: how many original tokens a row stands for.
    provide: the value of a signal for these tokens, [B, V] or [B, V, D].
    grid: where the tokens lie in their images.
    text: rows [B, R, D] of the prompt after the last visual token, and which of them are real [B, R]: `projected` as
    they enter decoder layer 0 (word embeddings), `hidden` as they enter the stage's layer, `normed` those through the
    model's last norm, or the keys or their norms [B, R] that the part has asked for. The last is the last token.
    partition: the tokens' groups under a group part.
    unpruned [B] int: N, visual tokens of each sample before any stage.
    pairs: the prompt as pairs of a picture and the text after it, with rows of the prompt as `text` has them.
    """

    site: Site
    hidden: Tensor
    valid: Tensor
    candidates: Tensor
    tokens: Tensor
    place: Tensor
    mass: Tensor
    provide: Callable[[Signal], Tensor]
    grid: Grid
    text: Callable[[TextSpace], tuple[Tensor, Tensor]]
    partition: Callable[[Use], Partition]
    unpruned: Tensor
    pairs: Callable[[TextSpace], Pairs]

    def features(
        self, space: FeatureSpace, key_layer: int | str | None = None, key_heads: KeyHeads | None = None
    ) -> Tensor:
        """Feature rows of a space in float32, [B, V, w]; see `selecting.SpaceConfig`."""
        wanted = space_signals(space, self.site, key_layer, key_heads)
        return (self.provide(wanted[0]) if wanted else self.hidden).float()
