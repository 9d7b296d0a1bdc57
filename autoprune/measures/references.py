"""What the unpruned model makes of a batch, for measures that compare with it: run once, kept within a bound.

Where the cache has no room left, it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.measures.capture import State
from autoprune.measures.packed import Packed, pack, unpack
from autoprune.measures.passes import Trace
from autoprune.measures.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reference:
    """Of the unpruned model, rows as in the batch, in the model's dtype: `logits` [T, V] at the answer positions where
    a measure reads them (they are large), `states` [R, width]."""

    logits: Tensor | None
    states: dict[State, Tensor]

    def has(self, wanted: Sequence[State], logits: bool) -> bool:
        return not (logits and self.logits is None) and all(state in self.states for state in wanted)


class References:
    """By batch, in `cache`; without one in the host's memory, all of them."""

    def __init__(self, cache: PrefixCache | None = None) -> None:
        self._cache = cache
        self._here: dict[Hashable, Packed] = {}

    def of(self, key: Hashable, wanted: Sequence[State], logits: bool, run: Callable[[], Trace]) -> Reference:
        """The batch's, with the `wanted` states and, where asked for, `logits`; `run` where that is not there yet."""
        known = self._get(key)
        if known is not None and known.has(wanted, logits):
            return known
        made = run()
        states = {state: made.states[state] for state in wanted}
        found = Reference(made.logits if logits else None, states)
        if known is not None:
            found = Reference(found.logits if logits else known.logits, {**known.states, **states})
        self._put(key, found)
        return found

    @property
    def beside(self) -> int:
        """Bytes that no cache bounds."""
        return sum(packed.bytes for packed in self._here.values())

    def _get(self, key: Hashable) -> Reference | None:
        if self._cache is not None:
            found: Reference | None = self._cache.get(key)
            return found
        return unpack(self._here[key]) if key in self._here else None

    def _put(self, key: Hashable, found: Reference) -> None:
        if self._cache is not None:
            self._cache.put(key, found, "reference")
        else:
            self._here[key] = pack(found, "cpu")
