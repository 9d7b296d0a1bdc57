"""Parameters that parts share which compare tokens by their feature rows. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from autoprune.errors import Mistake
from autoprune.pruning.decoder_signals import DecoderKeys, KeyHeads, NormedStates, ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures, EncoderKeys
from autoprune.pruning.parts import Sizes
from autoprune.pruning.signals import EncoderLayer, PartConfig, Signal, Site, encoder_block

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView, TextSpace

FeatureSpace = Literal["projected", "encoder", "hidden", "normed", "encoder_keys", "keys"]
ENCODER_KEYS = -2  # the block whose attention is read by default, too


def space_signals(
    space: FeatureSpace, site: Site, key_layer: int | str | None = None, key_heads: KeyHeads | None = None
) -> tuple[Signal, ...]:
    """What a run must keep for `StageView.features(space)`. Raises BadInput for a block that the tower does not have.

    `key_layer`, `key_heads`: see `SpaceConfig`; None = their defaults.
    """
    heads: KeyHeads = key_heads or "mean"
    if space == "hidden":
        return ()
    if space == "projected":
        return (ProjectedFeatures(),)
    if space == "normed":
        return (NormedStates(),)
    if space == "encoder":
        return (EncoderFeatures(),)
    if space == "keys":
        return (decoder_keys(site, heads),)
    layer = ENCODER_KEYS if key_layer is None else key_layer
    return (EncoderKeys(encoder_block(layer, site, "key_layer"), heads),)


def decoder_keys(site: Site, heads: KeyHeads) -> DecoderKeys:
    """Keys of the decoder layer before the stage; of layer 0 itself where none has run."""
    return DecoderKeys(max(site.layer - 1, 0), site.layer == 0, heads)


class SpaceConfig(PartConfig):
    """space: which feature rows likeness (cosine) is measured on: `projected` (what enters the language model),
    `encoder` (what enters the projector), `hidden` (what enters the stage's layer), `normed` (that through the model's
    last norm), `encoder_keys` (of a block of the vision tower) or `keys` (of the decoder layer before the stage; at
    llm:0 and projector of layer 0). Keys are as attention sees them, turned by their positions where the model does
    that.

    key_layer: the encoder block of `encoder_keys`, by default -2. key_heads: heads of keys as one row: their `mean`
    (the default) or all of them side by side (`joined`).
    """

    space: FeatureSpace = "projected"
    key_layer: EncoderLayer = None
    key_heads: KeyHeads | None = None

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, given: Any) -> Any:
        """Fill in what keys need, refuse what others cannot use."""
        if not isinstance(given, Mapping):
            return given
        space = given.get("space", cls.model_fields["space"].default)
        data = dict(given)
        if space == "encoder_keys":
            data["key_layer"] = ENCODER_KEYS if data.get("key_layer") is None else data["key_layer"]
        elif data.get("key_layer") is not None:
            raise Mistake("conflict", "`key_layer` belongs to `space: encoder_keys`")
        if space in ("encoder_keys", "keys"):
            data["key_heads"] = data.get("key_heads") or "mean"
        elif data.get("key_heads") is not None:
            raise Mistake("conflict", "`key_heads` belongs to the spaces `encoder_keys` and `keys`")
        return data

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return space_signals(self.space, site, self.key_layer, self.key_heads)

    def features(self, view: StageView) -> Tensor:
        """The rows that are compared, [B, V, w] in float32."""
        return view.features(self.space, self.key_layer, self.key_heads)

    def text_rows(self, view: StageView) -> tuple[Tensor, Tensor]:
        """Rows [B, R, w] of the prompt after the last visual token, and which are real; of the tower there are none."""
        return view.text(self.text_space(view.site))

    def text_space(self, site: Site) -> TextSpace:
        """Where the prompt's rows are comparable with the visual tokens' features."""
        if self.space == "keys":
            return decoder_keys(site, self.key_heads or "mean")
        return self.space if self.space == "hidden" or self.space == "normed" else "projected"

    def comparing(self, sizes: Sizes, pairs: int) -> int:
        """Operations of `pairs` dot products, 2·w each, and of the probe that reads keys of the stage's own layer."""
        own = self.space == "keys" and sizes.site.layer == 0
        return sizes.probe(own) + 2 * pairs * sizes.width(self.space, self.key_heads or "mean")
