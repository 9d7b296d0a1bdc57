"""Is the answer exactly the right one?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.measures.registry import measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor


@measure("exact_match", direction="higher", needs={"answers"}, bounded=(0.0, 1.0))
def exact_match(view: View, config: Config) -> Tensor:
    """1 where greedy decoding gives the record's answer token for token and then stops, else 0.

    Under teacher forcing all positions are right exactly if greedy `generate` produces the answer: the first position
    where it would leave the answer is a wrong argmax here too.
    """
    return view.all_right()
