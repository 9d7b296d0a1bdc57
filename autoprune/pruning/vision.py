"""What is remembered of an image on its way through tower and projector.

generate() computes image features before the forward and may repeat them per beam, so the facts ride on each image's
feature tensor: wherever the library carries the features, the facts are there too.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.models.family import Family, ImageLayout, Places
from autoprune.pruning.encoder_signals import EncoderFeatures, EncoderRow, Pixels
from autoprune.pruning.signals import Signal
from autoprune.pruning.tap import Tap, attention_rows, over_heads

if TYPE_CHECKING:
    from torch import Tensor

ATTRIBUTE = "_autoprune_facts"


@dataclass(eq=False)
class ImageFacts:
    """Of one image with n visual tokens. signals: EncoderRow [n], EncoderFeatures [n, Dv], Pixels [n] int64."""

    layout: ImageLayout
    newline: Tensor
    signals: dict[Signal, Tensor]

    @property
    def tokens(self) -> int:
        return len(self.layout.source)


def facts_of(features: Iterable[Tensor]) -> list[ImageFacts]:
    """The facts of each image's feature tensor. Raises AutoPruneError if they were computed elsewhere."""
    found = [getattr(f, ATTRIBUTE, None) for f in features]
    if any(f is None for f in found):
        raise AutoPruneError("the image features were not computed under this policy: attach before computing them")
    return [f for f in found if f is not None]


@dataclass(eq=False)
class _Call:
    """One running get_image_features."""

    wanted: frozenset[Signal]
    layouts: list[ImageLayout] = field(default_factory=list)
    features: Tensor | None = None
    rows: dict[EncoderRow, Tensor] = field(default_factory=dict)


class VisionWatch:
    """Observes a model's image features. `wanted()` says which signals to take, `done(features)` gets each result."""

    def __init__(
        self,
        family: Family,
        places: Places,
        wanted: Callable[[], frozenset[Signal]],
        done: Callable[[Sequence[Tensor]], None],
    ) -> None:
        self._places, self._wanted, self._done = places, wanted, done
        self._local = threading.local()
        self._taps: dict[int, Tap] = {}
        base: Any = places.base
        original = base.get_image_features

        @functools.wraps(original)
        def observed(*args: Any, **kwargs: Any) -> Any:
            return self._observe(original, args, kwargs)

        self._undo = [family.watch(places, self._report)]
        self._undo.append(places.projector.register_forward_pre_hook(self._projecting).remove)
        base.get_image_features = observed
        self._undo.append(lambda: delattr(base, "get_image_features"))

    def tap(self, block: int) -> None:
        """Listen to an encoder block's attention (idempotent)."""
        if block not in self._taps:
            module = self._places.blocks[block].self_attn
            self._taps[block] = Tap(module, functools.partial(self._listen, block))

    def remove(self) -> None:
        for undo in reversed(self._undo):
            undo()
        for tap in self._taps.values():
            tap.remove()

    @property
    def _call(self) -> _Call | None:
        return getattr(self._local, "call", None)

    def _observe(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._local.call = _Call(self._wanted())
        try:
            output = original(*args, **kwargs)
        finally:
            self._local.call = None
        features = getattr(output, "pooler_output", None)
        if features is not None:
            pixels = kwargs.get("pixel_values", args[0] if args else None)
            _annotate(features, call, pixels)
            self._done(features)
        return output

    def _report(self, layouts: list[ImageLayout]) -> None:
        if self._call is not None:
            self._call.layouts = layouts

    def _projecting(self, module: Any, args: tuple[Any, ...]) -> None:
        if self._call is not None and EncoderFeatures() in self._call.wanted:
            self._call.features = args[0]

    def _listen(self, block: int, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        call = self._call
        wanted = () if call is None else [s for s in call.wanted if isinstance(s, EncoderRow) and s.block == block]
        if call is None or not wanted:
            return
        rows = torch.zeros(query.shape[0], 1, dtype=torch.long, device=query.device)  # CLS is the first row
        weights = attention_rows(query, key, rows, scaling, None)[:, :, 0]
        for signal in wanted:
            call.rows[signal] = over_heads(weights, signal.heads)


def _annotate(features: Sequence[Tensor], call: _Call, pixels: Any) -> None:
    """Hang each image's facts on its feature tensor; one host-to-device copy for all images."""
    layouts = call.layouts
    if len(layouts) != len(features):
        raise AutoPruneError(f"{len(features)} images but {len(layouts)} layouts: this tower is not supported")
    source = torch.cat([x.source for x in layouts]).to(features[0].device)
    lengths = [len(x.source) for x in layouts]
    newline = source < 0
    values: dict[Signal, Tensor] = {}
    patches = _patches(layouts)
    if call.features is not None:
        values[EncoderFeatures()] = _spread(call.features.flatten(0, 1), source, newline)
    for signal, row in call.rows.items():
        values[signal] = _spread(row[:, row.shape[1] - patches :].flatten(), source, newline)
    if Pixels() in call.wanted:
        hashes = pixel_hashes(pixels, [x.tiles for x in layouts])
        which = torch.repeat_interleave(torch.tensor(lengths)).to(source.device)
        values[Pixels()] = hashes[which]
    parts = {s: torch.split(v, lengths) for s, v in values.items()}
    for i, (tensor, newlines) in enumerate(zip(features, torch.split(newline, lengths), strict=True)):
        facts = ImageFacts(layouts[i], newlines, {s: v[i] for s, v in parts.items()})
        setattr(tensor, ATTRIBUTE, facts)


def _patches(layouts: Sequence[ImageLayout]) -> int:
    """Projector rows per tower input: the overview (or only) segment holds one tower input's rows."""
    first = layouts[0]
    return int(((first.segment == 0) & (first.source >= 0)).sum())


def _spread(rows: Tensor, source: Tensor, newline: Tensor) -> Tensor:
    picked = rows[source.clamp(min=0)]
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
