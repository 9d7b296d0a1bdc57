"""One split of the calibration set as model inputs, and the unpruned model's own answers to it; filled when needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from autoprune.calibration.batches import Batch, batches, halves
from autoprune.calibration.encoding import Encoder, Row
from autoprune.calibration.records import Record
from autoprune.measures.loading import Loaded
from autoprune.measures.passes import count_newlines, own_answers
from autoprune.measures.prefix_cache import PrefixCache
from autoprune.measures.references import References


class SplitData:
    """Records of one split in their order. `references`: what the unpruned model makes of their batches, in the `cache`
    where there is one."""

    def __init__(
        self,
        loaded: Loaded,
        encoder: Encoder,
        records: Sequence[Record],
        images: Sequence[int],
        size: int,
        cache: PrefixCache | None = None,
    ) -> None:
        self.records = tuple(records)
        self.images = tuple(images)
        self._loaded = loaded
        self._encoder = encoder
        self._size = size
        self._rows: list[Row] = []
        self.references = References(cache)
        self._own: dict[int, list[tuple[int, ...]]] = {}
        self._newlines: list[int] = []
        self._lengths: list[int] = []

    def rows(self, count: int) -> list[Row]:
        """The first `count` records as model inputs."""
        for record in self.records[len(self._rows) : count]:
            self._rows.append(self._encoder.row(record))
        return self._rows[:count]

    def batches(self, first: int, answers: Sequence[tuple[int, ...]], size: int) -> Iterator[Batch]:
        """The records from place `first` on with these answers, at most `size` together. Where batches end hangs on the
        split alone, so that those of a part of it are met again in the whole."""
        rows = self.rows(first + len(answers))[first:]
        device, ends = str(self._loaded.model.device), halves(len(self.records), size)
        return batches(rows, answers, size, self._loaded.pad, device, first, ends)

    @property
    def pixels(self) -> int:
        """Bytes of the image tensors of all records that were asked for so far."""
        tensors = {id(tensor): tensor for row in self._rows for tensor in row.vision.values()}
        return sum(tensor.nbytes for tensor in tensors.values())

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
