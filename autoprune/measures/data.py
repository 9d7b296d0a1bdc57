"""One split of the calibration set as model inputs, and what the unpruned model makes of it; filled when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from autoprune.calibration.batches import Batch, batches
from autoprune.calibration.encoding import Encoder, Row
from autoprune.calibration.records import Record
from autoprune.measures.capture import State
from autoprune.measures.loading import Loaded
from autoprune.measures.passes import Trace, count_newlines, own_answers, run

if TYPE_CHECKING:
    from torch import Tensor

Pass = Callable[[Batch, tuple[int, ...], Sequence[State]], Trace]  # a batch, its records' places, wanted states


class SplitData:
    """Records of one split in their order. All references live on the CPU in the model's dtype."""

    def __init__(
        self, loaded: Loaded, encoder: Encoder, records: Sequence[Record], images: Sequence[int], size: int
    ) -> None:
        self.records = tuple(records)
        self.images = tuple(images)
        self._loaded = loaded
        self._encoder = encoder
        self._size = size
        self._rows: list[Row] = []
        self._logits: dict[int, Tensor] = {}
        self._states: dict[State, dict[int, Tensor]] = {}
        self._own: dict[int, list[tuple[int, ...]]] = {}
        self._newlines: list[int] = []
        self._lengths: list[int] = []

    def rows(self, count: int) -> list[Row]:
        """The first `count` records as model inputs."""
        for record in self.records[len(self._rows) : count]:
            self._rows.append(self._encoder.row(record))
        return self._rows[:count]

    def positions(self, count: int) -> int:
        """Columns of the first `count` records, answers included."""
        for row in self.rows(count)[len(self._lengths) :]:
            self._lengths.append(row.length + len(row.answer))
        return sum(self._lengths[:count])

    def own_answers(self, count: int, max_new_tokens: int) -> list[tuple[int, ...]]:
        """The unpruned model's greedy answers to the first `count` records."""
        known = self._own.setdefault(max_new_tokens, [])
        if len(known) < count:
            rows = self.rows(count)[len(known) :]
            known.extend(own_answers(self._loaded, rows, self._size, max_new_tokens))
        return known[:count]

    def newlines(self, count: int) -> list[int]:
        """How many visual positions of each of the first `count` records are separators. Asked of the model's own
        packing, and only where images differ in their number of tokens: elsewhere there are none."""
        rows = self.rows(count)
        if self._loaded.geometry.tokens_per_image is not None:
            return [0] * count
        for row in rows[len(self._newlines) :]:
            self._newlines.append(count_newlines(self._loaded, row))
        return self._newlines[:count]

    def lacking(self, count: int, wanted: Sequence[State], logits: bool) -> list[int]:
        """Which of the first `count` records have no reference yet: `wanted` states, `logits` where they are wanted."""
        states = [self._states.setdefault(state, {}) for state in wanted]
        stores = [*states, self._logits] if logits else states
        return [i for i in range(count) if any(i not in known for known in stores)]

    def prepare(self, count: int, wanted: Sequence[State], logits: bool = True, through: Pass | None = None) -> None:
        """Run the unpruned model on those of the first `count` records whose reference is not there yet: the
        `wanted` states, and `logits` where they are wanted (they are large). The model must be unpruned meanwhile.
        `through`: how a batch goes through it."""
        import torch

        rows, missing = self.rows(count), self.lacking(count, wanted, logits)
        chosen = [rows[i] for i in missing]
        device = str(self._loaded.model.device)
        answers = [row.answer for row in chosen]
        for batch in batches(chosen, answers, self._size, self._loaded.pad, device):
            places = tuple(missing[place] for place in batch.indices)
            trace = run(self._loaded, batch, wanted) if through is None else through(batch, places, wanted)
            parts = torch.split(trace.logits.cpu(), [len(answers[place]) for place in batch.indices])
            for place, part in zip(places, parts if logits else (), strict=logits):
                self._logits[place] = part.clone()
            for state in wanted:
                counts = trace.rows[state[0]].bincount(minlength=batch.size).tolist()
                for place, part in zip(places, torch.split(trace.states[state].cpu(), counts), strict=True):
                    self._states[state][place] = part.clone()

    def logits(self, indices: Iterable[int], device: str) -> Tensor:
        """[T, V] of the unpruned model at the answer positions of these records, float32."""
        import torch

        return torch.cat([self._logits[i] for i in indices]).to(device).float()

    def states(self, state: State, indices: Iterable[int], device: str) -> Tensor:
        """[R, width]: a state's rows of these records in the unpruned model."""
        import torch

        return torch.cat([self._states[state][i] for i in indices]).to(device)
