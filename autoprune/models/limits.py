"""What a model cannot have done to it, known from its configuration. Families put it into `Geometry.lacks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AXES = "positions 'compact' is not possible on multi-axis RoPE (M-RoPE): tokens have no single position"
LAYERED = (
    "positions 'compact' is not supported: this model's layers differ in their rotary embeddings, "
    "and their sliding windows count positions"
)
TURNS = (
    "llm_attention `rope: false` and `over_rope`: this model's layers differ in their rotary embeddings, "
    "which cannot be undone"
)
WINDOWS = (
    "FlashAttention measures a sliding window in physical distance, so pruning would widen it: "
    "load the model with attn_implementation='sdpa'"
)
BIAS = (
    "attend 'mass' adds to attention logits, for which FlashAttention has no input: "
    "load the model with attn_implementation='sdpa'"
)
PROJECTOR = (
    "sensitivity needs a projector whose Jacobian has a known closed form (linear layers, a norm before them, an "
    "activation between); this model's is not known to be one"
)
MIXED = (
    "merge_on 'encoder' needs a projector that makes each visual token of one row of the tower; "
    "this model's makes it of several"
)
PIXELS = "patch_entropy needs whole pictures; this model's processor hands its tower patches"
# From which layer on the library's configurations let a decoder layer see only a window, where they say they use one.
FIRST_WINDOWED = {"qwen2": 28, "qwen3": 28, "qwen2_vl_text": 80, "qwen2_5_vl_text": 80}
DEFAULT_WINDOW = 4096


def windowed(kind: str, given: Mapping[str, Any], depth: int) -> bool:
    """Whether some of `depth` decoder layers see only a window; `given` is the text part of config.json as written.

    `kind` is its model type. What is not written stands as in the library's configuration classes.
    """
    types = given.get("layer_types")
    if types:
        return any("sliding" in one or "chunked" in one for one in types)
    window = given.get("sliding_window", DEFAULT_WINDOW)
    if kind in FIRST_WINDOWED:
        first = int(given.get("max_window_layers", FIRST_WINDOWED[kind]))
        return bool(given.get("use_sliding_window")) and window is not None and depth > first
    if kind == "gemma3_text":
        return True  # all but each sixth layer
    return kind == "mistral" and window is not None


def flash(kind: str, given: Mapping[str, Any], depth: int) -> dict[str, str]:
    """The entry of `Geometry.lacks` for FlashAttention, where it may not be used."""
    return {"flash_attention": WINDOWS} if windowed(kind, given, depth) else {}
