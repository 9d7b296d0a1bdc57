"""A policy attached to a model: hooks that prune during every prefill and translate every decode step.

Facts this relies on hold for the transformers versions named in `loaded.TESTED`.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

from autoprune.errors import AutoPruneError
from autoprune.models.family import family_of
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.cache import PrunedLayer, adopt
from autoprune.pruning.capture import listen, transitioned
from autoprune.pruning.facts import SeenImages
from autoprune.pruning.plan import Plan, make_plan
from autoprune.pruning.prefill import Prefill
from autoprune.pruning.prompt import Prompt
from autoprune.pruning.record import Budget, Run
from autoprune.pruning.refuse import refuse_bias, refuse_model, refuse_positions, refuse_signals
from autoprune.pruning.replay import Replay, shortened
from autoprune.pruning.signals import Signal
from autoprune.pruning.snapshot import restore
from autoprune.pruning.tap import Tap
from autoprune.pruning.transition import ModuleWatch
from autoprune.pruning.translate import added, decode_mask
from autoprune.pruning.vision import VisionWatch, refuse_vision

if TYPE_CHECKING:
    from torch import Tensor

_ATTACHED: weakref.WeakSet[Any] = weakref.WeakSet()
_LOCK = threading.Lock()
_OVERRIDE: ContextVar[tuple[object, Plan] | None] = ContextVar("autoprune_override", default=None)


@dataclass(eq=False)
class _Decode:
    """State of one decode step: translated masks, shared by layers of equal layout."""

    cache: Any
    masks: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class _Forward:
    """State of one forward of the multimodal model, from its inputs to the end of its language model. `images` is
    what get_image_features returned, or None."""

    ids: Tensor | None
    images: Any
    step: Prefill | _Decode | None = None
    layer: int = 0  # that began last


class Session:
    """`with Session(model, resolved) as session:` prunes every prefill of the model, from any thread.

    The model is an unmodified `*ForConditionalGeneration` of a supported family; leaving the context restores it bit
    for bit. Logits, hidden states and `logits_to_keep` are in physical columns (`run.index`); rows of different length
    end together, so columns counted from the end stay what they were.

    Raises AutoPruneError if the model already has a session, BadInput or PolicyMismatch if the policy cannot run on it.
    """

    def __init__(self, model: Any, resolved: ResolvedPolicy) -> None:
        config = model.config.to_dict()
        self.family = family_of(config)
        self.geometry = self.family.geometry(config, None)
        self.places = self.family.places(model)
        self._language_model: Any = self.places.language_model
        refuse_model(self._language_model)
        self._image_token = self.family.image_token(config)
        self._plan = self._make(resolved)
        self._local = threading.local()
        self._undo: list[Callable[[], None]] = []
        self._taps: dict[int, Tap] = {}
        self._watches: dict[int, ModuleWatch] = {}
        self._run: Run | None = None

    # ------------------------------------------------------------ for users
    @property
    def run(self) -> Run:
        """The record of the last prefill. Raises AutoPruneError before the first."""
        if self._run is None:
            raise AutoPruneError("nothing has run under this policy yet")
        return self._run

    def budget(self) -> Budget:
        """Budget of the last prefill, as counted on the run."""
        return self.run.budget()

    @contextlib.contextmanager
    def teacher_forced(self, answer_start: Tensor) -> Iterator[None]:
        """Within it inputs hold prompt and answer: columns >= answer_start [B] are never score rows.

        A teacher-forced pass then prunes exactly as generation's prefill does. Applies to the current thread.
        """
        before = getattr(self._local, "answer_start", None)
        self._local.answer_start = answer_start
        try:
            yield
        finally:
            self._local.answer_start = before

    @contextlib.contextmanager
    def replaying(self, replay: Replay) -> Iterator[None]:
        """Within it one forward of the current thread goes on where `replay` says, and leaves there what it saw.

        Only for a forward of the same inputs without a cache, on a model that no other thread uses meanwhile.
        """
        self._local.replay = replay
        try:
            with shortened(self.places.layers, replay):
                yield
        finally:
            self._local.replay = None

    @contextlib.contextmanager
    def override(self, resolved: ResolvedPolicy | None) -> Iterator[None]:
        """Use another policy (None = unpruned) in the current context only, e.g. for one request of a server."""
        plan = self._make(ResolvedPolicy((), self.geometry.depth) if resolved is None else resolved)
        self._tap(plan)
        token = _OVERRIDE.set((self, plan))
        try:
            yield
        finally:
            _OVERRIDE.reset(token)

    # ------------------------------------------------------------ life cycle
    def __enter__(self) -> Session:
        base: Any = self.places.base
        with _LOCK:
            if base in _ATTACHED:
                raise AutoPruneError("a policy is already attached to this model; leave its context first")
            _ATTACHED.add(base)
        try:
            self._attach(base)
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._detach()

    def _attach(self, base: Any) -> None:
        language_model = self._language_model
        self._vision = VisionWatch(self.family, self.places, self._vision_signals, self._got_images, self._known_images)
        self._undo.append(self._vision.remove)
        handles = [
            base.register_forward_pre_hook(self._base_begins, with_kwargs=True),
            base.register_forward_hook(self._base_ends, always_call=True),
            language_model.register_forward_pre_hook(self._language_begins, with_kwargs=True),
        ]
        for number, layer in enumerate(self.places.layers):
            hook = functools.partial(self._layer_begins, number)
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        self._undo += [h.remove for h in handles]
        if hasattr(language_model, "_deepstack_process"):
            language_model._deepstack_process = functools.partial(self._deepstack, language_model._deepstack_process)
            self._undo.append(lambda: delattr(language_model, "_deepstack_process"))
        self._tap(self._plan)

    def _detach(self) -> None:
        for undo in reversed(self._undo):
            undo()
        for tap in self._taps.values():
            tap.remove()
        for watch in self._watches.values():
            watch.remove()
        self._undo.clear()
        self._taps.clear()
        self._watches.clear()
        with _LOCK:
            _ATTACHED.discard(self.places.base)

    def _make(self, resolved: ResolvedPolicy) -> Plan:
        refuse_positions(resolved, self._language_model)
        refuse_bias(resolved, self._language_model)
        plan = make_plan(resolved, self.geometry)
        refuse_vision(plan.signals, self.places)
        refuse_signals(plan.signals, self._language_model, self.places.layers)
        return plan

    def _tap(self, plan: Plan) -> None:
        with _LOCK:
            self._vision.listen(plan.signals)
            for number in plan.decoder_taps - self._taps.keys():
                attention = self.places.layers[number].self_attn
                self._taps[number] = Tap(attention, functools.partial(self._listen, number, attention))
            for number in plan.watched_layers - self._watches.keys():
                layer = self.places.layers[number]
                self._watches[number] = ModuleWatch(layer, functools.partial(self._changed, number))

    # ------------------------------------------------------------ hooks
    @property
    def plan(self) -> Plan:
        """The policy in force in the current context."""
        override = _OVERRIDE.get()
        return override[1] if override is not None and override[0] is self else self._plan

    @property
    def _forward(self) -> _Forward | None:
        return getattr(self._local, "forward", None)

    def _vision_signals(self) -> frozenset[Signal]:
        return self.plan.signals

    @property
    def _replay(self) -> Replay | None:
        return getattr(self._local, "replay", None)

    def _known_images(self) -> SeenImages | None:
        return None if self._replay is None else self._replay.images

    def _got_images(self, output: Any) -> None:
        if self._forward is not None:
            self._forward.images = output
        if self._replay is not None:
            self._replay.seen = SeenImages.of(output)

    def _base_begins(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self._local.forward = _Forward(ids, (kwargs.get("mm_encoder_outputs") or {}).get("image"))

    def _base_ends(self, *unused: object) -> None:
        self._local.forward = None

    def _language_begins(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forward, embeds, cache = self._forward, kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        if forward is None or embeds is None:
            return None
        if cache is not None and cache.get_seq_length() > 0:
            if forward.images is not None and forward.ids is not None and forward.ids.shape[1] > 1:
                warnings.warn("an image after the first turn is not pruned", stacklevel=2)
            forward.step = _Decode(cache)
            return None
        if forward.ids is None:
            if forward.images is None:
                return None
            raise AutoPruneError("a policy needs input_ids to find the visual tokens; inputs_embeds alone will not do")
        real = _real_columns(kwargs.get("attention_mask"), embeds.shape[1])
        start = getattr(self._local, "answer_start", None)
        prompt = Prompt.read(forward.ids == self._image_token, real, start)
        if prompt is None:
            self._run = _text_only(forward.ids, self.geometry.depth, len(self.plan.stages))
            return None
        if forward.images is None:
            raise AutoPruneError("the prompt has image placeholders but no image was given")
        forward.step = self._start(prompt, embeds, forward.images, kwargs, module)
        return args, kwargs

    def _start(
        self, prompt: Prompt, embeds: Tensor, images: Any, kwargs: dict[str, Any], language_model: Any
    ) -> Prefill:
        use_cache, cache = kwargs.get("use_cache"), kwargs.get("past_key_values")
        if cache is None and (language_model.config.use_cache if use_cache is None else use_cache):
            cache = kwargs["past_key_values"] = DynamicCache()
        plan = self.plan
        if cache is not None and plan.stages:
            adopt(cache, len(self.places.layers))
        implementation = language_model.config._attn_implementation
        rotary = functools.partial(_rotary, language_model)
        norm = getattr(language_model, "norm", None)
        prefill = Prefill(plan, prompt, embeds, images, cache, implementation, rotary, norm, self.places.projector)
        if self._replay is not None and self._replay.start is not None:
            restore(prefill, self._replay.start)
        self._run = prefill.run
        return prefill

    def _layer_begins(self, number: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._forward is None or self._forward.step is None:
            return None
        step = self._forward.step
        if isinstance(step, _Decode):
            return self._decode(step, number, args, kwargs)
        self._forward.layer = number
        if self._replay is None:
            return step.before(number, module, args, kwargs)
        if number < self._replay.first:
            return None
        args = (self._replay.enter(step, number, args[0]), *args[1:])
        return step.before(number, module, args, kwargs) or (args, kwargs)

    def _deepstack(self, original: Callable[..., Tensor], hidden: Tensor, visual: Tensor, features: Tensor) -> Tensor:
        """After a decoder layer the library adds features at logical columns. A merged row gets its anchor's."""
        step = None if self._forward is None else self._forward.step
        if self._replay is not None and self._forward is not None and self._forward.layer < self._replay.first:
            return hidden  # the snapshot holds them
        if not isinstance(step, Prefill) or step.pristine:
            return original(hidden, visual, features)
        return added(hidden, step.layout, visual.to(hidden.device), features.to(hidden.device, hidden.dtype))

    def _decode(self, step: _Decode, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One step (or one turn of text) on a pruned cache."""
        layer = step.cache.layers[number]
        layout = layer.layout if isinstance(layer, PrunedLayer) else None
        if layout is None:
            return None
        hidden, mask = args[0], kwargs.get("attention_mask")
        changed: dict[str, Any] = {}
        queries, stored = hidden.shape[1], layer.stored_length()
        implementation = str(self._language_model.config._attn_implementation)
        if not (mask is None and layout.valid is None and layout.bias is None):
            key = (id(mask), id(layout))
            if key not in step.masks:
                made = decode_mask(mask, layout, "flash" in implementation, stored + queries, hidden)
                step.masks[key] = (made, mask)
            changed["attention_mask"] = step.masks[key][0]
        if "flash" in implementation:
            changed["position_ids"] = None
        if layout.next_position is not None:
            new = torch.arange(stored - layout.width, stored - layout.width + queries, device=hidden.device)
            positions = layout.next_position[:, None] + new
            changed["position_embeddings"] = _rotary(self._language_model, hidden, positions)
        return (args, {**kwargs, **changed}) if changed else None

    def _listen(
        self, number: int, attention: Any, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None
    ) -> None:
        step = None if self._forward is None else self._forward.step
        if isinstance(step, Prefill):
            listen(step, number, attention, query, key, scaling, mask)

    def _changed(self, number: int, before: Tensor, after: Tensor) -> None:
        step = None if self._forward is None else self._forward.step
        if isinstance(step, Prefill):
            transitioned(step, number, before, after)


def _rotary(language_model: Any, hidden: Tensor, positions: Tensor) -> Any:
    return language_model.rotary_emb(hidden, position_ids=positions)


def _real_columns(mask: Any, width: int) -> Tensor | None:
    """Which columns [B, S] hold real tokens. In a 4D causal mask the last row sees exactly those."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.ndim == 2:
        return torch.as_tensor(mask[:, :width].bool())
    last = mask[:, 0, -1, :width]
    return torch.as_tensor(last if last.dtype == torch.bool else last == 0)


def _text_only(ids: Tensor, depth: int, stages: int) -> Run:
    from autoprune.pruning.layout import Layout

    batch, width = ids.shape
    layout = Layout(torch.arange(width, device=ids.device).expand(batch, width), None, width)
    none = ids.new_zeros(batch, 0)
    zeros = [[0] * batch for _ in range(max(depth, stages))]
    return Run([0] * batch, depth, zeros[:depth], [layout] * depth, [none] * depth, zeros[:stages])
