"""The front: the non-dominated policies with what was measured. Its JSON is what `autoprune front --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autoprune.errors import BadInput

SCHEMA = "autoprune/front/1"


@dataclass(frozen=True)
class Estimate:
    """A mean over records with its two-sided confidence interval (None: too few images to know a limit)."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Member:
    """One policy of the front. `policy` is its document, `search` its measures on the search split, `holdout` those on
    the holdout; `constraints` says by each constraint's text certified, met (a timing without an interval), undecided
    or violated; `certifiable` has the tightest bounds known, a front's all true at once (docs/certification.md);
    `published` names the registered version, `arm` the one of the space that it was proposed in, if any."""

    name: str
    policy: Mapping[str, Any] | None
    digest: str
    budget: float | None
    search: Mapping[str, float] = field(default_factory=dict)
    holdout: Mapping[str, Estimate] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)
    certifiable: Mapping[str, Any] = field(default_factory=dict)
    selected: bool = False
    published: str | None = None
    arm: str = ""

    @property
    def certified(self) -> bool:
        """Whether every constraint is proven on the holdout, or met by a timing, which has no interval."""
        return set(self.constraints.values()) <= {"certified", "met"}

    def measured(self) -> dict[str, Any]:
        """What a saved policy's metadata says of its own numbers."""
        return {
            "digest": self.digest,
            "budget": self.budget,
            "holdout": {label: estimate.to_json() for label, estimate in self.holdout.items()},
            "constraints": dict(self.constraints),
            "certifiable": dict(self.certifiable),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.name,
            "budget": self.budget,
            "search": dict(self.search),
            "holdout": {label: estimate.to_json() for label, estimate in self.holdout.items()},
            "constraints": dict(self.constraints),
            "selected": self.selected,
            "published": self.published,
            "document": None if self.policy is None else dict(self.policy),
            "digest": self.digest,
            "certifiable": dict(self.certifiable),
            "arm": self.arm,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Member:
        return cls(
            name=data["policy"],
            policy=data.get("document"),
            digest=data.get("digest", ""),
            budget=data["budget"],
            search=dict(data["search"]),
            holdout=_estimates(data["holdout"]),
            constraints=dict(data["constraints"]),
            certifiable=dict(data.get("certifiable", {})),
            selected=data["selected"],
            published=data["published"],
            arm=data.get("arm", ""),
        )


@dataclass(frozen=True)
class Agreement:
    """How far a measure orders policies as `accuracy`, measured on the holdout, does: Spearman's `rho`, 1 where what is
    better by the measure is always right more often; None for fewer than four policies (`n`), or where all are equal.
    `target`: only the policies of this budget."""

    measure: str
    accuracy: str
    rho: float | None
    n: int
    target: float | None = None


@dataclass(frozen=True)
class Front:
    """A study's result. `baseline` are the unpruned model's holdout measures, `trials` counts by state, `explanation`
    says in lines why the front is as it is, `explanations` what was found by question (docs/explanations.md),
    `hypervolume` is its size after each completed trial, `agreement` says which of the search-split measures order the
    finalists as held-out accuracy does, `holdout_uses` how often this holdout was looked at, over all studies."""

    study: str
    baseline: Mapping[str, Estimate]
    members: tuple[Member, ...]
    trials: Mapping[str, int]
    explanation: tuple[str, ...] = ()
    explanations: Mapping[str, Any] = field(default_factory=dict)
    hypervolume: tuple[float, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    holdout_uses: int = 0

    @property
    def selected(self) -> Member | None:
        """The member that is to be published."""
        return next((member for member in self.members if member.selected), None)

    def selecting(self, digest: str) -> Front:
        """The same front with the member of that digest selected, as it is where there is none."""
        if not any(member.digest == digest for member in self.members):
            return self
        members = tuple(replace(member, selected=member.digest == digest) for member in self.members)
        return replace(self, members=members)

    def measured_only(self) -> Front:
        """Members and baseline: what a registered version is known by. How the search went is left out, and whether it
        is published."""
        members = tuple(replace(member, published=None) for member in self.members)
        return Front(self.study, self.baseline, members, {})

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "study": self.study,
            "baseline": {"holdout": {label: e.to_json() for label, e in self.baseline.items()}},
            "members": [member.to_json() for member in self.members],
            "trials": dict(self.trials),
            "explanation": list(self.explanation),
            "explanations": dict(self.explanations),
            "hypervolume": list(self.hypervolume),
            "agreement": [asdict(one) for one in self.agreement],
            "holdout_uses": self.holdout_uses,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Front:
        """What `to_json` wrote. Raises BadInput for anything else."""
        try:
            return cls(
                study=data["study"],
                baseline=_estimates(data["baseline"]["holdout"]),
                members=tuple(Member.from_json(member) for member in data["members"]),
                trials=dict(data["trials"]),
                explanation=tuple(data.get("explanation", ())),
                explanations=dict(data.get("explanations", {})),
                hypervolume=tuple(data.get("hypervolume", ())),
                agreement=tuple(Agreement(**one) for one in data.get("agreement", ())),
                holdout_uses=int(data.get("holdout_uses", 0)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadInput(f"not a front document: {type(error).__name__}: {error}", code="not-a-front") from error


def _estimates(data: Mapping[str, Any]) -> dict[str, Estimate]:
    return {label: Estimate(e["value"], e["low"], e["high"]) for label, e in data.items()}
