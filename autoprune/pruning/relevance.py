"""How much each visual token has to do with an answer: attention times its gradient, followed back through the layers.

An oracle for diagnostics, not a criterion: it needs the whole map of every layer, the answer (or the model's own next
token) and a backward pass. R ← R + Ā·R over the layers with Ā the mean over heads of (gradient ∘ attention)⁺, R the
identity at first (generic attention explainability, Chefer et al. 2021; used by "Generic Token Compression in
Multimodal Large Language Models" to say which visual tokens an answer rests on). Of R only the rows that predict the
answer are followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError
from autoprune.models.family import family_of

if TYPE_CHECKING:
    from torch import Tensor


def relevance(model: Any, inputs: Mapping[str, Tensor], answer_start: Tensor | None = None) -> list[Tensor]:
    """Relevance [N] of every visual token in raster order, for each sample of a batch; float32, at least 0.

    `inputs`: prompts, or with `answer_start` [B] prompts and answers, as in a teacher-forced pass: columns from there
    on are the answer, whose log probability is asked about. Without it, that of the model's own next token is.

    The model must be unpruned, because relevance is about all of its tokens; its weights get no gradients. Memory: an
    attention map of S x S per head and layer. Raises AutoPruneError if a policy is attached or no gradient arrives.
    """
    import torch

    family = family_of(model.config.to_dict())
    places = family.places(model)
    _refuse_attached(places.base)
    ids = inputs["input_ids"]
    real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    with torch.enable_grad(), _eager(model), _graph_from(places.layers[0]):
        output = model(**inputs, output_attentions=True, use_cache=False)
        rows, asked = _asked(output.logits, ids, real, answer_start)
        gradients = torch.autograd.grad(asked, output.attentions, allow_unused=True)
    held = rows.float()
    for weights, gradient in reversed(list(zip(output.attentions, gradients, strict=True))):
        if gradient is None:
            raise AutoPruneError("relevance: no gradient reaches the attention of this model's layers")
        passed = (weights.detach().float() * gradient.float()).clamp(min=0).mean(1)
        held = held + (held[:, None] @ passed)[:, 0]
    visual = (ids == family.image_token(model.config.to_dict())) & real
    return [row[mask] for row, mask in zip(held, visual, strict=True)]


def _asked(logits: Tensor, ids: Tensor, real: Tensor, answer_start: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which rows [B, S] predict what is asked about, and the sum of its log probabilities."""
    import torch

    columns = torch.arange(ids.shape[1], device=ids.device)
    chances = logits.float().log_softmax(-1)
    if answer_start is None:
        rows = columns == (columns * real).amax(1, keepdim=True)
        words = logits.detach().argmax(-1)
    else:
        rows = (columns >= answer_start.to(ids.device)[:, None] - 1) & (columns < ids.shape[1] - 1) & real
        words = torch.cat([ids[:, 1:], ids[:, :1]], 1)
    return rows, chances.gather(2, words[..., None])[..., 0][rows].sum()


def _refuse_attached(base: Any) -> None:
    from autoprune.pruning.session import _ATTACHED

    if base in _ATTACHED:
        raise AutoPruneError("relevance is about the unpruned model: leave the policy's context first")


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The model with attention weights that can be asked for; as it was afterwards."""
    before = {part: part.config._attn_implementation for part in (model, model.model, model.model.language_model)}
    model.model.language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part, implementation in before.items():
            part.config._attn_implementation = implementation


@contextmanager
def _graph_from(layer: Any) -> Iterator[None]:
    """Gradients begin where the language model does, whether or not its weights take any."""

    def begin(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    handle = layer.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
