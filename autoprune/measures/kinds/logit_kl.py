"""How far does pruning move the model's predictions?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.measures import distances
from autoprune.measures.registry import measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor


@measure("logit_kl", direction="lower", needs={"answers", "reference_logits"}, unit="nats")
def logit_kl(view: View, config: Config) -> Tensor:
    """KL(full || pruned) of the next-token distributions, mean over the answer's positions, end token included."""
    if view.reference is None:
        raise ValueError("logit_kl is measured against the unpruned model's logits")
    return view.mean_per_sample(distances.kl(view.logits, view.reference))
