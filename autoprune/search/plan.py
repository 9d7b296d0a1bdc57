"""What a search is given: values and interfaces, so that the driver knows neither documents nor models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from autoprune.errors import BadInput
from autoprune.ports import EvalRequest, EvaluationContext, Split

if TYPE_CHECKING:
    from autoprune.policy.parameters import Parameter
    from autoprune.policy.placing import Slot
    from autoprune.search.placement import Profiling
    from autoprune.spec.goals import Constraint, Objective


@dataclass(frozen=True)
class Candidate:
    """One policy that could be measured. `document` is for people and files, `canonical` (JSON) is what is evaluated;
    candidates with equal `digest` have equal effect and share one measurement."""

    name: str
    document: Mapping[str, Any]
    canonical: str
    digest: str


@dataclass(frozen=True)
class Reference:
    """A known policy that is measured before the search proposes anything.

    `params` are its values in the search space where the space can express it (then it teaches the sampler, too);
    None makes it a reference point on the front only. `arm`: the one that
    expresses it (the first, if empty).
    """

    candidate: Candidate
    params: Mapping[str, Any] | None = None
    arm: str = ""


class Proposals(Protocol):
    """A search space as the driver sees it."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the sampler chooses, flattened."""
        ...

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        """Fill the holes. Raises `policy.budget.Infeasible` or `BadInput` where these values make no policy."""
        ...

    def free(self, document: Mapping[str, Any]) -> Candidate:
        """A policy of a strategy's own making, held against the model. Raises as `candidate` does."""
        ...

    def express(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Values of the space that make a policy of this effect, or None: what a sampler can learn from."""
        ...

    def filled(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The policy document at these values, whether or not its budget can be met. Raises BadInput."""
        ...

    @property
    def sites(self) -> tuple[int, ...]:
        """The decoder layers before which the space allows stages, shallow ones first; 0 is before the model."""
        ...

    @property
    def keeps(self) -> frozenset[str]:
        """The names of the parameters that say how much a stage keeps."""
        ...

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The layers that are sampled, shallow ones first."""
        ...

    def narrowed(self, places: Mapping[str, Collection[int]]) -> Proposals:
        """The same parameters, but each slot's layer stands at the nearest of its places."""
        ...

    @property
    def depth(self) -> int:
        """How many decoder layers the model has."""
        ...

    @property
    def tokens(self) -> int | None:
        """N, where every record has it in common."""
        ...

    def costs(self, candidate: Candidate) -> Mapping[str, float]:
        """Search-split means of those measures that are known without running the model, by label (may be empty)."""
        ...


@dataclass(frozen=True)
class Rung:
    """A look at a proposal on the first `limit` records of the search split, before it is measured in full.

    `state`: partial for the study's own measures, screened for others. `drop` is the part of what is known there that
    goes no further (see `search.rungs`).
    """

    limit: int
    measures: tuple[str, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    drop: float
    state: Literal["partial", "screened"] = "partial"


@dataclass(frozen=True)
class StudyPlan:
    """One study. `measures` are the labels every evaluation returns; objectives and constraints are among them.

    `trials` counts completed distinct evaluations, references included, baseline and cache hits excluded.
    `time_limit` is in seconds of this run, certification excluded. `storage` is an Optuna RDB URL (None = memory).
    `costs` are labels in the order that decides which finalist is dearest; the first is the predicted cost.
    `max_failures` ends the search once more than max(this, 30 % of the settled points) failed in one run.
    `max_retries`: how often an evaluation whose worker died or hung is tried again. `holdout_auto`: certify on as many
    of the `holdout_records` (None = unknown) as the finalists need at the margins seen in the search, instead of
    on all. `options` are the strategy's.
    `better` says which way a label gets better, `accuracies` which are accuracies: what the front says of agreement.
    `passes` names what a label is taken from (a pass over the records, a stopwatch); labels without one are computed.
    `held_out` is measured on the holdout beside `measures`: an accuracy, where they have none.
    `rungs` are climbed, in this order, by what a sampler proposes. `more_arms` are spaces beside `proposals`, by name;
    that one is then the `first_arm` (`by_arm.py`: what a strategy does in them). `profiling`: what narrows the layers
    before anything is proposed.
    """

    study_id: str
    proposals: Proposals
    references: tuple[Reference, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    measures: tuple[str, ...]
    trials: int
    time_limit: float | None
    seed: int
    strategy: str
    synchronous: bool
    storage: str | None
    context: EvaluationContext
    confidence: float
    select: Objective | None = None
    costs: tuple[str, ...] = field(default=())
    max_retries: int = 2
    max_failures: int = 5
    holdout_auto: bool = False
    holdout_records: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    better: Mapping[str, Literal["higher", "lower"]] = field(default_factory=dict)
    accuracies: tuple[str, ...] = ()
    passes: Mapping[str, str] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    first_arm: str = ""
    more_arms: Mapping[str, Proposals] = field(default_factory=dict)
    profiling: Profiling | None = None

    @property
    def arms(self) -> dict[str, Proposals]:
        """Every space by name; one under the empty name where there are no arms."""
        return {self.first_arm: self.proposals, **self.more_arms}

    def __post_init__(self) -> None:
        if not self.objectives:
            raise BadInput("a search needs at least one objective")
        if self.trials < 0:
            raise BadInput(f"trials must not be negative, got {self.trials}")
        if not 0.5 <= self.confidence < 1:
            raise BadInput(f"confidence must be at least 0.5 and below 1, got {self.confidence:g}")
        wanted = [o.label for o in self.objectives] + [c.label for c in self.constraints] + list(self.costs)
        if self.select is not None:
            wanted.append(self.select.label)
        missing = sorted(set(wanted) - set(self.measures))
        if missing:
            raise BadInput(f"these measures are needed but not measured: {', '.join(missing)}")

    def beside(self, labels: tuple[str, ...] | None) -> tuple[str, ...]:
        """These measures, and those of the study that take nothing more: what comes of the same passes or of none.
        None: all."""
        taken = {self.passes.get(label) for label in labels or ()}
        more = [m for m in self.measures if labels is None or m not in self.passes or self.passes[m] in taken]
        return tuple(dict.fromkeys([*(labels or ()), *more]))

    def request(
        self,
        canonical: str | None,
        split: Split,
        tag: str = "",
        limit: int | None = None,
        measures: tuple[str, ...] | None = None,
    ) -> EvalRequest:
        """The evaluation of one policy (None = the unpruned baseline) under this plan, with its measures unless
        given."""
        labels = measures or (*self.measures, *(self.held_out if split == "holdout" else ()))
        return EvalRequest(policy=canonical, split=split, measures=labels, limit=limit, tag=tag)
