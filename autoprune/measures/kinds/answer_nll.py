"""How surprising is the right answer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.measures.registry import measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor


@measure("answer_nll", direction="lower", needs={"answers"}, unit="nats/token")
def answer_nll(view: View, config: Config) -> Tensor:
    """Mean negative log-likelihood per token of the record's answer, end token included."""
    from torch.nn.functional import cross_entropy

    return view.mean_per_sample(cross_entropy(view.logits, view.targets, reduction="none"))
