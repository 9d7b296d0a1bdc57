"""What a strategy is: a generator that asks for measurements and is given answers, and the registry of all of them.

A strategy yields steps: `Probes` (policies it wants to know about, answered together) or `Sample` (let a sampler
propose until so many evaluations of the phase are complete); `Tell` says something to the user. The driver measures,
settles, counts and stops; it closes the generator when trials or time are used up. A strategy keeps nothing beside its
own local variables and must be a function of its task and the answers alone: a study that goes on runs it again from
the start, and what is known is answered at once. So every strategy is resumable, seedable and parallel without code of
its own.

A strategy's file declares name and typed options at import time; optuna and torch stay out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autoprune.document.problems import suggest
from autoprune.errors import BadInput

if TYPE_CHECKING:
    from autoprune.policy.space import BoundSpace
    from autoprune.ports import Measurement, TrialRecord, TrialState
    from autoprune.search.plan import Candidate, Proposals
    from autoprune.spec.goals import Constraint, Objective

SamplerKind = Literal["bayesian", "evolutionary", "random"]


@dataclass(frozen=True)
class Probe:
    """One policy to measure: `values` of the search space, or a policy `document` of the strategy's own making.

    `limit`: on the first so many records of the search split only. Such a number is an answer to the strategy and never
    an objective's value; it counts as its share of a trial, and costs that miss a constraint do not stop it.
    `measures`: the labels that are read of such an answer (None: all), so that no pass is made and no time is taken
    for others; an answer then says nothing of constraints on what was left out.
    """

    values: Mapping[str, Any] | None = None
    document: Mapping[str, Any] | None = None
    limit: int | None = None
    measures: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.measures is not None and self.limit is None:
            raise ValueError("a policy that is measured in full is measured by everything")


@dataclass(frozen=True)
class Answer:
    """What became of a probe. `slacks` are by constraint text, <= 0 is met; without `candidate` no policy came of it
    (`reason`)."""

    probe: Probe
    state: TrialState
    values: Mapping[str, float] = field(default_factory=dict)
    slacks: Mapping[str, float] = field(default_factory=dict)
    candidate: Candidate | None = None
    reason: str = ""

    @property
    def measured(self) -> bool:
        return self.state in ("complete", "partial")

    @property
    def feasible(self) -> bool:
        """Measured, and every constraint met with the search's margin."""
        return self.measured and all(slack <= 0 for slack in self.slacks.values())


@dataclass(frozen=True)
class Probes:
    """Policies that are measured side by side; the strategy goes on when all have their answers. `arm` whose they are;
    empty: the task's."""

    phase: str
    probes: Sequence[Probe]
    arm: str = ""


@dataclass(frozen=True)
class Sample:
    """Let a sampler propose points of the space until `trials` evaluations of this phase are complete (None: as many as
    the study has left). It learns from everything told so far, other phases included. The answer is empty."""

    phase: str
    sampler: SamplerKind
    trials: int | None = None


@dataclass(frozen=True)
class Tell:
    """A line for the user: shown while the search runs, kept with the front. The answer is empty."""

    line: str


Step = Probes | Sample | Tell
Steps = Generator[Step, Sequence[Answer], None]


@dataclass(frozen=True)
class Task:
    """What a strategy knows of its study. `baseline`: the unpruned model on the search split. `records` of the search
    split make a full evaluation. `width`: how many evaluations can run at once. `known(*phases)`: the settled trials of
    these phases so far, references included; asking for a later phase than one's own breaks resuming. In a space with
    arms, `proposals` are those of `arm`; members of the front of `others` (by the name that their records carry) are
    this task's to refine as well."""

    proposals: Proposals
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    baseline: Measurement
    trials: int
    references: int
    seed: int
    width: int
    known: Callable[..., Sequence[TrialRecord]]
    arm: str = ""
    others: Mapping[str, Proposals] = field(default_factory=dict)

    @property
    def refines(self) -> Mapping[str, Proposals]:
        return {self.arm: self.proposals, **self.others}

    @property
    def records(self) -> int:
        return len(self.baseline.images)


class Options(BaseModel):
    """Base of every strategy's options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Declared:
    """What is known of a study before anything is measured."""

    space: BoundSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]


Refusal = Callable[[Declared, Any], str | None]
"""(study, options) -> why the strategy makes no sense for it, or None."""

Derive = Callable[[Mapping[str, Any], "BoundSpace", Any], dict[str, Any]]
"""(space document, the same bound to the model, options) -> the document of the space that is searched instead. Raises
BadInput where it has none."""


@dataclass(frozen=True)
class StrategyInfo:
    """A registered strategy. `refuses`: when it makes no sense; `derives`: what space it searches in place of one."""

    name: str
    options: type[Options]
    run: Callable[[Task, Any], Steps]
    paper: str
    summary: str
    refuses: tuple[Refusal, ...] = ()
    derives: Derive | None = None

    def refuse(self, declared: Declared, options: Options) -> str | None:
        """Why the strategy makes no sense for a study, or None."""
        return next((why for refusal in self.refuses if (why := refusal(declared, options)) is not None), None)


_STRATEGIES: dict[str, StrategyInfo] = {}

F = TypeVar("F", bound=Callable[..., Steps])


def strategy(
    name: str,
    options: type[Options] = Options,
    *,
    paper: str = "",
    refuses: tuple[Refusal, ...] = (),
    derives: Derive | None = None,
) -> Callable[[F], F]:
    """Register the decorated generator function as a strategy."""

    def register(run: F) -> F:
        if name in _STRATEGIES and _STRATEGIES[name].run is not run:
            raise ValueError(f"strategy {name!r} is registered twice")
        summary = (run.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
        _STRATEGIES[name] = StrategyInfo(name, options, run, paper, summary, refuses, derives)
        return run

    return register


def load_strategies() -> None:
    """Import every strategy's file once."""
    package = importlib.import_module("autoprune.search.strategies")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def names() -> tuple[str, ...]:
    load_strategies()
    return tuple(sorted(_STRATEGIES))


def find(name: str) -> StrategyInfo | None:
    """The strategy of that name, or None."""
    load_strategies()
    return _STRATEGIES.get(name)


def start(name: str, options: Mapping[str, Any], task: Task) -> Steps:
    """The strategy's steps. Raises BadInput for an unknown name or option."""
    info = find(name)
    if info is None:
        raise BadInput(
            f"unknown strategy {name!r}{suggest(name, names())}; known: {', '.join(names())}", code="unknown-strategy"
        )
    try:
        typed = info.options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"strategy {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return info.run(task, typed)
