"""How much the vision tower's attention brings to each patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from autoprune.errors import BadInput, Mistake
from autoprune.pruning.encoder_signals import EncoderWalk, Over, Start, WalkHeads
from autoprune.pruning.parts import Sizes, Tier, part
from autoprune.pruning.signals import (
    EncoderLayer,
    EncoderLayers,
    Number,
    PartConfig,
    Signal,
    Site,
    encoder_block,
    layer_or_layers,
)

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


WHOLE = ("all", "patches", "norm")  # starts that need every row of the map


class EncoderAttention(PartConfig):
    """layer: encoder block, 0-based, negative from the end, or a fraction of the depth. layers: in its place, the first
    and the last of a range of blocks, put together by `over`: sum (the default), mean, ema (each block halves what was
    before) or difference (the last less the first).

    from: where the walk starts: cls (the class token), all (every token alike: the attention a token receives), patches
    (all but the class token), norm (the patches by the length of their features as they enter the block) or query (the
    softmax row of the mean query). without_cls: where it starts instead of cls in a tower that has no class token (all
    or query); null: the policy is refused there. hops: how often attention passes it on.
    gate: between hops only patches that hold more than this many times the mean go on, all alike; null: every head
    passes on what it has.

    heads: how heads become one: mean, sum, max, rms (root of the mean square), top_half (mean over those half of them
    that bring most to patches), joined (queries and keys of all heads side by side are one head, scaled by the
    tower's width: not the tower's own attention), or each (they stay apart, for `group: head`). head_variance: with
    rms, heads of which the variance of the patches' scores, scaled to mean 1, lies outside these two bounds do not
    count, unless that leaves none (Zero-TPrune: [.01, .7]). temperature: divides the logits before the softmax.
    """

    layer: EncoderLayer = -2
    layers: EncoderLayers = None
    over: Over | None = None
    source: Start = Field(default="cls", alias="from")
    without_cls: Literal["all", "query"] | None = None
    hops: int = Field(default=1, ge=1, le=100, strict=True)
    gate: Number | None = Field(default=None, ge=0)
    heads: WalkHeads = "mean"
    head_variance: tuple[Number, Number] | None = None
    temperature: Number = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        return layer_or_layers(data)

    @model_validator(mode="after")
    def _between(self) -> EncoderAttention:
        if self.without_cls is not None and self.source != "cls":
            raise Mistake("conflict", f"`without_cls` stands in for `from: cls`, not for `from: {self.source}`")
        if self.gate is not None and self.hops == 1:
            raise Mistake("conflict", "`gate` acts between hops: it needs `hops` of at least 2")
        if self.head_variance is not None:
            low, high = self.head_variance
            if self.heads != "rms":
                raise Mistake("conflict", "`head_variance` chooses among heads that meet by `heads: rms`")
            if not 0 <= low < high:
                raise Mistake("empty-range", f"`head_variance` is a lower and a higher bound, not [{low}, {high}]")
        return self

    def tier(self, declared: Tier) -> Tier:
        """One row, or a whole map."""
        return "T3" if self.source in WHOLE or self.hops > 1 else declared

    def walk(self, site: Site) -> EncoderWalk:
        return EncoderWalk(
            blocks=self.blocks(site),
            over=self.over or "sum",
            start=self.start(site.has_cls),
            hops=self.hops,
            gate=self.gate,
            heads=self.heads,
            temperature=self.temperature,
            has_cls=site.has_cls,
            variance=self.head_variance,
        )

    def start(self, has_cls: bool) -> Start:
        """Where the walk starts in a tower with or without a class token."""
        if has_cls or self.source not in ("cls", "patches"):
            return self.source
        return "all" if self.source == "patches" else self.without_cls or "cls"

    def blocks(self, site: Site) -> tuple[int, ...]:
        """The blocks that are listened to, in order. Raises BadInput where they are not the tower's or not in order."""
        if self.layers is None:
            return (encoder_block(-2 if self.layer is None else self.layer, site),)
        first, last = (encoder_block(end, site) for end in self.layers)
        if first >= last:
            raise BadInput(f"encoder_attention.layers: block {first} does not come before block {last}")
        return (first, last) if self.over == "difference" else tuple(range(first, last + 1))

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if self.start(site.has_cls) == "cls" and not site.has_cls:
            raise BadInput(
                "encoder_attention from 'cls': this model's vision tower has no class token; `without_cls: all` "
                "(attention a patch receives) or `without_cls: query` (the mean query's row) stand in for it"
            )
        if self.heads == "top_half" and not site.has_cls:
            raise BadInput(
                "encoder_attention.heads 'top_half': this model's vision tower has no class token, "
                "so every head brings the same to its patches"
            )
        return (self.walk(site),)


def flops(config: EncoderAttention, sizes: Sizes) -> int:
    """Per picture and block 2·T·w for one row. From `all`, `patches` and `norm`, and with more hops, 2·T²·w for the map
    and 2·T²·heads for each hop after the first (of `norm` for that, too, and 2·T·w for the lengths; of `query` its
    row). T tokens, width w. Windows of a block count as the whole picture."""
    vision = sizes.geometry.vision
    total = 0
    for tokens in sizes.tower:
        row = 2 * tokens * vision.width
        start = config.start(vision.has_cls)
        if start in WHOLE or config.hops > 1:
            heads = 1 if config.heads == "joined" else vision.heads
            whole = tokens * row + (config.hops - 1) * 2 * tokens**2 * heads
            if start == "norm":
                whole += 2 * tokens**2 * heads
            row = whole + (row if start in ("query", "norm") else 0)
        total += row
    return total * len(config.blocks(sizes.site))


@part(
    "criterion",
    "encoder_attention",
    EncoderAttention,
    flops=flops,
    tier="T1",
    paper="[CLS] Attention is All You Need for Training-Free Visual Token Pruning (FasterVLM, 2024); layers: VTC-CLS; "
    "all: FoPru, HiPrune; query: FlowCut on Qwen; hops, gate: VFlowOpt; rms: Zero-TPrune; joined: PruMerge",
)
def encoder_attention(view: StageView, config: EncoderAttention) -> Tensor:
    """Where a walk over the tower's attention ends: from the class token, from all tokens, or from the mean query.

    [B, V]; of heads `each` [B, V, H].
    """
    return view.provide(config.walk(view.site))
