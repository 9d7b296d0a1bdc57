"""Watching tower and projector: what is taken of an image on its way through them."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.models.family import Family, ImageLayout, Places
from autoprune.pruning.encoder_signals import (
    ClassLikeness,
    EncoderFeatures,
    EncoderKeys,
    EncoderSignal,
    EncoderWalk,
    Lattice,
    PatchEntropy,
    Pixels,
    Sensitivity,
)
from autoprune.pruning.entropy import normalisation, patch_entropy, refuse_tower, tower_inputs
from autoprune.pruning.facts import ImageFacts, SeenImages, carry
from autoprune.pruning.jacobian import Jacobian, jacobian_of, refuse_projector
from autoprune.pruning.lattice import lattice_scores
from autoprune.pruning.signals import Signal
from autoprune.pruning.tap import Tap
from autoprune.pruning.walk import put_together, walk

if TYPE_CHECKING:
    from torch import Tensor


def refuse_vision(signals: Iterable[Signal], places: Places) -> None:
    """Raises BadInput where a policy asks for what this model's tower or projector cannot tell."""
    wanted = frozenset(signals)
    if Sensitivity() in wanted:
        refuse_projector(places.projector)
    if PatchEntropy() in wanted:
        refuse_tower(places.tower.config)


@dataclass(eq=False)
class _Call:
    """One running get_image_features. `rows`: per tower token or per row of the projector, [T, tokens] or, keys,
    [T, tokens, w]. `pieces`, `keys`: of a packed tower, one after the other. `unnormed`: what just entered the norm
    before the projector's layers."""

    wanted: frozenset[Signal]
    layouts: list[ImageLayout] = field(default_factory=list)
    features: Tensor | None = None
    unnormed: Tensor | None = None
    rows: dict[Signal, Tensor] = field(default_factory=dict)
    pieces: dict[tuple[EncoderWalk, int], list[Tensor]] = field(default_factory=dict)
    keys: dict[EncoderKeys, list[Tensor]] = field(default_factory=dict)
    lengths: dict[int, Tensor] = field(default_factory=dict)

    def end(self, signal: EncoderWalk, ended: Tensor) -> None:
        """A walk in one more block has ended, [B, T]."""
        self.rows[signal] = put_together(signal.over, len(signal.blocks), self.rows.get(signal), ended)

    def unpack(self) -> None:
        """Put the pieces of a packed tower together, [1, T] or [1, T, w].

        Patches of one image that do not see each other (windows) walk apart. Started evenly over the image, a piece of
        t among T patches holds t / T of the mass; started by length, its part of the image's lengths.
        """
        patches = [x.tiles for x in self.layouts]
        for (signal, block), pieces in self.pieces.items():
            ends = torch.cat(pieces)
            parts = [len(piece) for piece in pieces]
            begun = self.lengths[block][0] if signal.start == "norm" else torch.ones(len(ends), device=ends.device)
            share = _sums(begun, parts) / _sums(begun, patches)
            self.end(signal, (ends * share.view(-1, *[1] * (ends.ndim - 1)))[None])
        for wanted, found in self.keys.items():
            self.rows[wanted] = torch.cat(found)[None]

    def begun(self, signal: EncoderWalk, block: int, tokens: int) -> Tensor | None:
        """Lengths [B, T] of the features of the sequence that a block attends over now, for a walk from `norm`."""
        if signal.start != "norm":
            return None
        done = sum(len(piece) for piece in self.pieces.get((signal, block), ()))
        return self.lengths[block][:, done : done + tokens]


class VisionWatch:
    """Observes a model's image features. `wanted()` says which signals to take, `done(output)` gets each result;
    `known()` are the images at hand where they were seen before: the tower then runs for missing signals only."""

    def __init__(
        self,
        family: Family,
        places: Places,
        wanted: Callable[[], frozenset[Signal]],
        done: Callable[[Any], None],
        known: Callable[[], SeenImages | None],
    ) -> None:
        self._places, self._wanted, self._done, self._known = places, wanted, done, known
        self._local = threading.local()
        self._taps: dict[int, Tap] = {}
        self._measured: set[int] = set()
        self._jacobian: Jacobian | None = None
        base: Any = places.base
        original = base.get_image_features

        @functools.wraps(original)
        def observed(*args: Any, **kwargs: Any) -> Any:
            return self._observe(original, args, kwargs)

        self._undo = [family.watch(places, self._report)]
        self._undo.append(places.projector.register_forward_pre_hook(self._projecting).remove)
        base.get_image_features = observed
        self._undo.append(lambda: delattr(base, "get_image_features"))

    def listen(self, signals: Iterable[Signal]) -> None:
        """Get ready to take these signals: taps on encoder blocks, the projector's Jacobian (idempotent)."""
        wanted = frozenset(signals)
        for block in {b for s in wanted for b in _blocks(s)} - self._taps.keys():
            module = getattr(self._places.blocks[block], self._places.attention)
            self._taps[block] = Tap(module, functools.partial(self._listen, block), self._places.packed)
        for block in {b for s in wanted for b in _measured(s)}:
            if block not in self._measured:
                self._measured.add(block)
                hook = functools.partial(self._entering, block)
                handle = self._places.blocks[block].register_forward_pre_hook(hook, with_kwargs=True)
                self._undo.append(handle.remove)
        if Sensitivity() in wanted and self._jacobian is None:
            self._jacobian = jacobian_of(self._places.projector)
            if self._jacobian.entry is not None:
                self._undo.append(self._jacobian.entry.register_forward_pre_hook(self._norming).remove)
            self._undo.append(self._jacobian.inner.register_forward_hook(self._bending).remove)

    def remove(self) -> None:
        for undo in reversed(self._undo):
            undo()
        for tap in self._taps.values():
            tap.remove()

    @property
    def _call(self) -> _Call | None:
        return getattr(self._local, "call", None)

    def _observe(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known, wanted = self._known(), self._wanted()
        if known is not None:
            wanted -= known.signals
            if not any(isinstance(signal, EncoderSignal) for signal in wanted):
                self._done(known)
                return known
        call = self._local.call = _Call(wanted)
        try:
            output = original(*args, **kwargs)
        finally:
            self._local.call = None
        features = getattr(output, "pooler_output", None)
        if features is not None:
            pixels = kwargs.get("pixel_values", args[0] if args else None)
            facts = _facts(call, pixels, self._places, features[0].device)
            if len(facts) != len(features):
                raise AutoPruneError(f"{len(features)} images but {len(facts)} layouts: this tower is not supported")
            if known is not None:
                known.add_to(facts)
            carry(output, facts)
            self._done(output)
        return output

    def _report(self, layouts: list[ImageLayout]) -> None:
        if self._call is not None:
            self._call.layouts = layouts

    def _projecting(self, module: Any, args: tuple[Any, ...]) -> None:
        if self._call is not None and EncoderFeatures() in self._call.wanted:
            self._call.features = args[0]

    def _entering(self, block: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._call is not None:
            rows: Tensor = (args[0] if args else kwargs["hidden_states"]).float()
            lengths = torch.linalg.vector_norm(rows, dim=-1)
            self._call.lengths[block] = lengths[None] if lengths.ndim == 1 else lengths
            likeness = ClassLikeness(block)
            if likeness in self._call.wanted:
                unit = torch.nn.functional.normalize(rows, dim=-1)
                self._call.rows[likeness] = (unit @ unit[:, 0, :, None])[..., 0]

    def _norming(self, module: Any, args: tuple[Any, ...]) -> None:
        if self._call is not None and Sensitivity() in self._call.wanted:
            self._call.unnormed = args[0]

    def _bending(self, module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        call = self._call
        if call is not None and self._jacobian is not None and Sensitivity() in call.wanted:
            call.rows[Sensitivity()] = self._jacobian.norms(call.unnormed, output)
            call.unnormed = None

    def _listen(self, block: int, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        call = self._call
        if call is None:
            return
        for signal in call.wanted:
            if isinstance(signal, EncoderWalk) and block in signal.blocks:
                ended = walk(query, key, scaling, signal, call.begun(signal, block, query.shape[2]))
                if self._places.packed:
                    call.pieces.setdefault((signal, block), []).append(ended[0])
                else:
                    call.end(signal, ended)
            elif isinstance(signal, EncoderKeys) and block == signal.block:
                rows = key.float().mean(1) if signal.heads == "mean" else key.transpose(1, 2).flatten(2)
                if self._places.packed:
                    call.keys.setdefault(signal, []).append(rows[0])
                else:
                    call.rows[signal] = rows


def _blocks(signal: Signal) -> tuple[int, ...]:
    """The tower's blocks that must be listened to."""
    if isinstance(signal, EncoderKeys):
        return (signal.block,)
    return signal.blocks if isinstance(signal, EncoderWalk) else ()


def _measured(signal: Signal) -> tuple[int, ...]:
    """The blocks before which features are measured."""
    if isinstance(signal, ClassLikeness):
        return (signal.block,)
    return signal.blocks if isinstance(signal, EncoderWalk) and signal.start == "norm" else ()


def _sums(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """The sum of each run of `lengths` values, at every entry of the run."""
    totals = torch.stack([part.sum() for part in torch.split(values, list(lengths))])
    return torch.repeat_interleave(totals, torch.tensor(list(lengths), device=values.device), output_size=len(values))


def _facts(call: _Call, pixels: Any, places: Places, device: torch.device) -> list[ImageFacts]:
    """The facts of each image; one host-to-device copy for all images."""
    layouts = call.layouts
    call.unpack()
    source = torch.cat([x.source for x in layouts]).to(device)
    lengths = [len(x.source) for x in layouts]
    newline = source < 0
    values: dict[Signal, Tensor] = {}
    spread = functools.partial(_spread, source=source, newline=newline, mixed=_mixed(layouts, device))
    rows = _rows(layouts)
    if call.features is not None:
        features = _feature_rows(call.features, rows, places)
        values[EncoderFeatures()] = spread(features).to(features.dtype)
    if PatchEntropy() in call.wanted:
        pictures = tower_inputs(pixels, [x.tiles for x in layouts])
        tower = places.tower.config
        entropy = patch_entropy(pictures, tower, normalisation(tower, places.base.config))
        call.rows[PatchEntropy()] = _filled(entropy, rows * places.unit**2)
    for signal, row in call.rows.items():
        values[signal] = spread(_row_values(row, rows, places))
    if Pixels() in call.wanted:
        hashes = pixel_hashes(pixels, [x.tiles for x in layouts])
        which = torch.repeat_interleave(torch.tensor(lengths)).to(device)
        values[Pixels()] = hashes[which]
    for order in (Lattice("cells"), Lattice("rows")):
        if order in call.wanted:
            values[order] = torch.cat([lattice_scores(x, order.of) for x in layouts]).to(device)
    parts = {s: torch.split(v, lengths) for s, v in values.items()}
    newlines = torch.split(newline, lengths)
    return [ImageFacts(x, newlines[i], {s: v[i] for s, v in parts.items()}) for i, x in enumerate(layouts)]


def _rows(layouts: Sequence[ImageLayout]) -> int:
    """The projector's rows per tower input: the overview (or only) segment holds one tower input's rows."""
    first = layouts[0]
    return int(((first.segment == 0) & (first.source >= 0)).sum())


def _filled(values: Tensor, tokens: int) -> Tensor:
    """Values per patch [T, patches] as values of `tokens` tokens: 0 for the class token where it is projected too."""
    return torch.nn.functional.pad(values, (max(tokens - values.shape[1], 0), 0))


def _feature_rows(features: Tensor, rows: int, places: Places) -> Tensor:
    """What enters the projector as [R, D], one row per row of its output over the whole call. A packed tower's
    projector lays the patches of a row side by side."""
    if places.packed:
        return features.reshape(len(features) // places.unit**2, -1)
    return _folded(features, rows, places.unit).flatten(0, 1)


def _row_values(values: Tensor, rows: int, places: Places) -> Tensor:
    """Values per tower token [T, tokens, ...] as means [R, ...], one per row of the projector's output over the whole
    call. What comes per row already is left as it is: of a packed tower [R]."""
    if places.packed and values.ndim == 1:
        return values
    if places.packed:
        return values.reshape(-1, places.unit**2, *values.shape[2:]).float().mean(1)
    return _folded(values, rows, places.unit).flatten(0, 1)


def _folded(values: Tensor, rows: int, unit: int) -> Tensor:
    """Values per tower token [T, tokens, ...] as values per projector row [T, rows, ...]: leading tokens that are no
    patches are cut off, patches that become one row are averaged. What comes per row already is left as it is."""
    if values.shape[1] == rows:
        return values
    patches = values[:, values.shape[1] - rows * unit * unit :]
    if unit == 1:
        return patches
    side = math.isqrt(rows)
    blocks = patches.reshape(len(patches), side, unit, side, unit, *patches.shape[2:])
    return blocks.float().mean((2, 4)).flatten(1, 2)


def _mixed(layouts: Sequence[ImageLayout], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Rows [n, m] and weights [n, m] of all images' tokens where some token is a mean of rows, else None."""
    most = max(1 if x.members is None else x.members.shape[1] for x in layouts)
    if most == 1:
        return None
    members, weights = [], []
    for x in layouts:
        alone = torch.nn.functional.one_hot(torch.zeros_like(x.source), most).float()
        members.append(x.source.clamp(min=0)[:, None].expand(-1, most) if x.members is None else x.members)
        weights.append(alone if x.weights is None else x.weights.float())
    return torch.cat(members).to(device), torch.cat(weights).to(device)


def _spread(rows: Tensor, source: Tensor, newline: Tensor, mixed: tuple[Tensor, Tensor] | None) -> Tensor:
    """Values per projector row, flattened over the call, at the visual tokens; newlines are zero."""
    if mixed is None:
        picked = rows[source.clamp(min=0)]
    else:
        members, weights = mixed
        picked = (rows[members].float() * weights.view(*weights.shape, *[1] * (rows.ndim - 1))).sum(1)
    return picked.masked_fill(newline.view(-1, *[1] * (rows.ndim - 1)), 0)


def pixel_hashes(pixels: Tensor, tiles: Sequence[int]) -> Tensor:
    """One int64 per image from the bits of its pixels, reduced where they are. Trailing zero padding changes nothing.

    Integer sums wrap and do not depend on the order of addition, so the value is the same on every device and batch.
    """
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[pixels.element_size()]
    bits = pixels.contiguous().view(integers).flatten(1).long()
    odd = torch.arange(bits.shape[1], device=bits.device) * 2654435761 | 1
    each = (bits * odd).sum(1)
    if len(each) == len(tiles):
        return each
    order = torch.cat([torch.arange(t) for t in tiles]).to(each.device)
    which = torch.repeat_interleave(torch.tensor(list(tiles))).to(each.device)
    return torch.zeros(len(tiles), dtype=torch.long, device=each.device).index_add(0, which, each * (2 * order + 1))
