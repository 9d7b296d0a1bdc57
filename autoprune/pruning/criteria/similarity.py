"""How alike each visual token is to the prompt, or to the other visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from autoprune.errors import Mistake
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView

From = Literal["text_mean", "last", "pair", "query", "context", "vision", "norm"]
SHARP = 0.03  # G-Prune's temperature


class Similarity(SpaceConfig):
    """A walk on the graph whose edges are the cosines between tokens.

    space, key_layer, key_heads: which feature rows are compared. kernel: what an edge passes on: its cosine (`cos`) or,
    of all edges of its token together, its share by `softmax` with a temperature (default .03). clip: edges below this
    cosine do not exist.
    from: where the walk starts: `text_mean` = the mean of the prompt rows after the last visual token, `last` = the
    last of them, `pair` = for each token, the mean of the text after its picture and before the next, `query` = the
    mean of the last picture's tokens and the text after it, `context` = that of all pictures before and their text
    (where there are none, of the query), `vision` = evenly on the visual tokens, `norm` = on the visual tokens by their
    length.
    hops: steps of the walk; from text the first one leads to the visual tokens, the others stay among them.
    by_degree: in the end divide by the token's number of edges, its own included.
    prefer: the tokens that more has reached (`similar`) or less (`different`).
    """

    kernel: Literal["cos", "softmax"] = "cos"
    temperature: Number | None = Field(default=None, gt=0)
    clip: Number | None = Field(default=None, ge=-1, le=1)
    source: From = Field(default="text_mean", alias="from")
    hops: int = Field(default=1, ge=1, strict=True)
    by_degree: bool = False
    prefer: Literal["similar", "different"] = "similar"

    @model_validator(mode="before")
    @classmethod
    def _sharp(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("kernel") != "softmax":
            return given
        temperature = given.get("temperature")
        return {**given, "temperature": SHARP if temperature is None else temperature}

    @model_validator(mode="after")
    def _fits(self) -> Similarity:
        if self.from_text and self.space in ("encoder", "encoder_keys"):
            raise Mistake(
                "conflict",
                f"the prompt has no rows in the space `{self.space}`: compare `projected`, `hidden` or `keys` ones",
            )
        if self.kernel == "cos" and self.temperature is not None:
            raise Mistake("conflict", "`temperature` belongs to `kernel: softmax`")
        if self.by_degree and self.clip is None:
            raise Mistake("conflict", "without `clip` every token has all edges: `by_degree` needs it")
        return self

    @property
    def from_text(self) -> bool:
        return self.source not in ("vision", "norm")

    @property
    def plain(self) -> bool:
        """Cosines as they are: a hop needs no graph, p·(U·Uᵀ) = (p·U)·Uᵀ."""
        return self.kernel == "cos" and self.clip is None


def flops(config: Similarity, sizes: Sizes) -> int:
    """From text 2·V·w, `pair` that for every picture, `norm` 2·V·w; each hop among visual tokens 4·V·w for plain
    cosines, else 2·V² on a graph of 2·V²·w operations."""
    tokens, among = sizes.current, config.hops - int(config.from_text)
    start = {"vision": 0, "pair": max(sizes.pictures, 1) * tokens}.get(config.source, tokens)
    if config.plain:
        return config.comparing(sizes, start + among * 2 * tokens)
    graph = tokens * tokens if among or config.by_degree else 0
    return config.comparing(sizes, start + graph) + among * 2 * tokens * tokens


@part(
    "criterion",
    "similarity",
    Similarity,
    flops=flops,
    paper="What Kind of Visual Tokens Do We Need? (G-Prune, AAAI 2025) for norm, clip, by_degree; GreedyPrune (2025) "
    "for last on hidden; CATP (AAAI 2026) for pair, query and context; SAINT (2025) for different from vision",
)
def similarity(view: StageView, config: Similarity) -> Tensor:
    """What reaches each visual token on a walk along cosines, from the prompt or from the visual tokens themselves."""
    import torch

    from autoprune.pruning.tensors import unit

    features = config.features(view).masked_fill(~view.valid[..., None], 0)
    rows, among = unit(features), config.hops - int(config.from_text)
    needed = not config.plain and (among or config.by_degree)
    cosine = rows @ rows.transpose(1, 2) if needed else None
    graph = None if cosine is None else _edges(cosine, view.valid, config)
    if config.from_text:
        mass = _edges(_to_text(view, config, features, rows)[:, None], view.valid, config)[:, 0]
    else:
        length = features.square().sum(-1).sqrt() if config.source == "norm" else view.valid.float()
        mass = length / length.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    for _ in range(among):
        passed = rows.transpose(1, 2) @ mass[..., None] if graph is None else mass[:, None]
        mass = (rows @ passed)[..., 0] if graph is None else (passed @ graph)[:, 0]
    if config.by_degree and cosine is not None:
        near = ~_missing(cosine, view.valid, config)
        mass = mass / near.sum(2).clamp(min=1)
    return mass if config.prefer == "similar" else -mass


def _to_text(view: StageView, config: Similarity, features: Tensor, rows: Tensor) -> Tensor:
    """Cosine [B, V] of each visual token to the row that stands for the prompt, or for its part of it.

    features, rows [B, V, w]: as they are, and of length 1.
    """
    from autoprune.pruning.tensors import unit

    if config.source == "pair":
        pairs = view.pairs(config.text_space(view.site))
        cosines = unit(pairs.text_means()) @ rows.transpose(1, 2)
        return cosines.gather(1, pairs.tokens[:, None])[:, 0]
    if config.source == "query" or config.source == "context":
        one = view.pairs(config.text_space(view.site)).mean(features, view.valid, config.source)
    else:
        text, real = config.text_rows(view)
        text = text.float().masked_fill(~real[..., None], 0)
        one = text[:, -1] if config.source == "last" else text.sum(1)
    return (rows @ unit(one)[..., None])[..., 0]


def _edges(cosine: Tensor, valid: Tensor, config: Similarity) -> Tensor:
    """What each row passes to each visual token, from their cosines [B, n, V]."""
    missing = _missing(cosine, valid, config)
    if config.kernel == "cos":
        return cosine.masked_fill(missing, 0)
    return (cosine / (config.temperature or SHARP)).masked_fill(missing, float("-inf")).softmax(2).nan_to_num(0)


def _missing(cosine: Tensor, valid: Tensor, config: Similarity) -> Tensor:
    """Edges [B, n, V] that do not exist: to padding, and below `clip`."""
    off = ~valid[:, None].expand_as(cosine)
    return off if config.clip is None else off | (cosine < config.clip)
