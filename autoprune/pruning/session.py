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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache

from autoprune.errors import AutoPruneError
from autoprune.models.family import family_of
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.bystanders import Bystanders
from autoprune.pruning.cache import adopt
from autoprune.pruning.capture import listen, transitioned
from autoprune.pruning.decode import Decode
from autoprune.pruning.facts import SeenImages
from autoprune.pruning.guarding import Texts, asks_for_words, refuse_wordless
from autoprune.pruning.plan import Plan, make_plan
from autoprune.pruning.prefill import Prefill
from autoprune.pruning.prompt import Prompt, real_columns
from autoprune.pruning.record import Budget, Run, text_only
from autoprune.pruning.refuse import refuse_bias, refuse_model, refuse_positions, refuse_signals
from autoprune.pruning.replay import Replay, shortened
from autoprune.pruning.request import ATTACHED, Request, Requests, Using, chosen, said
from autoprune.pruning.signals import Signal
from autoprune.pruning.snapshot import restore
from autoprune.pruning.stats import Counted, Stats
from autoprune.pruning.tap import Tap
from autoprune.pruning.transition import ModuleWatch
from autoprune.pruning.translate import added
from autoprune.pruning.vision import VisionWatch, refuse_vision

if TYPE_CHECKING:
    from torch import Tensor

_ATTACHED: weakref.WeakSet[Any] = weakref.WeakSet()
_LOCK = threading.Lock()
_REMEMBERED = 32  # plans of policies that contexts have asked for


def anything_attached() -> bool:
    """Whether some model of this process has a policy attached."""
    return len(_ATTACHED) > 0


@dataclass(eq=False)
class _Forward:
    """State of one forward of the multimodal model, from its inputs to the end of its language model. `images` is
    what get_image_features returned, or None; `end` ends the request where the forward is one."""

    ids: Tensor | None
    images: Any
    end: Callable[[], None]
    step: Prefill | Decode | None = None
    layer: int = 0  # that began last


class Session:
    """`with Session(model, resolved) as session:` prunes every prefill of the model, from any thread.

    The model is an unmodified `*ForConditionalGeneration` of a supported family; leaving the context restores it bit
    for bit. `texts`: what prompts say, for a guard that looks at them. Logits, hidden states and `logits_to_keep` are
    in physical columns (`run.index`); rows of different length end together, so columns counted from the end stay.

    Raises AutoPruneError if the model already has a session, BadInput or PolicyMismatch if the policy cannot run on it.
    """

    def __init__(self, model: Any, resolved: ResolvedPolicy, texts: Texts = Texts()) -> None:  # noqa: B008 - a constant
        config = model.config.to_dict()
        self.model, self.texts, self.on = model, texts, False
        self.family = family_of(config)
        self.geometry = self.family.geometry(config, None)
        self.places = self.family.places(model)
        self._language_model: Any = self.places.language_model
        refuse_model(self._language_model)
        self._image_token = self.family.image_token(config)
        refuse_wordless(resolved, texts)
        self._plan = self._make(resolved)
        self._plans: dict[int, tuple[Any, Plan]] = {}
        self._local = threading.local()
        self._requests, self._counted = Requests(), Counted()
        self._undo: list[Callable[[], None]] = []
        self._foreign: Bystanders | None = None
        self._taps: dict[int, Tap] = {}
        self._watches: dict[int, ModuleWatch] = {}
        self._run: Run | None = None

    # ------------------------------------------------------------ for users
    @property
    def run(self) -> Run:
        """The record of the last prefill, of any thread (`using` gives a context's own). Raises AutoPruneError before
        the first."""
        if self._run is None:
            raise AutoPruneError("nothing has run under this policy yet")
        return self._run

    def budget(self) -> Budget:
        """Budget of the last prefill, as counted on the run."""
        return self.run.budget()

    @property
    def stats(self) -> Stats:
        """What has run so far, counted."""
        return self._counted.stats

    @property
    def running(self) -> int:
        """Requests that run now."""
        return self._requests.running

    def retire(self, timeout: float | None = None) -> bool:
        """Before the policy is taken off: requests that begin from now on run unpruned, those that run are waited for,
        at most `timeout` seconds; whether none runs. If one does, the policy stays and all is as before."""
        return self._requests.close(timeout)

    def prepare(self, resolved: ResolvedPolicy) -> Plan:
        """Get ready to run under another policy, which `swap` then puts in force. Raises like the constructor."""
        refuse_wordless(resolved, self.texts)
        return self._ready(resolved)

    def _ready(self, resolved: ResolvedPolicy) -> Plan:
        plan = self._make(resolved)
        self._tap(plan)  # what no plan asks for any more goes on being offered to nobody: there is one tap per layer
        return plan

    def swap(self, plan: Plan) -> None:
        """Requests that begin from now on run under another plan that `prepare` made; those that run go on as they
        began."""
        self._plan = plan

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
        """Use another policy (None = unpruned) for this model in the current context only; refused here and not when a
        request begins. For policies that are loaded: `autoprune.using`."""
        self._plan_of(resolved)
        with chosen(Using(resolved, self)):
            yield

    # ------------------------------------------------------------ life cycle
    def __enter__(self) -> Session:
        base: Any = self.places.base
        with _LOCK:
            if base in _ATTACHED:
                raise AutoPruneError("a policy is already attached to this model; leave its context first")
            _ATTACHED.add(base)
        self.on = True
        self._requests.open()
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
        if hasattr(self.model, "generate"):  # first: what begins after it is ours, what began before is left alone
            self._foreign = Bystanders(self.model)
            self._undo.append(_replaced(self.model, "generate", self._generating(self.model.generate)))
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
        self._plans.clear()
        self._watches.clear()
        self.on = False
        with _LOCK:
            _ATTACHED.discard(self.places.base)

    def _generating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """generate() computes image features before its first forward, and both must be of one policy."""

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            end = self._requests.begin(self._request)
            try:
                return original(*args, **kwargs)
            finally:
                end()

        return generate

    def _request(self) -> Request:
        """A request that begins now, in the current context."""
        return Request(self._chosen(), said(self))

    def _chosen(self) -> Plan:
        used = said(self)
        return self._plan if used is None or used.policy is ATTACHED else self._plan_of(used.policy)

    def _plan_of(self, policy: Any) -> Plan:
        """The plan of a policy that a context asks for (None = unpruned); made once."""
        known = self._plans.get(id(policy))
        if known is not None and known[0] is policy:
            return known[1]
        if policy is None or isinstance(policy, ResolvedPolicy):
            plan = self._ready(policy or ResolvedPolicy((), self.geometry.depth))
        else:
            plan = self._ready(policy.fitted(self.model))
        with _LOCK:
            while len(self._plans) >= _REMEMBERED:
                del self._plans[next(iter(self._plans))]
            self._plans[id(policy)] = (policy, plan)
        return plan

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
        """The policy in force: of the request that the current thread serves, else in the current context."""
        request = self._requests.current
        return self._chosen() if request is None else request.plan

    @property
    def _forward(self) -> _Forward | None:
        return getattr(self._local, "forward", None)

    def _vision_signals(self) -> frozenset[Signal]:
        return frozenset() if self._leaves_alone() else self.plan.signals

    def _leaves_alone(self) -> bool:
        """Whether the current thread's request began before the policy was attached, or while it is taken off."""
        if self._requests.current is not None:
            return False
        return self._requests.passing or (self._foreign is not None and self._foreign.run_here())

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
        if self._leaves_alone():
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        end = self._requests.begin(self._request)
        if self._requests.passing:  # a forward by itself: until its end
            self._local.passed = end
            return
        self._local.forward = _Forward(ids, (kwargs.get("mm_encoder_outputs") or {}).get("image"), end)

    def _base_ends(self, *unused: object) -> None:
        forward, self._local.forward = self._forward, None
        if forward is None:  # it was refused before it began, or is left alone
            self._forget_passed()
            return
        forward.end()
        if isinstance(forward.step, Prefill) and len(forward.step.run.lengths) == forward.step.run.depth:
            self._counted.add(forward.step.run)

    def _forget_passed(self) -> None:
        end, self._local.passed = getattr(self._local, "passed", None), None
        if end is not None:
            end()

    def _language_begins(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forward, embeds, cache = self._forward, kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        if forward is None or embeds is None:
            return None
        if cache is not None and cache.get_seq_length() > 0:
            if forward.images is not None and forward.ids is not None and forward.ids.shape[1] > 1:
                warnings.warn("an image after the first turn is not pruned", stacklevel=2)
            forward.step = Decode(cache)
            return None
        if forward.ids is None:
            if forward.images is None:
                return None
            raise AutoPruneError("a policy needs input_ids to find the visual tokens; inputs_embeds alone will not do")
        real = real_columns(kwargs.get("attention_mask"), embeds.shape[1])
        start = getattr(self._local, "answer_start", None)
        prompt = Prompt.read(forward.ids == self._image_token, real, start)
        if prompt is None:
            self._ran(text_only(forward.ids, self.geometry.depth, len(self.plan.stages)))
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
        words = self._words(plan, prompt)
        projector = self.places.projector
        prefill = Prefill(plan, prompt, embeds, images, cache, implementation, rotary, norm, projector, words)
        if self._replay is not None and self._replay.start is not None:
            restore(prefill, self._replay.start)
        self._ran(prefill.run)
        return prefill

    def _words(self, plan: Plan, prompt: Prompt) -> list[str] | None:
        """What the samples say, where the policy's guard wants to know."""
        request, forward = self._requests.current, self._forward
        if not asks_for_words(plan.resolved) or forward is None or forward.ids is None:
            return None
        own = None if request is None or request.used is None else request.used.prompt
        texts = self.texts if own is None else Texts(given=own)
        refuse_wordless(plan.resolved, texts)
        return texts.of(prompt, forward.ids)

    def _ran(self, run: Run) -> None:
        """A prefill begins, and `run` will be its record."""
        self._run = run
        request = self._requests.current
        if request is not None and request.used is not None:
            request.used.ran(run)

    def _layer_begins(self, number: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._forward is None or self._forward.step is None:
            return None
        step = self._forward.step
        if isinstance(step, Decode):
            return step.before(number, self._language_model, args, kwargs)
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


def _replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Give an object another attribute of its own; what is returned takes it back."""
    own = vars(owner)
    had, before = name in own, own.get(name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before) if had else delattr(owner, name)


def _rotary(language_model: Any, hidden: Tensor, positions: Tensor) -> Any:
    return language_model.rotary_emb(hidden, position_ids=positions)
