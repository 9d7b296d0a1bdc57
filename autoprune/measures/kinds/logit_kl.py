"""How far does pruning move the model's predictions?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.measures.registry import measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor


@measure("logit_kl", direction="lower", needs={"answers", "reference_logits"}, unit="nats")
def logit_kl(view: View, config: Config) -> Tensor:
    """KL(full || pruned) of the next-token distributions, mean over the answer's positions, end token included."""
    from torch.nn.functional import kl_div, log_softmax

    if view.reference is None:
        raise ValueError("logit_kl is measured against the unpruned model's logits")
    full, pruned = log_softmax(view.reference, -1), log_softmax(view.logits, -1)
    divergence = kl_div(pruned, full, reduction="none", log_target=True).sum(-1)
    return view.mean_per_sample(divergence.clamp(min=0))  # rounding alone can make it negative
