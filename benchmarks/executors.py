"""What each executor costs: trials per second that do nothing, for inline, ray and ray-tune in one run.

    python -m benchmarks.executors

The evaluation returns at once, so what is timed is the way there and back: the driver's dispatcher, the executor, and
Ray between two processes. Executors are there together and take turns, round by round, so that whatever else the
machine does hits all of them; ratios are within a round. How long each took to its first answer is noted apart: that is
starting processes, which a search pays once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.executors import make_executor
from autoprune.ports import CalibrationSource, EvalRequest, Failed, Lost, Measurement, WorkerSpec
from autoprune.search.dispatch import never, run_all
from benchmarks import output

if TYPE_CHECKING:
    from autoprune.ports import Evaluator, Executor, Outcome

NAME = "executors"
PARTS = ("autoprune/executors", "autoprune/ports.py", "autoprune/search/dispatch.py", "benchmarks/executors.py")
TRIALS = {"inline": 20000, "ray": 1000, "ray-tune": 60}


class Nothing:
    """Has an answer for everything."""

    def evaluate(self, request: EvalRequest) -> Measurement:
        return Measurement(values={"m": 0.0}, samples={"m": (0.0,)}, images=(0,))


def build(spec: WorkerSpec) -> Evaluator:
    return Nothing()


def start(kind: str, workers: int) -> tuple[Executor, float]:
    """An executor that has answered once, and after how many seconds."""
    source = CalibrationSource(records="", images=None, search=1, holdout=1, stratify_by=None, seed=0)
    spec = WorkerSpec(model_path="", calibration=source, measures=())
    began = time.perf_counter()
    executor = make_executor(
        kind,  # type: ignore[arg-type]
        spec,
        workers=workers,
        cpus_per_worker=0.01,
        build="benchmarks.executors:build",
    )
    run(executor, 1)
    first = time.perf_counter() - began
    run(executor, 10 * executor.capacity)  # until every worker is up
    return executor, first


def run(executor: Executor, trials: int) -> float:
    """Seconds for so many trials, kept in flight as the driver does. All must be answered with a measurement."""
    outcomes: list[Outcome] = []
    policies = [json.dumps({"stages": [], "trial": number}) for number in range(trials)]
    requests = [EvalRequest(policy=policy, split="search", measures=("m",)) for policy in policies]
    began = time.perf_counter()
    run_all(executor, requests, 0, never, lambda _, outcome: outcomes.append(outcome))
    took = time.perf_counter() - began
    bad = [outcome for outcome in outcomes if isinstance(outcome, Failed | Lost)]
    if bad or len(outcomes) != trials:
        raise RuntimeError(f"{len(outcomes)} of {trials} answered, {len(bad)} of them without numbers")
    return took


def measure(workers: int, rounds: int, share: float) -> dict[str, dict[str, Any]]:
    """Of each executor: trials per second in every round, and seconds to the first answer."""
    import ray

    executors: dict[str, Executor] = {}
    found: dict[str, dict[str, Any]] = {}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        for kind in TRIALS:
            executors[kind], first = start(kind, workers)
            found[kind] = {"workers": executors[kind].capacity, "first_answer_s": first, "rates": []}
        for number in range(rounds):
            kinds = list(TRIALS)
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                trials = max(10, round(TRIALS[kind] * share))
                found[kind]["rates"].append(trials / run(executors[kind], trials))
                print(f"round {number + 1}: {kind} {found[kind]['rates'][-1]:.1f} trials/s", flush=True)
    finally:
        for executor in executors.values():
            executor.close()
        ray.shutdown()
    return found


def summary(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Median and range of the rounds."""
    return {
        kind: {
            "workers": one["workers"],
            "trials_per_second": statistics.median(one["rates"]),
            "range": [min(one["rates"]), max(one["rates"])],
            "ms_per_trial": 1000 * one["workers"] / statistics.median(one["rates"]),
            "first_answer_s": one["first_answer_s"],
        }
        for kind, one in found.items()
    }


def markdown(document: Mapping[str, Any]) -> str:
    load = ", ".join(f"{value:g}" for value in document["machine"]["load"])
    lines = [
        "# Trials that do nothing, by executor\n",
        f"{document['rounds']} rounds, executors in turn, {document['machine']['cpus']} cores; median (range). Load "
        f"average when this was written: {load}{document['remark']}\n",
    ]
    header = ["executor", "workers", "trials/s", "ms per trial and worker", "first answer, s"]
    rows: Sequence[Sequence[Any]] = [
        [
            kind,
            one["workers"],
            f"{one['trials_per_second']:.1f} ({one['range'][0]:.1f} to {one['range'][1]:.1f})",
            f"{one['ms_per_trial']:.2f}",
            f"{one['first_answer_s']:.1f}",
        ]
        for kind, one in document["executors"].items()
    ]
    return "\n".join([*lines, output.table(header, rows)])


def remark(load: float, cpus: int) -> str:
    """Ours is about two busy processes; what is above that is somebody else's."""
    return ". The machine was busy with other work: read the order of magnitude only." if load > cpus + 1 else "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of trials")
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    options = parser.parse_args()
    print("about 2 min on a quiet machine", flush=True)
    found = measure(options.workers, options.rounds, options.share)
    machine = output.machine()
    document = {
        "rounds": options.rounds,
        "executors": summary(found),
        "rates": {kind: one["rates"] for kind, one in found.items()},
        "machine": machine,
        "ray": version("ray"),
        "remark": remark(machine["load"][0], machine["cpus"]),
    }
    text = markdown(document)
    print(text)
    for path in output.write(options.out, NAME, document, text, parts=PARTS):
        print(path)


if __name__ == "__main__":
    main()
