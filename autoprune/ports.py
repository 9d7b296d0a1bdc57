"""The protocols and values that rooms exchange: no torch, no optuna, no ray, no mlflow.

Everything here is immutable data or an interface. `search` talks to the world only through these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Split = Literal["search", "holdout"]
FailureKind = Literal["oom", "non_finite", "timeout", "error"]
TrialState = Literal["complete", "partial", "screened", "failed", "infeasible"]
Origin = Literal["baseline", "reference", "trial"]


@dataclass(frozen=True)
class MeasureRequest:
    """One measure with its options filled in. `label` is the name it carries in results (unique in a study)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name)


@dataclass(frozen=True)
class CalibrationSource:
    """Where the calibration records are, and how they are split. Enough for a worker to rebuild the same splits."""

    records: str
    images: str | None
    search: int
    holdout: int
    stratify_by: str | None
    seed: int
    digest: str = ""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to build its own evaluator: paths and settings, never tensors. Pickled to Ray actors.
    `cache`: bytes that a worker may use to save work between evaluations; 0 = none, None = what it finds sensible."""

    model_path: str
    calibration: CalibrationSource
    measures: tuple[MeasureRequest, ...]
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False
    batch_size: int = 16
    threads: int | None = None
    cache: int | None = None


@dataclass(frozen=True)
class EvalRequest:
    """Measure one policy on one split. `policy` is canonical policy JSON (None = the unpruned baseline).

    `limit` = only the first so many records of the split (a rung); None = all of them.
    `tag` is the caller's own handle, `known` an earlier measurement of the same policy on the first records of the
    split: what it has need not be measured again. Neither is part of the evaluation's key.
    """

    policy: str | None
    split: Split
    measures: tuple[str, ...]
    limit: int | None = None
    tag: str = ""
    known: Measurement | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Measurement:
    """What one evaluation found. `samples[label]` has one number per record, in record order; `images` the cluster
    (image) number of each record, the resampling unit of every interval. Values without per-record numbers
    (analytic costs) appear in `values` only. `values[label]` is the mean over records where records exist.

    `counts`: where rules of the policy decide how much stays, what each record kept after every stage. `fresh`: how
    many of the records the model was run on for it (None: all); the others were known. `seconds` is what that took.
    """

    values: Mapping[str, float]
    samples: Mapping[str, tuple[float, ...]]
    images: tuple[int, ...]
    records: tuple[str, ...] = ()
    seconds: float = 0.0
    counts: tuple[tuple[int, ...], ...] = ()
    fresh: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Written out: `dataclasses.asdict` would copy every number by itself."""
        more = {"counts": self.counts} if self.counts else {}
        return {
            "values": dict(self.values),
            "samples": dict(self.samples),
            "images": self.images,
            "records": self.records,
            "seconds": self.seconds,
            **(more if self.fresh is None else {**more, "fresh": self.fresh}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        return cls(
            values=dict(data["values"]),
            samples={k: tuple(v) for k, v in data["samples"].items()},
            images=tuple(data["images"]),
            records=tuple(data.get("records", ())),
            seconds=float(data.get("seconds", 0.0)),
            counts=tuple(tuple(one) for one in data.get("counts", ())),
            fresh=data.get("fresh"),
        )


@dataclass(frozen=True)
class EvaluationContext:
    """Everything beside the request that a number depends on. Part of the key under which it is remembered."""

    model_fingerprint: str
    calibration_digest: str
    dtype: str
    attn_implementation: str
    libraries: Mapping[str, str]
    measure_versions: Mapping[str, str]
    device: str = ""

    def key(self, request: EvalRequest) -> str:
        """SHA-256 over the context and the request's effect (not its tag); order of measures does not matter."""
        content = {
            "context": asdict(self),
            "policy": request.policy,
            "split": request.split,
            "measures": sorted(request.measures),
            "limit": request.limit,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ executing evaluations
@dataclass(frozen=True)
class Measured:
    """`lineage` of an outcome: why earlier attempts at the same point came to nothing, a line each, oldest first. Who
    retries writes it; an executor leaves it empty."""

    request: EvalRequest
    measurement: Measurement
    lineage: str = ""


@dataclass(frozen=True)
class Failed:
    """Our code or the device said no. Never retried blindly; a `timeout` may be tried again, elsewhere: what hung was
    killed, and it may have been the worker."""

    request: EvalRequest
    kind: FailureKind
    message: str
    lineage: str = ""


@dataclass(frozen=True)
class Lost:
    """The worker vanished before it answered. The same request may be submitted again."""

    request: EvalRequest
    message: str
    lineage: str = ""


Outcome = Measured | Failed | Lost


class Evaluator(Protocol):
    """Holds one model and its calibration batches; built once per worker from a WorkerSpec."""

    def evaluate(self, request: EvalRequest) -> Measurement: ...


@runtime_checkable
class Reporting(Protocol):
    """An evaluator, or an executor, that says at the end what it has kept in memory: a line for each worker."""

    def report(self) -> Sequence[str]: ...


class Executor(Protocol):
    """Runs evaluations somewhere. Every submitted request is answered by exactly one Outcome."""

    @property
    def capacity(self) -> int:
        """How many requests can usefully be in flight at once (>= 1)."""
        ...

    def submit(self, request: EvalRequest) -> None:
        """Queue a request. Never blocks for the result and never raises for a failing evaluation."""
        ...

    def wait(self, timeout: float | None = None) -> Sequence[Outcome]:
        """Block until at least one outcome is there (empty: the timeout passed). Empty at once if none is in flight."""
        ...

    def close(self) -> None:
        """Release the workers. Idempotent; requests in flight are dropped."""
        ...


# --------------------------------------------------------------------------------------------------- what is remembered
@dataclass(frozen=True)
class TrialRecord:
    """One settled point of a study.

    `number` counts settled points from 0 in the order they were settled; `sampler_number` is Optuna's number where
    Optuna proposed the point. `values` holds search-split measures by label; `constraints` maps the constraint's text
    to its slack in the measure's own unit (<= 0 is met). `policy` is the policy *document*, `canonical` its JSON.
    `phase` is the step of the strategy that wanted it, `arm` the one it was proposed in (empty where there are none). A
    `partial` one was measured on the first `limit` records only, a `screened` one also with other measures: `share` of
    a full evaluation, never on a front. `lineage`: why earlier attempts at it came to nothing, a line each.
    """

    number: int
    origin: Origin
    name: str
    state: TrialState
    policy: Mapping[str, Any] | None
    canonical: str | None
    digest: str
    params: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    sampler_number: int | None = None
    evaluation_key: str | None = None
    cached: bool = False
    reason: str = ""
    seconds: float = 0.0
    phase: str = ""
    limit: int | None = None
    share: float = 1.0
    arm: str = ""
    lineage: str = ""


class TrialLog(Protocol):
    """The study's memory. The store implements it; it is the truth for measurements."""

    def find(self, key: str) -> Measurement | None:
        """A stored evaluation, or None."""
        ...

    def remember(self, key: str, request: EvalRequest, measurement: Measurement) -> None:
        """Commit one evaluation durably (idempotent by key). Returns after the commit."""
        ...

    def settle(self, record: TrialRecord) -> None:
        """Commit one settled trial together with its outbox row, in one transaction (idempotent by number)."""
        ...

    def hold(self) -> None:
        """Asked before what is written beside the log: raises LeaseLost when another driver has taken the study."""
        ...

    def trials(self) -> Sequence[TrialRecord]:
        """All settled trials of this study by number."""
        ...

    def save_front(self, front: Mapping[str, Any]) -> None:
        """Store the front document and queue it for the publisher."""
        ...

    def count_holdout_use(self) -> int:
        """Add one to this holdout's uses and return the new count."""
        ...

    def times_looked(self) -> int:
        """This holdout's uses so far, by every study."""
        ...


class Publisher(Protocol):
    """Projects the log elsewhere (MLflow). May be slow or down; must never fail a search."""

    def flush(self) -> None:
        """Publish what waits in the outbox; on an outage leave it there and return."""
        ...


# ------------------------------------------------------------------------------------------------------------- progress
@dataclass(frozen=True)
class Progress:
    """A snapshot for people: what is going on (`step` of the strategy), how far, how good."""

    phase: Literal["loading", "baseline", "references", "search", "certify", "compare", "timing", "publish", "done"]
    complete: int = 0
    failed: int = 0
    running: int = 0
    target: int = 0
    hypervolume: float | None = None
    best: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    infeasible: int = 0
    step: str = ""


class Observer(Protocol):
    def update(self, progress: Progress) -> None: ...


class SilentObserver:
    """Shows nothing."""

    def update(self, progress: Progress) -> None:
        return None
