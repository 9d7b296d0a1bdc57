"""One prefill: carries out the stages while the language model runs through its layers.

All lengths are integers on the host, read from the device once at the start. After that the host waits only where a
count depends on what a sample shows: a count rule's, a guard's, or how many protected tokens earlier stages have left.
What it hears from the attention on the way, `capture` says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.policy.budget import counting, separators
from autoprune.policy.gentler import to_come
from autoprune.pruning.counting import decide, shared_out
from autoprune.pruning.decoder_signals import (
    DecoderKeys,
    KeyNorm,
    NormedStates,
    ProjectedFeatures,
    Tapped,
    Transition,
)
from autoprune.pruning.decoder_walk import raters as text_raters
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.facts import facts_of
from autoprune.pruning.grouping import Partition, partition
from autoprune.pruning.guarding import Guarding
from autoprune.pruning.layout import Layout
from autoprune.pruning.pairs import Pairs
from autoprune.pruning.parking import Parking, Present, Restore, returned
from autoprune.pruning.plan import Plan, PlannedStage, Use, evaluate
from autoprune.pruning.prompt import Prompt, grid_of, per_sample
from autoprune.pruning.record import Run
from autoprune.pruning.signals import Signal
from autoprune.pruning.stage import Reduction, reduce
from autoprune.pruning.tap import Abort
from autoprune.pruning.tensors import take, true_first, true_last
from autoprune.pruning.translate import Translator
from autoprune.pruning.view import Grid, StageView, TextSpace

if TYPE_CHECKING:
    from torch import Tensor

LEAST_MASS = 1e-6  # of a row, where attention weighs by mass


@dataclass(eq=False)
class Prefill:
    """State of one prefill. `images` is what get_image_features returned for all images, in order of appearance; `norm`
    is the model's last norm, None where it has none; `projector` makes rows of the tower visual tokens. `words`:
    the prompts, where a guard looks at them."""

    plan: Plan
    prompt: Prompt
    embeds: Tensor
    images: Any
    cache: Any
    implementation: str
    rotary: Callable[[Tensor, Tensor], Any]
    norm: Callable[[Tensor], Tensor] | None
    projector: Callable[[Tensor], Tensor]
    words: Sequence[str] | None = None
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        prompt, device = self.prompt, self.embeds.device
        batch, logical = prompt.visual.shape
        index = torch.arange(logical, device=device).expand(batch, logical)
        self.layout = Layout(index, prompt.real, logical)
        self.pristine, self.attends = True, False
        self.translator = Translator(self.layout, self.implementation, self.rotary)
        self.lengths, self.now = list(prompt.lengths), list(prompt.n)
        self.run = Run(list(prompt.n), self.plan.resolved.depth)
        most = max(prompt.n)
        self.columns = true_first(prompt.visual, most)
        self.tokens = torch.arange(most, device=device).expand(batch, most)
        self.mass = torch.ones(batch, most, device=device)
        self.parking = Parking(most, [0] * batch)
        self.captured: dict[Signal, Tensor] = {}
        self.shares: dict[int, list[int]] = {}
        self._partitions: dict[Use, Partition] = {}
        self.probing = False
        self.rotation: Any = None
        self.entering = self.embeds
        self._prepare_images(device)
        self._count()

    # ------------------------------------------------------------ before the layers
    def _prepare_images(self, device: torch.device) -> None:
        """Line the images' facts up with the visual tokens of each sample."""
        facts = facts_of(self.images, self.prompt.n)
        total, expected = sum(f.tokens for f in facts), sum(self.prompt.n)
        if total != expected:
            raise AutoPruneError(f"{expected} image placeholders but {total} image features in this prefill")
        self.facts = facts
        starts = torch.tensor([sum(self.prompt.n[:b]) for b in range(len(self.prompt.n))], device=device)
        self.ordinal = (starts[:, None] + self.tokens).clamp(max=total - 1)
        place = torch.cat([torch.arange(f.tokens) for f in facts]).to(device)
        self.place = place[self.ordinal]
        self.newline = torch.cat([f.newline for f in facts])[self.ordinal]
        self.pictures, self.newlines = per_sample(facts, self.prompt.n)
        self.grid = grid_of(facts, self.ordinal)

    def _protected(self, planned: PlannedStage) -> Tensor:
        """[B, V] mask of protected tokens among those still there (padding included, masked by the caller)."""
        mask = self.newline.gather(1, self.tokens)
        if not any(self.separators[planned.number]):
            mask = torch.zeros_like(mask)
        if isinstance(planned.stage.protect, tuple):
            named = torch.tensor(planned.stage.protect, dtype=torch.long, device=mask.device)
            mask = mask | torch.isin(self.tokens, named)
        if planned.stage.protect == "last":
            every = torch.arange(self.newline.shape[1], device=mask.device)
            picture = (every < self._host(self.prompt.n)[:, None]) & ~self.newline
            mask = mask | (self.tokens == torch.where(picture, every, -1).amax(1, keepdim=True))
        return mask

    def _count(self) -> None:
        """How many separators every stage and sample must keep, [stage][sample], and the count of every sample as it
        goes from stage to stage; a budget that cannot be met is found before the model runs."""
        resolved, default = self.plan.resolved, self.plan.protects_newlines
        held = [separators(resolved, count, default) for count in self.newlines]
        self.counting = [counting(resolved, n, kept) for n, kept in zip(self.prompt.n, held, strict=True)]
        self.separators = [list(stage) for stage in zip(*held, strict=True)]
        self.guarding = Guarding(resolved.guard, self.counting)
        self.guarding.begin(self.prompt.n, self.words)
        self.run.guarded = self.guarding.labels()
        alike = zip(self.prompt.n, held, self.guarding.fired, strict=True)
        for made in dict(zip(alike, self.counting, strict=True)).values():
            to_come(made)

    # ------------------------------------------------------------ the layers
    def before(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of decoder layer `number`: reduce, then translate what the library hands it."""
        hidden = args[0]
        for planned in self.plan.at(number):
            hidden = self._stage(planned, layer, hidden, kwargs)
        self.entering = hidden
        self.run.lengths.append(list(self.now))
        self.run.layouts.append(self.layout)
        self.run.tokens.append(self.tokens)
        if self.pristine:
            self.rotation = kwargs.get("position_embeddings")
            return None
        if self.cache is not None:
            self.cache.layers[number].layout = self.layout
        translated = self.translator.prefill(kwargs, hidden)
        self.rotation = translated.get("position_embeddings")
        return (hidden, *args[1:]), translated

    def _stage(self, planned: PlannedStage, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        if planned.stage.restore is not None and any(self.parking.counts):
            hidden = self._restore(planned.stage.restore, hidden)
        ruled = planned.stage.keep.decided or self.guarding.watches(planned.number)
        keep = None if ruled else self._counted(None)
        if keep != self.now:
            hidden = self._reduce(planned, keep, layer, hidden, kwargs)
        self.run.counts.append(list(self.now))
        if planned.stage.positions == "compact" and not self.pristine:
            self._use(self.layout.compacted())
        self.attends |= planned.stage.attend is not None
        if self.attends and not self.pristine:
            self._use(replace(self.layout, bias=self._bias(hidden)))
        return hidden

    def _counted(self, decided: Sequence[int] | None) -> list[int]:
        """K of each sample at the next stage."""
        found = decided if decided is not None else [None] * len(self.counting)
        return [min(c.next(d), v) for c, d, v in zip(self.counting, found, self.now, strict=True)]

    def _reduce(
        self, planned: PlannedStage, keep: list[int] | None, layer: Any, hidden: Tensor, kwargs: dict[str, Any]
    ) -> Tensor:
        """Carry a stage out. keep: K of each sample, None where that takes a look at the scores."""
        if planned.own_signals:
            self._probe(layer, hidden, kwargs)
        where = self._where(hidden)
        view, protected = self._view(planned, hidden, where)
        scores, counted = self._watched(planned, view), None
        if planned.stage.keep.kind == "shared":
            keep = self._counted(self._share_of(planned, view))
        elif planned.stage.keep.kind == "rule":
            each, scores = decide(planned, view, scores)
            counted = [[int(c) for c in row] for row in each.tolist()]  # the one wait for the device that rules cost
            decided = [sum(row) + p if row[0] >= 0 else 0 for row, p in zip(counted, protected, strict=True)]
            keep = self._counted(decided)
        elif keep is None:
            keep = self._counted(None)
        if keep == self.now:
            return hidden
        keep = [k if k == 0 else max(k, p) for k, p in zip(keep, protected, strict=True)]
        done = reduce(planned, view, keep, self.now, protected, scores, counted)
        return self._apply(planned, done, view, where, keep, hidden)

    def _watched(self, planned: PlannedStage, view: StageView) -> Tensor | None:
        """The scores of a stage's first pick where the guard looks at them, and has."""
        score = planned.picks[0].score if planned.picks else None
        if score is None or not self.guarding.watches(planned.number):
            return None
        scores = evaluate(score, view)
        self.guarding.scored(planned.number, scores, view.candidates)
        self.run.guarded = self.guarding.labels()
        return scores

    def _share_of(self, planned: PlannedStage, view: StageView) -> list[int]:
        """What each sample's layer gets of a budget that several stages share; the first of them decides for all."""
        if planned.number not in self.shares:
            layers = shared_out(planned, view, self.counting, self.now, self.plan.resolved.depth)
            self.shares.update(enumerate(layers, planned.number))
        return self.shares[planned.number]

    def _view(self, planned: PlannedStage, hidden: Tensor, where: Tensor) -> tuple[StageView, list[int]]:
        """What the stage's parts see, and how many tokens of each sample they may not drop."""
        valid = torch.arange(where.shape[1], device=hidden.device) < self._host(self.now)[:, None]
        shielded = self._protected(planned) & valid
        rows = take(hidden, where, 1)
        view = StageView(
            site=planned.site,
            hidden=rows,
            valid=valid,
            candidates=valid & ~shielded,
            tokens=self.tokens,
            place=self.place.gather(1, self.tokens),
            mass=self.mass,
            provide=functools.partial(self._signal, rows),
            grid=Grid(*(places.gather(1, self.tokens) for places in self.grid)),
            text=functools.partial(self._text, hidden),
            partition=self._partition,
            unpruned=self._host(self.prompt.n),
            pairs=functools.partial(self._pairs, hidden),
        )
        return view, self._protected_counts(planned, shielded)

    def _partition(self, use: Use) -> Partition:
        """The groups of the tokens still there; worked out on the host, once for each group part."""
        if use not in self._partitions:
            ids, groups, largest = partition(use, [f.layout for f in self.facts], self.pictures)
            self._partitions[use] = Partition(ids.to(self.ordinal.device)[self.ordinal], groups, largest)
        known = self._partitions[use]
        return Partition(known.ids.gather(1, self.tokens), known.groups, known.largest)

    def _protected_counts(self, planned: PlannedStage, shielded: Tensor) -> list[int]:
        """How many tokens of each sample the stage may not drop: known on the host where every stage protects the same,
        or where nothing is gone yet. What an earlier stage may have dropped has to be counted, and waited for."""
        protect, held = planned.stage.protect, self.separators[planned.number]
        both = isinstance(protect, tuple) and any(held)  # one token may be named and a separator
        if protect is not None and (both or not self.pristine):
            return [int(c) for c in shielded.sum(1).tolist()]
        if protect == "last":
            held = [h + int(n > lines) for h, n, lines in zip(held, self.prompt.n, self.newlines, strict=True)]
        elif isinstance(protect, tuple):
            held = [sum(position < n for position in protect) for n in self.prompt.n]
        return [h if v else 0 for h, v in zip(held, self.now, strict=True)]

    def _apply(
        self, planned: PlannedStage, done: Reduction, view: StageView, where: Tensor, keep: list[int], hidden: Tensor
    ) -> Tensor:
        """Write merged rows, drop the others, and renumber."""
        if done.matrix is not None:
            columns = where.gather(1, done.kept.index)
            rows = torch.where(done.kept.valid[..., None], self._rows_of(planned, done, view), take(hidden, columns, 1))
            hidden = hidden.scatter(1, columns[..., None].expand_as(rows), rows)
        gone = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        gone = gone.scatter(1, where, view.valid & ~done.kept.mask)
        staying = ~gone if self.layout.valid is None else self.layout.valid & ~gone
        self.lengths = [n - v + k for n, v, k in zip(self.lengths, self.now, keep, strict=True)]
        if done.follows is not None:
            counts = [v - k for v, k in zip(self.now, keep, strict=True)]
            self.parking.park(view, done.kept.mask, done.follows, counts)
        layout, columns = self.layout.select(staying, self.lengths)
        self.tokens = self.tokens.gather(1, done.kept.index)
        self.mass, self.now, self.pristine = done.mass, keep, False
        self._use(layout)
        return take(hidden, columns, 1)

    def _rows_of(self, planned: PlannedStage, done: Reduction, view: StageView) -> Tensor:
        """The kept rows [B, K, D], merged where the stage says."""
        if planned.stage.merge_on == "projected":
            return done.rows(view.hidden)
        return done.projected(view.hidden, view.provide(EncoderFeatures()), self.projector)

    def _restore(self, how: Restore, hidden: Tensor) -> Tensor:
        """Bring back all that stages have parked, at the columns where it was."""
        where, counts = self._where(hidden), self.parking.counts
        valid = torch.arange(where.shape[1], device=hidden.device) < self._host(self.now)[:, None]
        now = [v + c for v, c in zip(self.now, counts, strict=True)]
        self.lengths = [n + c for n, c in zip(self.lengths, counts, strict=True)]
        there = Present(self.tokens, valid, take(hidden, where, 1), self.mass)
        present, back, states = self.parking.restore(there, how, now)
        layout, hidden = returned(self.layout, hidden, self.columns, back, states, self.lengths)
        self.tokens, self.mass, self.now = present.tokens, present.mass, now
        self._use(layout)
        if self.attends:
            self._use(replace(layout, bias=self._bias(hidden)))
        return hidden

    def _bias(self, hidden: Tensor) -> Tensor:
        """log(mass) at the columns of the visual tokens still there, 0 at all others: [B, n]."""
        there = torch.arange(self.mass.shape[1], device=hidden.device) < self._host(self.now)[:, None]
        log = self.mass.clamp(min=LEAST_MASS).log().masked_fill(~there, 0)
        return log.new_zeros(hidden.shape[:2]).scatter(1, self._where(hidden), log)

    def _use(self, layout: Layout) -> None:
        self.layout = layout
        self.translator = Translator(layout, self.implementation, self.rotary)

    def _where(self, hidden: Tensor) -> Tensor:
        """Physical column [B, V] of each visual token still there, in raster order."""
        visual = self.layout.gather(self.prompt.visual)
        if self.layout.valid is not None:
            visual = visual & self.layout.valid
        return true_first(visual, max(max(self.now), 1))

    def _host(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), device=self.embeds.device)

    # ------------------------------------------------------------ signals
    def _signal(self, hidden: Tensor, signal: Signal) -> Tensor:
        """A signal at the visual tokens still there, whose states are hidden [B, V, D]: [B, V] or [B, V, D]."""
        if isinstance(signal, ProjectedFeatures):
            return take(self.embeds, self.columns.gather(1, self.tokens), 1)
        if isinstance(signal, NormedStates):
            return self._normed(hidden)
        if isinstance(signal, Tapped | Transition):
            return take(self.captured[signal], self.columns.gather(1, self.tokens), 1)
        if any(signal not in f.signals for f in self.facts):
            raise AutoPruneError("the image features were computed under another policy: compute them again")
        values = torch.cat([f.signals[signal] for f in self.facts])
        return values[self.ordinal.gather(1, self.tokens)]

    def _text(self, hidden: Tensor, space: TextSpace) -> tuple[Tensor, Tensor]:
        """Prompt rows after the last visual token [B, R, D] and which are real: as embedded, entering the layer, or
        their keys."""
        return self._prompt_rows(hidden, space, self.prompt.text, self.prompt.text_rows)

    def _prompt_rows(self, hidden: Tensor, space: TextSpace, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The rows [B, count, D] of a logical mask of text, at the back, and which are real."""
        if space == "hidden" or space == "normed":
            rows, real = self.rows(mask, count)
            found = take(hidden, rows, 1)
            return found if space == "hidden" else self._normed(found), real
        rows = true_last(mask, count)
        values = self.captured[space] if isinstance(space, DecoderKeys | KeyNorm) else self.embeds
        return take(values, rows, 1), mask.gather(1, rows)

    def _pairs(self, hidden: Tensor, space: TextSpace) -> Pairs:
        """The prompt's pairs of pictures and text."""
        prompt = self.prompt
        text, real = self._prompt_rows(hidden, space, prompt.told, prompt.told_rows)
        numbers = prompt.pair.gather(1, true_last(prompt.told, prompt.told_rows))  # text stays: the same rows
        tokens = prompt.pair.gather(1, self.columns.gather(1, self.tokens)).clamp(min=0)
        last = prompt.pair.amax(1, keepdim=True).clamp(min=0)
        return Pairs(tokens, text, numbers.masked_fill(~real, -1), last, prompt.pairs)

    def _normed(self, hidden: Tensor) -> Tensor:
        if self.norm is None:
            raise AutoPruneError("this model's language model has no last norm")
        return self.norm(hidden)

    def _probe(self, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Run the layer up to its attention function, without touching the cache."""
        own = kwargs if self.pristine else self.translator.prefill(kwargs, hidden)
        self.probing, self.rotation, self.entering = True, own.get("position_embeddings"), hidden
        try:
            layer.forward(hidden, **{**own, "past_key_values": None, "use_cache": False})
        except Abort:
            return
        finally:
            self.probing = False
        raise AutoPruneError("the layer's attention could not be read: its attention function is not the library's")

    @functools.cached_property
    def raters(self) -> Tensor:
        """Text tokens that the visual tokens are most alike where both enter the language model, [B, S]."""
        rows = true_last(self.prompt.text, self.prompt.text_rows)
        text, real = take(self.embeds, rows, 1), self.prompt.text.gather(1, rows)
        visual = take(self.embeds, self.columns, 1)
        real_visual = self.prompt.visual.gather(1, self.columns)
        found = text_raters(visual, real_visual, text, real)
        return torch.zeros_like(self.prompt.text).scatter(1, rows, found)

    def rows(self, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Physical rows [B, count] of the True entries of a logical mask, and which of them are real."""
        here = self.here(mask)
        rows = true_last(here, count)
        return rows, here.gather(1, rows)

    def here(self, mask: Tensor) -> Tensor:
        """A logical mask [B, S] at the columns that are still there, [B, n]."""
        here = self.layout.gather(mask)
        return here if self.layout.valid is None else here & self.layout.valid
