"""How much the prompt looks at each visual token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from autoprune.errors import BadInput, Mistake
from autoprune.pruning.decoder_signals import DecoderHeads, DecoderWalk, Start
from autoprune.pruning.parts import Sizes, Tier, part
from autoprune.pruning.signals import (
    DecoderLayer,
    DecoderLayers,
    Number,
    PartConfig,
    Signal,
    Site,
    decoder_row_layer,
    layer_or_layers,
)

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class LlmAttention(PartConfig):
    """layer: `prev` (the layer before the stage, free), `own` (the stage's layer, run up to its attention) or a decoder
    layer. layers: first and last of a range instead, put together by `over`: `sum`, `mean`, `ema` (half of what was,
    half of the next layer) or `difference` (how much more the last has than the first, at least 0).
    rise: how much more `layer` has than the layer before it, at least 0.
    from: where the walk starts: `last` = the last prompt row, `text` = the prompt rows after the last visual token,
    `query` = the softmax row of the mean of their queries, `raters` = those of them that the visual tokens are most
    alike as both enter the language model, `all` = all prompt rows, `vision` = the visual tokens, `norm` = these by the
    length of their states as they enter the layer.
    hops: steps of the walk; the last one scores, those before stay among the rows it may start from (of `last`, `query`
    and `raters`: the `text`). gate: between hops only rows with more than this many times the mean go on, evenly.
    symmetrise: the first of several hops goes along the attention and against it.
    heads: how the heads' scores become one; `top_half`: the mean of the heads that look most at visual tokens; `each`:
    they stay apart, for `group: head`. rows: of several rows to start from their `mean`, or for each token the `max`.
    rope: false = without the rotary embedding. over_rope: divided by what the rotary embedding alone makes of queries
    and keys that are all ones, so that near tokens have no advantage. over_keys: what a row's softmax runs over.
    temperature: of the softmax.
    """

    layer: DecoderLayer = "prev"
    layers: DecoderLayers = None
    over: Literal["sum", "mean", "ema", "difference"] | None = None
    rise: bool = False
    source: Start = Field(default="last", alias="from")
    hops: int = Field(default=1, ge=1, strict=True)
    gate: Number | None = Field(default=None, ge=0)
    symmetrise: bool = False
    heads: DecoderHeads = "mean"
    rope: bool = True
    over_rope: bool = False
    over_keys: Literal["all", "vision"] = "all"
    temperature: Number = Field(default=1.0, gt=0)
    rows: Literal["mean", "max"] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _one_or_more_layers(cls, given: Any) -> Any:
        return layer_or_layers(given)

    @model_validator(mode="after")
    def _several_hops(self) -> LlmAttention:
        if self.hops == 1 and (self.symmetrise or self.gate is not None):
            raise Mistake(
                "conflict", "`symmetrise` and `gate` are about what lies between hops: they need `hops: 2` or more"
            )
        if self.hops > 1 and self.over_keys == "vision" and self.source not in ("vision", "norm"):
            raise Mistake(
                "conflict", "`over_keys: vision` leaves no way between prompt rows: use `hops: 1` or `from: vision`"
            )
        if self.over_rope and (self.hops > 1 or not self.rope):
            raise Mistake(
                "conflict", "`over_rope` divides one hop's attention by that of the rotary embedding: it needs both"
            )
        if self.heads == "top_half" and self.over_keys == "vision" and not (self.over_rope or self.symmetrise):
            raise Mistake(
                "conflict", "`top_half` ranks heads by what visual tokens get: over those alone all heads give alike"
            )
        if self.rise and self.layers is not None:
            raise Mistake(
                "conflict", "`rise` compares `layer` with the one before it: for a range there is `over: difference`"
            )
        if self.source == "query" and (self.symmetrise or self.rows == "max"):
            raise Mistake(
                "conflict", "`from: query` starts with one row, that of a mean: no `symmetrise`, no `rows: max`"
            )
        if self.source == "norm" and self.rows == "max":
            raise Mistake("conflict", "`rows: max` compares rows that count alike: `from: vision`, not `from: norm`")
        if self.hops > 1 and self.rows == "max":
            raise Mistake("conflict", "`rows: max` compares the rows that a walk starts from: it needs `hops: 1`")
        return self

    def tier(self, declared: Tier) -> Tier:
        """One row, rows of the text, or a whole map."""
        if self.source in ("all", "vision", "norm"):
            return "T3"
        return "T1" if self.source in ("last", "query") and self.hops == 1 else declared

    def walks(self, site: Site) -> tuple[DecoderWalk, ...]:
        """One walk for every layer that is read."""
        return tuple(
            DecoderWalk(
                layer,
                layer == site.layer,
                self.source,
                self.hops,
                self.gate,
                self.symmetrise,
                self.heads,
                self.rope,
                self.over_keys,
                self.temperature,
                self.over_rope,
                self.rows,
            )
            for layer in self._layers(site)
        )

    def _layers(self, site: Site) -> Sequence[int]:
        if self.layers is None:
            layer = decoder_row_layer("prev" if self.layer is None else self.layer, site)[0]
            if self.rise and layer == 0:
                raise BadInput("llm_attention `rise`: no layer comes before layer 0")
            return (layer - 1, layer) if self.rise else (layer,)
        first, last = (decoder_row_layer(end, site, "llm_attention.layers")[0] for end in self.layers)
        if first >= last:
            raise BadInput(f"llm_attention.layers [{first}, {last}]: the first must come before the last")
        return (first, last) if self.over == "difference" else range(first, last + 1)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return self.walks(site)


def flops(config: LlmAttention, sizes: Sizes) -> int:
    """Per layer 2·r·s·h·e, r rows: 1 (`last`, `query`), the text (at most), the visual tokens or s; 2·r·s·h more for
    each hop after the first and for `symmetrise`, 2·r·s·e for `over_rope`, 2·V·d for the lengths of `norm`; of `query`
    with more hops its row. `own`: and the probe of all rows' q, k, v. `raters`: and 2·V·t·d."""
    total = sum(_walk(walk, sizes) for walk in config.walks(sizes.site))
    if config.source == "raters":
        total += 2 * max(sizes.visual[0], sizes.current) * sizes.text * sizes.geometry.width
    return total


def _walk(walk: DecoderWalk, sizes: Sizes) -> int:
    columns = sizes.sequence(walk.layer, walk.own)
    rows = sizes.text
    if walk.start in ("last", "query") and walk.hops == 1:
        rows = 1
    elif walk.start in ("all", "vision", "norm"):
        rows = columns if walk.start == "all" else columns - sizes.text
    more = 2 * rows * columns * sizes.geometry.heads * (walk.hops - 1 + int(walk.symmetrise))
    more += 2 * rows * columns * sizes.geometry.head_dim * int(walk.over_rope)
    more += 2 * rows * sizes.geometry.width * int(walk.start == "norm")
    more += 2 * columns * sizes.query_width * int(walk.start == "query" and walk.hops > 1)
    return sizes.probe(walk.own) + 2 * rows * columns * sizes.query_width + more


@part(
    "criterion",
    "llm_attention",
    LlmAttention,
    flops=flops,
    tier="T2",
    sites=("llm",),
    paper="An Image is Worth 1/2 Tokens After Layer 2 (FastV, ECCV 2024); PyramidDrop (CVPR 2025) for layer: own; "
    "SparseVLM (ICML 2025) for raters, top_half and over_rope; AdaptInfer (2025) for symmetrise; AIM (ICCV 2025) for "
    "many hops; FEATHER (ICCV 2025) for rope: false; CATP (AAAI 2026) for rise; query as FlowCut (2025) in a "
    "tower, norm as G-Prune (AAAI 2025) on its graph of cosines",
)
def llm_attention(view: StageView, config: LlmAttention) -> Tensor:
    """Softmax attention that prompt rows pay to each visual token at a decoder layer, in one step or several.

    [B, V]; of heads `each` [B, V, H].
    """
    scores = [view.provide(walk) for walk in config.walks(view.site)]
    total = scores[0]
    for score in scores[1:]:
        total = (total + score) / 2 if config.over == "ema" else total + score
    if config.rise or config.over == "difference":
        return (scores[1] - scores[0]).clamp(min=0)
    return total / len(scores) if config.over == "mean" else total
