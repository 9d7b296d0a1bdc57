"""What the engine cannot do right on a model, said before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from autoprune.errors import BadInput
from autoprune.models import limits
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.decoder_signals import DecoderWalk, NormedStates, Transition
from autoprune.pruning.signals import Signal

MOVING_ROPE = ("dynamic", "longrope")


def refuse_model(language_model: Any) -> None:
    """Raises BadInput for attention implementations whose masks or windows cannot follow a shortened sequence."""
    config = language_model.config
    implementation = str(getattr(config, "_attn_implementation", "eager"))
    if implementation not in ("eager", "sdpa") and "flash" not in implementation:
        raise BadInput(f"attn_implementation {implementation!r} is not supported; use sdpa, eager or flash_attention_2")
    if "flash" in implementation and _has_window(config):
        raise BadInput(limits.WINDOWS)


def refuse_positions(resolved: ResolvedPolicy, language_model: Any) -> None:
    """Raises BadInput where `positions: compact` has no meaning for the model's rotary embedding."""
    if all(stage.positions == "keep" for stage in resolved.stages):
        return
    config = language_model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if any(isinstance(of_a_type, dict) for of_a_type in rope.values()):
        raise BadInput(limits.LAYERED)
    if multi_axis(language_model):
        raise BadInput(limits.AXES)
    kind = rope.get("rope_type", "default")
    if not hasattr(language_model, "rotary_emb") or kind in MOVING_ROPE or not isinstance(kind, str):
        raise BadInput(f"positions 'compact' is not supported for this model's rotary embedding ({kind!r})")


def multi_axis(language_model: Any) -> bool:
    """Whether a token has a position on several axes (M-RoPE), which the model works out by itself."""
    config = language_model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return "mrope_section" in rope or hasattr(getattr(language_model, "rotary_emb", None), "mrope_section")


def refuse_bias(resolved: ResolvedPolicy, language_model: Any) -> None:
    """Raises BadInput where `attend: mass` has no way into the attention."""
    implementation = str(getattr(language_model.config, "_attn_implementation", "eager"))
    if "flash" in implementation and any(stage.attend is not None for stage in resolved.stages):
        raise BadInput(limits.BIAS)


def refuse_signals(signals: Iterable[Signal], language_model: Any, layers: Sequence[Any]) -> None:
    """Raises BadInput where a policy asks for what this language model cannot tell."""
    wanted = tuple(signals)
    turned = [s for s in wanted if isinstance(s, DecoderWalk) and (s.over_rope or not s.rope)]
    if turned:
        from autoprune.pruning.rotation import can_undo

        if not can_undo(language_model, layers[0].self_attn):
            what = "`over_rope`" if turned[0].over_rope else "`rope: false`"
            raise BadInput(f"llm_attention {what}: this model's rotary embedding cannot be undone")
    if any(isinstance(s, Transition) and not hasattr(layers[s.layer], "mlp") for s in wanted):
        raise BadInput("token_transition: this model's decoder layers have no single MLP")
    if any(isinstance(s, NormedStates) for s in wanted) and not hasattr(language_model, "norm"):
        raise BadInput("space `normed`: this model's language model has no last norm")


def _has_window(config: Any) -> bool:
    types = getattr(config, "layer_types", None)
    if types is not None:
        return any("sliding" in t or "chunked" in t for t in types)
    return getattr(config, "sliding_window", None) is not None
