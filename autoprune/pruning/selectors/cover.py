"""A set that covers the prompt and the picture: every row should have something like it among the kept tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from autoprune.errors import BadInput, Mistake
from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig
from autoprune.pruning.signals import Number, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView

Kernel = Literal["softmax", "cosine"]
ROUNDING = 1e-5  # two tokens that cover but each other gain the same


class Cover(SpaceConfig):
    """kernel: how much token i stands for row r. `softmax` (MMTok): softmax over the tokens of cos / temperature, rows
    averaged; `cosine` (CATP, first stage): (1 + cos) / 2, rows added up. text_weight, text_temperature: of the prompt's
    rows after the last visual token, against the projected tokens. vision_weight (MMTok's alpha), vision_temperature,
    space: of the picture's own tokens, against each other. A weight of 0 leaves the rows out. score_weight (CATP's
    lambda): of the token's score, scaled to [0, 1]; score_scale: from its lowest to its highest (`minmax`), or as a
    cosine, (1 + s) / 2."""

    kernel: Kernel = "softmax"
    space: FeatureSpace = "encoder"
    text_weight: Number = Field(1.0, ge=0)
    text_temperature: Number = Field(0.02, gt=0)
    vision_weight: Number = Field(0.5, ge=0)
    vision_temperature: Number = Field(0.2, gt=0)
    score_weight: Number = Field(0.0, ge=0)
    score_scale: Literal["minmax", "cosine"] = "minmax"

    @model_validator(mode="after")
    def _something_to_cover(self) -> Cover:
        if not self.text_weight and not self.vision_weight:
            raise Mistake("zero-weights", "text_weight and vision_weight cannot both be 0")
        return self

    def signals(self, site: Site) -> tuple[Signal, ...]:
        text: tuple[Signal, ...] = (ProjectedFeatures(),) if self.text_weight else ()
        return text + (super().signals(site) if self.vision_weight else ())


class Coverage:
    """Σ_r (M_ri - best_r)^+ + bonus_i, best_r = the highest M_rj of a chosen j. M [B, R, V] >= 0, bonus [B, V]."""

    def __init__(self, matrix: Tensor, taken: Tensor, bonus: Tensor | None) -> None:
        self.matrix, self.bonus = matrix, bonus
        self.best = matrix.masked_fill(~taken[:, None], 0).amax(2)

    def values(self) -> Tensor:
        import torch

        from autoprune.pruning.tensors import CHUNK

        total = torch.zeros_like(self.matrix[:, 0]) if self.bonus is None else self.bonus
        for rows in range(0, self.matrix.shape[1], CHUNK):
            part = slice(rows, rows + CHUNK)
            total = total + (self.matrix[:, part] - self.best[:, part, None]).clamp(min=0).sum(1)
        return total

    def add(self, index: Tensor) -> None:
        import torch

        from autoprune.pruning.tensors import take

        self.best = torch.maximum(self.best, take(self.matrix, index, 2)[..., 0])


def flops(config: Cover, sizes: Sizes) -> int:
    """2·r·V·d for r rows of text (all text positions, at most) and 2·V²·w for the picture's own; the steps compare and
    add."""
    text = 2 * sizes.current * sizes.text * sizes.width("projected") if config.text_weight else 0
    return text + (config.comparing(sizes, sizes.current**2) if config.vision_weight else 0)


@part(
    "selector",
    "cover",
    Cover,
    flops=flops,
    reads="value",
    paper="MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs (2025); CATP: Contextually Adaptive "
    "Token Pruning (2025) for kernel: cosine",
)
def cover(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Cover) -> Tensor:
    """Facility location, greedily: argmax_i Σ_r (M_ri - best_r)^+ + score_weight · s_i, M = [P; vision_weight · Q].

    P has a row for each prompt position after the last visual token. MMTok takes the question's words only, without
    stop words and the request for a format; which these are cannot be known here, so all rows count. Protected tokens
    neither cover nor want to be covered. M holds (R + V)·V numbers per sample.
    """
    import torch

    from autoprune.pruning.greedy import greedy, unit_interval
    from autoprune.pruning.tensors import unit

    if config.score_weight and scores is None:
        raise BadInput("selector 'cover' with a score_weight needs a score")
    blocks = []
    if config.text_weight:
        text, real = view.text("projected")
        cosine = unit(text) @ unit(view.features("projected")).transpose(1, 2)
        kernel = _kernel(cosine, real, view.candidates, config.text_temperature, config.kernel)
        blocks.append(config.text_weight * kernel)
    if config.vision_weight:
        rows = unit(config.features(view))
        cosine = rows @ rows.transpose(1, 2)
        kernel = _kernel(cosine, view.candidates, view.candidates, config.vision_temperature, config.kernel)
        blocks.append(config.vision_weight * kernel)
    bonus = None
    if config.score_weight and scores is not None:
        as_cosine = config.score_scale == "cosine"
        scaled = ((1 + scores.float()) / 2).clamp(0, 1).nan_to_num(0) if as_cosine else None
        bonus = config.score_weight * (unit_interval(scores, view.candidates) if scaled is None else scaled)
    return greedy(Coverage(torch.cat(blocks, 1), taken, bonus), quota, free, slack=ROUNDING)


def _kernel(cosine: Tensor, rows: Tensor, columns: Tensor, temperature: float, kind: Kernel) -> Tensor:
    """M [B, R, V] from cosines; 0 off the real rows [B, R] and columns [B, V]."""
    real = rows[..., None] & columns[:, None]
    if kind == "cosine":
        return ((1 + cosine) / 2).clamp(min=0).masked_fill(~real, 0)
    shares = (cosine / temperature).masked_fill(~columns[:, None], float("-inf")).softmax(2)
    return shares.masked_fill(~real, 0) / rows.sum(1).clamp(min=1)[:, None, None]
