"""One step of decoding, or one turn of text, on a pruned cache. It looks at the cache alone, never at a policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from autoprune.pruning.cache import PrunedLayer
from autoprune.pruning.translate import decode_mask


@dataclass(eq=False)
class Decode:
    """State of one step: translated masks, shared by layers of equal layout."""

    cache: Any
    masks: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict)

    def before(self, number: int, language_model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of decoder layer `number`: translate what the library hands it."""
        layer = self.cache.layers[number]
        layout = layer.layout if isinstance(layer, PrunedLayer) else None
        if layout is None:
            return None
        hidden, mask = args[0], kwargs.get("attention_mask")
        changed: dict[str, Any] = {}
        queries, stored = hidden.shape[1], layer.stored_length()
        implementation = str(language_model.config._attn_implementation)
        if not (mask is None and layout.valid is None and layout.bias is None):
            key = (id(mask), id(layout))
            if key not in self.masks:
                made = decode_mask(mask, layout, "flash" in implementation, stored + queries, hidden)
                self.masks[key] = (made, mask)
            changed["attention_mask"] = self.masks[key][0]
        if "flash" in implementation:
            changed["position_ids"] = None
        if layout.next_position is not None:
            new = torch.arange(stored - layout.width, stored - layout.width + queries, device=hidden.device)
            positions = layout.next_position[:, None] + new
            changed["position_embeddings"] = language_model.rotary_emb(hidden, position_ids=positions)
        return (args, {**kwargs, **changed}) if changed else None
