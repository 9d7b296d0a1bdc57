"""What is served now: the champion's version, its front, and what is known of when it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from autoprune.api import load_policy, policy_history
from autoprune.errors import BadInput
from autoprune.models.fingerprint import Fingerprint
from autoprune.policy.front import Member
from autoprune.ports import EvaluationContext
from autoprune.registry import names
from autoprune.retune.triggers import Facts, calibration_of, commit_of

if TYPE_CHECKING:
    from autoprune.policy.document import Policy
    from autoprune.policy.front import Front
    from autoprune.pruning.loaded import LoadedPolicy


@dataclass(frozen=True)
class Champion:
    """A registered policy's champion. `moved_by_others`: its alias is not where the last recorded move put it."""

    name: str
    version: int
    loaded: LoadedPolicy
    moved_by_others: bool
    created: datetime

    @classmethod
    def of(cls, name: str, tracking_uri: str) -> Champion:
        """Raises BadInput where there is no such registered policy, or none of its versions is served."""
        told = policy_history(name, tracking_uri)
        version = told["aliases"].get(names.CHAMPION)
        if version is None:
            raise BadInput(
                f"{name!r} has no champion: nothing is served that could be measured again; "
                f"`autoprune policy promote models:/{name}@candidate` makes one",
                code="unknown-name",
            )
        created = next(v["created"] for v in told["versions"] if v["version"] == version)
        loaded = load_policy(f"models:/{name}/{version}", tracking_uri=tracking_uri)
        return cls(name, version, loaded, told["unrecorded"], datetime.fromisoformat(created))

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def facts(self) -> Facts:
        """What its measurements stand on."""
        metadata = self.loaded.metadata
        return Facts(
            self.loaded.fingerprint or Fingerprint(""),
            calibration_of(metadata),
            commit_of(metadata.get("model", {}).get("path")),
        )

    @property
    def context(self) -> EvaluationContext | None:
        """The context of its evaluations, as keys in the store have it; None for a version that doesn't say."""
        try:
            return EvaluationContext(**self.loaded.metadata["environment"])
        except (KeyError, TypeError):
            return None

    @property
    def front(self) -> Front | None:
        return self.loaded.whole

    @property
    def member(self) -> Member:
        """Itself, as its front has it, or as its metadata says."""
        chosen = None if self.front is None else self.front.selected
        if chosen is not None:
            return chosen
        known = self.loaded.metadata
        data = {
            "policy": self.loaded.policy.name,
            "document": self.loaded.policy.dump(),
            "search": {},
            "selected": True,
            "published": None,
            "budget": None,
            "holdout": {},
            "constraints": {},
        }
        return Member.from_json({**data, **{k: known[k] for k in ("digest", "budget", "holdout") if k in known}})

    def policies(self) -> list[Policy]:
        """Its own policy, then its front's others, gentlest first."""
        others = [one for one in self.loaded.front if one.metadata.get("digest") != self.member.digest]
        return [self.loaded.policy, *(one.policy for one in others)]
