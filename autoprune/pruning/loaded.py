"""A policy with what it was made for: save it, load it, attach it to a model. Importing this file imports no torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Problems
from autoprune.errors import BadInput, PolicyMismatch
from autoprune.models.fingerprint import Fingerprint, live_fingerprint
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.pruning.attached import Attached
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import Unusable, make_plan
from autoprune.pruning.refusals import refusals
from autoprune.pruning.saved import Saved, read_folder, write_folder

if TYPE_CHECKING:
    from autoprune.document.yaml import Source
    from autoprune.policy.front import Front, Member
    from autoprune.policy.resolved import ResolvedPolicy

TESTED = ((5, 23), (5, 24))  # transformers versions the equivalence suite ran on: from, and before


@dataclass(frozen=True)
class LoadedPolicy:
    """`fingerprint` is None for policies that were made for no model in particular (the catalog). `metadata` holds
    measurements and provenance; only its `environment.dtype` is read here. `source` is the document, where there is
    one: mistakes for a model stand in it. `whole` is the front that the policy was selected from, if there is one."""

    policy: Policy
    fingerprint: Fingerprint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = field(default=None, compare=False, repr=False)
    whole: Front | None = field(default=None, repr=False)

    @cached_property
    def front(self) -> tuple[LoadedPolicy, ...]:
        """All members of the front, gentlest (dearest) first, this policy among them; empty without a front. Each knows
        its own measurements, and the same front. Raises BadInput for a member that is no policy."""
        return () if self.whole is None else tuple(self._member(member) for member in self.whole.members)

    def _member(self, member: Member) -> LoadedPolicy:
        if member.policy is None:
            raise BadInput(f"the front's member {member.name!r} has no document", code="not-a-front")
        try:
            policy = Policy.parse(member.policy, RegisteredParts())
        except BadInput as error:
            raise BadInput(f"the front's member {member.name!r} is no policy: {error}", code="not-a-front") from error
        return replace(self, policy=policy, metadata={**self.metadata, **member.measured()}, source=None)

    def attach(
        self,
        model: Any,
        *,
        strict: bool = False,
        tokens: int | None = None,
        parity: bool = False,
        tokenizer: Any = None,
        prompt: str | None = None,
    ) -> Attached:
        """Prune every prefill of the model from now on, from any thread, until `.detach()` or the end of a `with`.

        `with policy.attach(model) as session:` gives the session. Losing the handle without detaching does not end the
        pruning: the model keeps it.

        strict: refuse instead of warn where the policy's measurements do not hold for this model. tokens: N where it is
        the same for every sample. parity: as the method's release does it (the document's `parity`), never what the
        policy was measured with. tokenizer (or processor), prompt: what requests say, for a guard that looks at
        prompts: read off the model's ids, or the same wherever `autoprune.using` gives no other. Raises PolicyMismatch
        for another architecture or an untested transformers version, BadInput where the policy or the model cannot
        work, AutoPruneError if a policy is attached already; the model is
        then as it was.
        """
        from autoprune.pruning.guarding import Texts
        from autoprune.pruning.session import Session

        resolved, reasons = self.checked(model, strict=strict, tokens=tokens, parity=parity)
        session = Session(model, resolved, Texts(tokenizer, prompt))
        if reasons:  # before anything is attached: a filter may turn the warning into an error
            warnings.warn(f"policy {self.policy.name!r} is uncertified here: {'; '.join(reasons)}", stacklevel=2)
        session.__enter__()
        return Attached(session)

    def checked(
        self, model: Any, *, strict: bool = False, tokens: int | None = None, parity: bool = False
    ) -> tuple[ResolvedPolicy, list[str]]:
        """The policy bound to a model, and why its measurements do not hold there. Raises as `attach` does, but for
        what only the engine can say."""
        refuse_untested(_transformers_version())
        _config(model)
        reasons = self.uncertified(model, parity)
        if reasons and strict:
            raise PolicyMismatch(f"policy {self.policy.name!r} is not certified for this model: {'; '.join(reasons)}")
        return self.resolve(model, tokens, parity), reasons

    def fitted(self, model: Any) -> ResolvedPolicy:
        """The policy bound to a model, with a warning where its measurements do not hold there."""
        resolved, reasons = self.checked(model)
        if reasons:
            warnings.warn(f"policy {self.policy.name!r} is uncertified here: {'; '.join(reasons)}", stacklevel=2)
        return resolved

    def resolve(self, model: Any, tokens: int | None = None, parity: bool = False) -> ResolvedPolicy:
        """The policy bound to a loaded model's geometry, in a parity run or not. Raises BadInput with every mistake."""
        from autoprune.models.family import geometry_of

        geometry = geometry_of(_config(model))
        resolved = resolve(self.policy, geometry, RegisteredParts(), tokens, parity=parity, source=self.source)
        if self.source is not None:
            try:
                make_plan(resolved, geometry)
            except Unusable:
                Problems(refusals(self.policy, geometry, parity=parity)).raise_for(self.source)
                raise
        return resolved

    def uncertified(self, model: Any, parity: bool = False) -> list[str]:
        """Why the policy's measurements do not hold for this model; empty where they do or where it has none.

        Raises PolicyMismatch where it was made for another architecture.
        """
        if self.fingerprint is None:
            return []
        live = live_fingerprint(model)
        if live.architecture != self.fingerprint.architecture:
            raise PolicyMismatch(
                f"policy {self.policy.name!r} was made for another architecture "
                f"({self.fingerprint.architecture[:12]}) than this model's ({live.architecture[:12]})"
            )
        reasons = ["it was not measured in a parity run"] if parity and self.policy.parity else []
        if not live.weights:
            reasons.append("the weights cannot be traced to the files it was measured on")
        elif live.weights != self.fingerprint.weights:
            reasons.append("the weights differ from those it was measured on")
        measured = self.metadata.get("environment", {}).get("dtype")
        dtype = str(getattr(model, "dtype", "")).removeprefix("torch.")
        if measured and dtype and dtype != measured:
            reasons.append(f"it was measured in {measured}, the model is in {dtype}")
        if getattr(model, "hf_quantizer", None) is not None and not self.metadata.get("quantised"):
            reasons.append("the model is quantised")
        return reasons

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `policy.yaml`, `metadata.json` and, where there is a front, `front.json` into a folder, which is
        created. The front's selected member is then this policy."""
        whole = None if self.whole is None else self.whole.selecting(str(self.metadata.get("digest", "")))
        write_folder(Path(folder), Saved(self.policy, self.fingerprint, self.metadata, whole))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LoadedPolicy:
        """Read what `save_pretrained` wrote. Raises BadInput for missing, corrupt or altered files."""
        saved = read_folder(Path(folder))
        loaded = cls(saved.policy, saved.fingerprint, saved.metadata, saved.source, saved.front)
        if loaded.whole is not None:
            chosen = loaded.whole.selected
            if chosen is None or chosen.digest != loaded.metadata.get("digest"):
                raise BadInput(f"{folder}: the front's selected member is not the policy beside it", code="not-a-front")
            loaded.front  # noqa: B018  (a member that is no policy is found now, not while serving)
        return loaded


def refuse_untested(version: str) -> None:
    """Raises PolicyMismatch for a transformers version outside the tested range."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    low, high = (".".join(map(str, v)) for v in TESTED)
    if not TESTED[0] <= numbers < TESTED[1]:
        raise PolicyMismatch(f"transformers {version} is not among the tested versions: >= {low}, < {high}")


def _config(model: Any) -> dict[str, Any]:
    """config.json of a loaded model. Raises BadInput for what is none."""
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        raise BadInput(f"a policy is attached to a transformers model; this {type(model).__name__} has no config")
    content: dict[str, Any] = config.to_dict()  # type: ignore[union-attr]
    return content


def _transformers_version() -> str:
    import transformers

    return str(transformers.__version__)
