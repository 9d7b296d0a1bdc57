"""An evaluator that does what the policy text says. Importable by Ray workers; `model_path` is its notebook folder."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

from autoprune.errors import BadInput
from autoprune.ports import CalibrationSource, EvalRequest, Measurement, WorkerSpec


def patient_ray() -> None:
    """Before ray is imported: no token in the home folder, and time for Ray's own processes to start on a machine that
    does other things (the defaults give them some 15 seconds)."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "90")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "90000")


class NonFinite(Exception):
    """As raised by a measure that meets NaN on its way."""


class Awkward(Exception):
    """Pickles, and cannot be read back: as many libraries' exceptions."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what} is {how}")


def worker_spec(folder: Path, **changes: object) -> WorkerSpec:
    source = CalibrationSource(records="", images=None, search=1, holdout=1, stratify_by=None, seed=0)
    given = {"calibration": source, "measures": (), **changes}
    return WorkerSpec(model_path=str(folder), **given)  # type: ignore[arg-type]


def ask(word: str | None, tag: str = "") -> EvalRequest:
    """A request whose policy says what is to happen (None: the baseline); canonical JSON, as executors may read it."""
    policy = None if word is None else json.dumps({"word": word})
    return EvalRequest(policy=policy, split="search", measures=("m",), tag=tag)


def word_of(request: EvalRequest) -> str | None:
    return None if request.policy is None else str(json.loads(request.policy)["word"])


class Obedient:
    def __init__(self, spec: WorkerSpec) -> None:
        self.notes = Path(spec.model_path)
        (self.notes / f"built-{os.getpid()}-{uuid.uuid4().hex}").touch()

    def evaluate(self, request: EvalRequest) -> Measurement:
        word = word_of(request) or "baseline"
        (self.notes / f"run-{word}-{uuid.uuid4().hex}").touch()
        if word == "die" or (word == "die_once" and self._first(word)):
            os._exit(1)
        if word == "hang":
            time.sleep(600)
        if word in ("slow", "where"):
            time.sleep(0.5)
        _raise(word)
        value = float("nan") if word == "nan" else 0.1 + 0.2
        sample = float("inf") if word == "inf_sample" else 0.3
        records = (
            (str(os.getpid()), os.environ.get("CUDA_VISIBLE_DEVICES", "")) if word == "where" else (str(os.getpid()),)
        )
        return Measurement(values={"m": value}, samples={"m": (sample, 0.3)}, images=(0, 1), records=records)

    def _first(self, word: str) -> bool:
        return len(list(self.notes.glob(f"run-{word}-*"))) == 1


def _raise(word: str) -> None:
    if word == "oom":
        raise RuntimeError("CUDA error: out of memory")
    if word == "non_finite":
        raise NonFinite("answer_nll is NaN in record 3")
    if word == "bug":
        raise KeyError("no such layer")
    if word == "bad":
        raise BadInput("llm:40 is beyond the model's 32 layers")


def build(spec: WorkerSpec) -> Obedient:
    return Obedient(spec)


def build_refused(spec: WorkerSpec) -> Obedient:
    (Path(spec.model_path) / f"built-{uuid.uuid4().hex}").touch()
    raise BadInput("records.jsonl:3: image a.png is missing")


def build_broken(spec: WorkerSpec) -> Obedient:
    (Path(spec.model_path) / f"built-{uuid.uuid4().hex}").touch()
    raise Awkward("libfoo.so", "missing")


def build_dies(spec: WorkerSpec) -> Obedient:
    (Path(spec.model_path) / f"built-{uuid.uuid4().hex}").touch()
    os._exit(1)
