"""Holds one model and its calibration data, and measures policies on them: EvalRequest in, Measurement out.

All model measures of a request come from one teacher-forced pass (`loyalty` needs a second one, over the unpruned
model's own answers); costs are computed. Out of memory (torch.OutOfMemoryError) and a budget that cannot be met
(policy.budget.Infeasible) pass through: the executor says what they mean for a trial.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration.batches import Batch
from autoprune.calibration.digest import calibration_digest
from autoprune.calibration.encoding import Encoder
from autoprune.calibration.records import Record, load_records
from autoprune.calibration.splits import split
from autoprune.errors import BadInput
from autoprune.measures.capture import State
from autoprune.measures.costs import SampleCost, costs
from autoprune.measures.data import SplitData
from autoprune.measures.errors import NonFinite
from autoprune.measures.known import Known
from autoprune.measures.latency import Spread, Timing, prefill_ratio, time_prefill
from autoprune.measures.loading import Loaded, load
from autoprune.measures.passes import Trace, readout, run
from autoprune.measures.prefix_cache import PrefixCache, Stats, prefix_cache
from autoprune.measures.profile import profile
from autoprune.measures.references import Reference
from autoprune.measures.requests import Requested, requested
from autoprune.measures.resuming import Parts, Resuming, Where
from autoprune.measures.views import View
from autoprune.policy import canonical
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.ports import CalibrationSource, EvalRequest, Measurement, Split, WorkerSpec
from autoprune.pruning.guarding import Texts
from autoprune.pruning.request import ATTACHED, Using
from autoprune.pruning.request import chosen as saying
from autoprune.pruning.session import Session

if TYPE_CHECKING:
    from torch import Tensor


def build(spec: WorkerSpec) -> ModelEvaluator:
    """Load the model, the records and the splits of a worker spec. Raises BadInput for anything a user got wrong."""
    measures = requested(spec.measures)
    records = _records(spec.calibration)
    splits = split(
        records, spec.calibration.search, spec.calibration.holdout, spec.calibration.stratify_by, spec.calibration.seed
    )
    _check_answers(measures.values(), (*splits.search, *splits.holdout))
    loaded = load(spec)
    encoder = Encoder(loaded.processor, loaded.image_token, loaded.eos, loaded.dtype)
    cache = prefix_cache(spec.cache, loaded.model.device)
    data: dict[Split, SplitData] = {
        "search": SplitData(loaded, encoder, splits.search, splits.search_images, spec.batch_size, cache),
        "holdout": SplitData(loaded, encoder, splits.holdout, splits.holdout_images, spec.batch_size, cache),
    }
    return ModelEvaluator(loaded, data, measures, spec.batch_size, cache)


@dataclass(frozen=True, eq=False)
class _Pass:
    """What a pass is over: the first `count` records of a split with whose answers, under which session."""

    split: Split
    count: int
    answers: Hashable
    session: Any


class ModelEvaluator:
    """The port `Evaluator` for a transformers model. One at a time: it attaches policies to its model.

    With a `cache`, passes go on where earlier ones over the same batch were (`resuming.py`); without one every pass
    runs the whole model. The numbers are the same.
    """

    def __init__(
        self,
        loaded: Loaded,
        data: Mapping[Split, SplitData],
        measures: Mapping[str, Requested],
        batch_size: int,
        cache: PrefixCache | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.loaded = loaded
        self.geometry = loaded.geometry
        self._data = dict(data)
        self._measures = dict(measures)
        self._size = batch_size
        self._resuming = (
            None if cache is None else Resuming(loaded, cache, self._states(list(measures.values())), parts)
        )

    def beside(self, cache: PrefixCache | None, parts: Parts | None = None) -> ModelEvaluator:
        """Another one of the same model, records and references."""
        return ModelEvaluator(self.loaded, self._data, self._measures, self._size, cache, parts)

    @property
    def stats(self) -> Stats | None:
        """What the cache has saved so far; None without one."""
        return None if self._resuming is None else self._resuming.cache.stats

    def report(self) -> list[str]:
        """What is kept, in a line."""
        beside = sum(data.pixels + data.references.beside for data in self._data.values())
        kept = "no cache" if self.stats is None else f"cache: {self.stats}"
        return [f"{kept}; pixels and what else no cache bounds: {beside / 2**20:.1f} MiB"]

    def evaluate(self, request: EvalRequest) -> Measurement:
        """The request's measures of its policy on the first `limit` records of its split.

        Costs and timings are in `values` only; every other measure has one number per record, in the split's order.
        Records that are `known` are not run again.
        Raises NonFinite, BadInput, torch.OutOfMemoryError or policy.budget.Infeasible.
        """
        import torch

        started = time.perf_counter()
        chosen = self._chosen(request.measures)
        resolved = self._resolved(request.policy)
        data = self._data[request.split]
        count = _count(request, len(data.records))
        records = tuple(record.id for record in data.records[:count])
        known = Known.of(request.known, records)
        counted = None if resolved.adaptive else self.sample_costs(resolved, data, count)
        measured = [one for one in chosen if one.info.by_record and not one.info.unpruned]
        described = [one for one in chosen if one.info.unpruned]
        if self._resuming is not None:
            self._resuming.cache.begin()
        try:
            with torch.inference_mode():
                samples, kept, fresh = self._samples(measured, resolved, request.split, known)
                samples.update(self._profiled(described, resolved, data, count))
        except (MemoryError, RuntimeError):  # torch's out of memory is one of the latter
            if self._resuming is not None:
                self._resuming.cache.clear()
            raise
        if counted is None:
            counted = self.sample_costs(resolved, data, count, kept)
        values = {one.label: float(one.info.run(counted, one.config)) for one in chosen if one.info.cost}
        values.update({one.label: self._timed(one, resolved, data, known) for one in chosen if one.info.timed})
        _check_finite(values, samples, records)
        values.update({label: math.fsum(numbers) / count for label, numbers in samples.items()})
        seconds = time.perf_counter() - started
        return Measurement(values, samples, data.images[:count], records, seconds, tuple(kept), fresh)

    def prefill(self, policy: str, split: Split, records: int, rounds: int) -> Timing:
        """Time the prefill of the first `records` records as one batch, beside the unpruned one."""
        resolved, data = self._resolved(policy), self._data[split]
        return time_prefill(self.loaded, data.rows(min(records, len(data.records))), resolved, rounds)

    def _profiled(
        self, chosen: Sequence[Requested], resolved: ResolvedPolicy, data: SplitData, count: int
    ) -> dict[str, tuple[float, ...]]:
        """What describes the unpruned model on the first `count` records. Raises BadInput beside a policy."""
        if not chosen:
            return {}
        if resolved.stages:
            raise BadInput(f"{chosen[0].info.name} describes the unpruned model: a policy has none")
        found = profile(self.loaded, data.rows(count), self._size)
        return {one.label: tuple(one.info.run(found, one.config).tolist()) for one in chosen}

    def _timed(self, one: Requested, resolved: ResolvedPolicy, data: SplitData, known: Known) -> float:
        """A timing of the first records of a split, however many an evaluation looks at."""
        if one.label in known.measurement.values:
            return known.measurement.values[one.label]

        def stopwatch(records: int, rounds: int) -> Spread:
            return prefill_ratio(self.loaded, data.rows(min(records, len(data.records))), resolved, rounds)

        return float(one.info.run(stopwatch, one.config))

    def _chosen(self, labels: Sequence[str]) -> list[Requested]:
        unknown = [label for label in labels if label not in self._measures]
        if unknown:
            raise BadInput(
                f"not among this worker's measures: {', '.join(unknown)} (there are {', '.join(self._measures)})"
            )
        return [self._measures[label] for label in labels]

    def _resolved(self, policy: str | None) -> ResolvedPolicy:
        return ResolvedPolicy((), self.geometry.depth) if policy is None else canonical.from_json(policy)

    def sample_costs(
        self, resolved: ResolvedPolicy, data: SplitData, count: int, decided: Sequence[tuple[int, ...]] | None = None
    ) -> tuple[SampleCost, ...]:
        """What the policy costs on each of the first `count` records. `decided`: the counts of their run, where rules
        decide some."""
        rows = data.rows(count)
        return costs(
            resolved,
            self.geometry,
            [row.visual for row in rows],
            [row.length - row.visual for row in rows],
            self.loaded.dtype.itemsize,
            [row.pictures for row in rows],
            data.newlines(count) if resolved.stages else None,
            decided,
        )

    def _samples(
        self, chosen: Sequence[Requested], resolved: ResolvedPolicy, split: Split, known: Known
    ) -> tuple[dict[str, tuple[float, ...]], list[tuple[int, ...]], int | None]:
        """The passes, each over the records of which its measures are not known. With them the counts after every
        stage, of each record, where rules decided some; and how many records nothing was known of (None: no pass was
        needed)."""
        data, count = self._data[split], known.count
        given = [one for one in chosen if "own_answers" not in one.info.needs]
        own = [one for one in chosen if "own_answers" in one.info.needs]
        passes: list[tuple[list[Requested], Hashable, list[tuple[int, ...]]]] = []
        if given or (resolved.adaptive and not own):
            passes.append((given, "given", [row.answer for row in data.rows(count)]))
        for one in own:  # by the unpruned model, so before anything is attached
            tokens = one.config.max_new_tokens
            passes.append(([one], ("own", tokens), data.own_answers(count, tokens)))
        found: dict[str, tuple[float, ...]] = {}
        kept = known.counts() if resolved.adaptive else []
        starts = [known.start([one.label for one in some], resolved.adaptive) for some, _, _ in passes]
        with self._attached(resolved) as session:
            for start, (some, whose, answers) in zip(starts, passes, strict=True):
                new = self._pass(some, _Pass(split, count, whose, session), start, answers[start:], kept)
                found.update({label: known.numbers(label, start) + numbers for label, numbers in new.items()})
        return found, kept, count - max(starts) if starts else None

    def _attached(self, resolved: ResolvedPolicy) -> AbstractContextManager[Any]:
        """A session of the policy; none where nothing is pruned and nothing is kept. Each batch says its words."""
        if not resolved.stages and self._resuming is None:
            return nullcontext()
        return Session(self.loaded.model, resolved, Texts(given=""))

    def _pass(
        self,
        chosen: Sequence[Requested],
        at: _Pass,
        start: int,
        answers: Sequence[tuple[int, ...]],
        kept: list[tuple[int, ...]],
    ) -> dict[str, tuple[float, ...]]:
        """One teacher-forced pass over the records from `start` on, as many as there are answers. `kept`, where it has
        room, takes the counts after every stage of each."""
        numbers = {one.label: [0.0] * len(answers) for one in chosen}
        wanted, rows = self._states(chosen), self._data[at.split].rows(at.count)
        for batch in self._data[at.split].batches(start, answers, self._size):
            words = [rows[i].words for i in batch.indices]
            with saying(Using(ATTACHED, at.session, prompt=words)):
                view = self._view(chosen, at, batch, wanted)
            if kept:
                for place, counts in zip(batch.indices, zip(*at.session.run.counts, strict=True), strict=True):
                    kept[place] = counts
            for one in chosen:
                result: Tensor = one.info.run(view, one.config)
                for place, number in zip(batch.indices, result.tolist(), strict=True):
                    numbers[one.label][place - start] = number
        return {label: tuple(found) for label, found in numbers.items()}

    def _trace(self, at: _Pass, batch: Batch, wanted: Sequence[State]) -> Trace:
        """One batch through the model."""
        if self._resuming is None:
            return run(self.loaded, batch, wanted, at.session)
        every = self._resuming.spacing(self._data[at.split].positions(at.count))
        return self._resuming.run(batch, Where(at.split, at.answers, batch.indices), wanted, at.session, every)

    def _reference(self, chosen: Sequence[Requested], at: _Pass, batch: Batch, wanted: Sequence[State]) -> Reference:
        """The unpruned model's states and logits of a batch, where measures compare with them."""
        logits = any("reference_logits" in one.info.needs for one in chosen)

        def unpruned() -> Trace:
            with nullcontext() if at.session is None else at.session.override(None):
                return self._trace(at, batch, wanted)

        if not (wanted or logits):
            return Reference(None, {})
        key = ("reference", at.split, at.answers, batch.indices)
        return self._data[at.split].references.of(key, wanted, logits, unpruned)

    def _view(self, chosen: Sequence[Requested], at: _Pass, batch: Batch, wanted: Sequence[State]) -> View:
        import torch

        reference = self._reference(chosen, at, batch, wanted)  # first: the pass leaves what became of its own tokens
        trace, data = self._trace(at, batch, wanted), self._data[at.split]
        device = str(trace.logits.device)
        return View(
            size=batch.size,
            depth=self.geometry.depth,
            logits=trace.logits.float(),
            targets=batch.targets,
            owners=batch.owners,
            ends=torch.tensor(self.loaded.eos, device=device),
            reference=None if reference.logits is None else reference.logits.float(),
            states=trace.states,
            reference_states={state: reference.states[state] for state in wanted},
            rows=trace.rows,
            readout=readout(self.loaded),
            records=tuple(data.records[i].id for i in batch.indices),
        )

    def _states(self, chosen: Sequence[Requested]) -> list[State]:
        return sorted({state for one in chosen for state in one.states(self.geometry.depth)})


def _records(source: CalibrationSource) -> tuple[Record, ...]:
    records = load_records(source.records, source.images)
    if source.digest and calibration_digest(records) != source.digest:
        raise BadInput(f"{source.records}: the calibration set is not the one this study was started with")
    return records


def _check_answers(measures: Sequence[Requested] | Any, records: Sequence[Record]) -> None:
    needing = [one.label for one in measures if "answers" in one.needs]
    lacking = [record.id for record in records if record.answer is None]
    if needing and lacking:
        shown = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        raise BadInput(f"{', '.join(needing)} compare with answers, which {len(lacking)} records lack: {shown}")


def _count(request: EvalRequest, available: int) -> int:
    if available == 0:
        raise BadInput(f"the {request.split} split has no records")
    if request.limit is not None and request.limit < 1:
        raise BadInput(f"a limit is at least one record, not {request.limit}")
    return available if request.limit is None else min(request.limit, available)


def _check_finite(values: Mapping[str, float], samples: Mapping[str, Sequence[float]], records: Sequence[str]) -> None:
    for label, value in values.items():
        if not math.isfinite(value):
            raise NonFinite(label)
    for label, numbers in samples.items():
        for record, number in zip(records, numbers, strict=True):
            if not math.isfinite(number):
                raise NonFinite(label, record)
