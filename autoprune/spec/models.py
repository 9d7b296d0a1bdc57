"""The spec as typed data (DESIGN: `schema: autoprune/spec/1`). Paths are kept as written; `load` resolves them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from autoprune.document.numbers import exact
from autoprune.document.problems import suggest
from autoprune.errors import Mistake
from autoprune.spec.durations import seconds
from autoprune.spec.retuning import RetuneSpec
from autoprune.spec.sizes import cache_size

Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]  # whole numbers too, but neither true nor "0.95"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())


class ModelSpec(Strict):
    """The model to prune: a local folder or a hub id, read with safetensors only."""

    path: str = Field(min_length=1, description="a local folder (relative to the spec) or a hub id")
    revision: str | None = Field(None, description="a commit, tag or branch of a hub model")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, cuda, cuda:1 or mps")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    trust_remote_code: bool = Field(False, strict=True, description="run code from the model's repository")
    batch_size: Whole = Field(32, ge=1, description="questions per forward pass while measuring")
    cache: Annotated[int | Literal["auto"], BeforeValidator(cache_size)] = Field(
        "auto", description="memory of each worker for what trials share, such as 2GiB; auto, or false for none"
    )


class CalibrationSpec(Strict):
    """Records and how they are split. Splits never cut through an image."""

    records: str = Field(min_length=1, description="JSONL or parquet relative to the spec, or datasets:NAME[:SPLIT]")
    images: str | None = Field(
        None, description="folder the records' image paths are relative to; default: the records' own"
    )
    search: Whole = Field(ge=1, description="records the search measures on")
    holdout: Whole | Literal["auto"] = Field(
        "auto", description="records that certify; auto = as many as the constraints need"
    )
    stratify_by: Literal["type", "answer"] | None = Field(
        "type", description="record field whose values every split gets its share of"
    )
    seed: Whole = 0

    @field_validator("holdout")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise Mistake("out-of-range", "must be at least 1, or auto")
        return value


EXECUTORS = ("auto", "inline", "ray", "ray-tune")


class RaySpec(Strict):
    """Long-lived Ray actors, one model each."""

    workers: Whole = Field(1, ge=1)
    gpus_per_worker: Number = Field(0, ge=0)
    cpus_per_worker: Number = Field(1, gt=0)
    address: str | None = Field(
        None, description="a cluster to join: host:port, ray://host:port or auto; default: start one on this machine"
    )


class RayTuneSpec(RaySpec):
    """The same workers, each evaluation a trial of Ray Tune."""

    results: str | None = Field(None, description="where Tune's folder of the experiment is kept; default: nowhere")


class ExecutorSpec(Strict):
    """Where trials run."""

    kind: Literal["auto", "inline", "ray", "ray-tune"] = "auto"
    ray: RaySpec = RaySpec()
    ray_tune: RayTuneSpec = Field(default_factory=RayTuneSpec, alias="ray-tune")

    @property
    def pool(self) -> RaySpec:
        """The workers asked for, also where another kind than the spec's is to run them."""
        return self.ray_tune if self.kind == "ray-tune" else self.ray


def _executor(value: Any) -> Any:
    if isinstance(value, str):
        if value not in EXECUTORS:
            allowed = f"{', '.join(EXECUTORS)}, or {{ray: {{workers: …}}}}"
            raise Mistake(
                "not-a-choice", f"'{value}' is not an executor; allowed: {allowed}{suggest(value, EXECUTORS)}"
            )
        return {"kind": value}
    if isinstance(value, Mapping) and len(value) == 1 and (kind := next(iter(value))) in ("ray", "ray-tune"):
        return {"kind": kind, kind: value[kind]}
    if isinstance(value, ExecutorSpec):
        return value
    raise Mistake("not-a-choice", "an executor is auto, inline, ray, ray-tune, or {ray: {workers: …, …}}")


class StrategySpec(Strict):
    """How to search: a name, or {NAME: {option: …}}."""

    name: str = "auto"
    options: dict[str, Any] = Field(default_factory=dict)


def _strategy(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, StrategySpec):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if isinstance(options, Mapping):
            return {"name": name, "options": dict(options)}
    raise Mistake("wrong-type", "a strategy is a name such as auto, or {NAME: {option: …}}")


def _share(value: Any) -> float:
    """A part of something: 0.25 or 1/4, above 0 and below 1."""
    try:
        share = exact(value)
    except ValueError:
        share = Fraction(0)
    if not 0 < share < 1:
        raise Mistake("not-a-share", "must be a fraction above 0 and below 1, such as 1/4")
    return float(share)


Share = Annotated[float, BeforeValidator(_share)]


class ScreenSpec(Strict):
    """Another, cheaper measure first: what is in the worse part among those of similar cost is not measured in full."""

    measure: str | dict[str, Any] = Field(description="MEASURE or {MEASURE: {option: …}}; of the records, no cost")
    records: Whole = Field(32, ge=1, description="the first so many of the search records")
    drop: Share = Field(0.5, description="the part of what is known at the screen that goes no further")


class SearchSpec(Strict):
    """How long and how to search. Strategy, seed, layers, rungs (with `drop`) and screen are part of the study's
    identity, the rest is not."""

    strategy: Annotated[StrategySpec, BeforeValidator(_strategy)] = Field(default_factory=StrategySpec)
    trials: Whole = Field(64, ge=1, description="completed distinct evaluations, references included")
    time: Annotated[float | None, BeforeValidator(lambda v: None if v is None else seconds(v))] = Field(
        None, description="wall-clock limit such as 3h"
    )
    executor: Annotated[ExecutorSpec, BeforeValidator(_executor)] = Field(default_factory=ExecutorSpec)
    seed: Whole = 0
    rungs: list[Share] = Field(
        default_factory=list, description="parts of the search records that proposals are measured on first"
    )
    drop: Share = Field(0.5, description="the part of what is known at a rung that goes no further")
    layers: Literal["all", "auto"] = Field(
        "all", description="auto: sampled layers stand where the unpruned model's signals change"
    )
    screen: ScreenSpec | None = Field(None, description="a cheap measure that drops proposals before they are measured")
    synchronous: bool = Field(False, strict=True, description="settle in rounds, so that ray runs repeat bit for bit")
    explain: bool = Field(
        True, strict=True, description="measure the selected policy without each of its stages (at most 6 evaluations)"
    )
    evaluation_timeout: Annotated[float | None, BeforeValidator(lambda v: None if v is None else seconds(v))] = Field(
        None, description="give up on one evaluation after this long (ray only)"
    )


class CertifySpec(Strict):
    """How sure the holdout must be."""

    confidence: Number = Field(0.95, gt=0.5, lt=1)


class OutputSpec(Strict):
    """What leaves the search."""

    register_as: str | None = Field(
        None, alias="register", description="registered name in MLflow", pattern=r"^[A-Za-z0-9_.\- ]+$"
    )
    select: str | None = Field(None, description="'minimize COST': which certified policy is published")
    tracking_uri: str | None = Field(
        None, description="MLflow; default: MLFLOW_TRACKING_URI, else .autoprune/mlflow.db"
    )
    store: str | None = Field(None, description="database URL of the store; default: .autoprune/autoprune.db")


class Spec(Strict):
    """One study, declared."""

    schema_: Literal["autoprune/spec/1"] = Field("autoprune/spec/1", alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", description="the study's name")
    model: ModelSpec
    calibration: CalibrationSpec
    search_space: str | dict[str, Any] = Field(description="a name in search_spaces/, a path, or an inline space")
    objectives: str | list[str | dict[str, Any]] = Field(description="'minimize MEASURE' …, or a name in objectives/")
    constraints: list[str] = Field(default_factory=list, description="'MEASURE >= 0.97 * baseline' …")
    search: SearchSpec = Field(default_factory=SearchSpec)
    certify: CertifySpec = Field(default_factory=CertifySpec)
    output: OutputSpec = Field(default_factory=OutputSpec)
    retune: RetuneSpec | None = None
