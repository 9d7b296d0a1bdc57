"""Benchmark 4: what the driver costs, what that means for many workers, and two real workers against one.

    python -m benchmarks.scaling

1. *Driver overhead*: a random search (so that the sampler costs nothing) over a real space with a formula for a model;
   store and Optuna's database on SQLite files, as in a real study. Wall and processor time per settled trial, in
   quarters of the run: a driver that slows down with every trial would show it there.
2. *Simulated workers*, 1 to 1,024, whose trials take a minute with stragglers, failures and deaths, on a clock on which
   the driver's real time passes (`simulated.py`). Held against the same tries without a driver: what is missing is the
   driver's. The store's and Optuna's commits are real.
3. *Real workers*: the same policies on the reference model by one and by two Ray actors of one thread each, in turns.

Resumable: finished parts are kept in `--work`, for the code that they are about.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError
from autoprune.ports import EvalRequest, Progress
from autoprune.search import driver
from autoprune.search.dispatch import never, run_all
from benchmarks import output, pool, synthetic
from benchmarks.policies import sampled_entries
from benchmarks.simulated import SimulatedExecutor, Weather, ideal_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from autoprune.ports import Executor, TrialLog

NAME = "scaling"
SPACE = "two_stage_mixed"
MADE_BY = (
    *output.SEARCHING,
    "autoprune/executors",
    "autoprune/store",
    "benchmarks/scaling.py",
    "benchmarks/simulated.py",
    "benchmarks/synthetic.py",
)
WORKERS = (1, 8, 32, 128, 512, 1024)
BAD = Weather(seconds=60.0, stragglers=0.03, straggle=4.0, failures={"oom": 0.02, "error": 0.01}, losses=0.02)
FEWEST = 128
GUESSED = 0.15
"""Seconds of driver time per trial that the expected duration is based on: two slow cores with a slow disk."""


class Unpublished:
    """No registry: nothing is projected anywhere."""

    def flush(self) -> None:
        return None


class Marks:
    """Wall and processor seconds at which so many trials were complete."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[float, float]] = {}

    def update(self, progress: Progress) -> None:
        self.seen.setdefault(progress.complete, (time.perf_counter(), time.process_time()))


@contextmanager
def study_on_disk() -> Iterator[tuple[TrialLog, str]]:
    """A study in a store of its own, leased, and the URL of Optuna's database beside it."""
    from autoprune.store import open_store

    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/autoprune.db") as store:
        log = store.create_study("scaling", name="scaling", digest="scaling", spec={}, resolved={})
        with log.lease("benchmark"):
            yield log, f"sqlite:///{folder}/optuna.db"


def overhead(trials: int) -> dict[str, Any]:
    """Milliseconds per completed trial in each quarter, and per settled point over all."""
    marks = Marks()
    workers = SimulatedExecutor(synthetic.SyntheticEvaluator(synthetic.problem(SPACE)), 8, Weather(), live=True)
    with study_on_disk() as (log, storage):
        driver.run(synthetic.plan(SPACE, trials, storage=storage), workers, log, Unpublished(), marks)
        settled = len(log.trials())
    at = [marks.seen[round(trials * quarter / 4)] for quarter in range(5)]
    quarters = [
        {"wall_ms": 4000 * (after[0] - before[0]) / trials, "cpu_ms": 4000 * (after[1] - before[1]) / trials}
        for before, after in pairwise(at)
    ]
    whole = [(at[-1][i] - at[0][i] - workers.evaluating) * 1000 for i in (0, 1)]
    return {
        "trials": trials,
        "settled": settled,
        "quarters": quarters,
        "wall_ms": whole[0] / trials,
        "cpu_ms": whole[1] / trials,
        "wall_ms_per_settled": whole[0] / settled,
        "evaluating_ms": 1000 * workers.evaluating / trials,
    }


def trials_for(workers: int) -> int:
    return max(FEWEST, 2 * workers)


def simulated(workers: int, trials: int) -> dict[str, Any]:
    """One search on simulated workers: trials per minute, and against the same tries with no driver between them."""
    executor = SimulatedExecutor(synthetic.SyntheticEvaluator(synthetic.problem(SPACE)), workers, BAD, live=True)
    with study_on_disk() as (log, storage):
        plan = synthetic.plan(SPACE, trials, storage=storage, max_retries=3)
        ended = Ended(executor, trials)
        driver.run(plan, executor, log, Unpublished(), ended)
    ideal = ideal_seconds(executor.durations[: ended.tries], workers)
    return {
        "workers": workers,
        "trials": trials,
        "tries": ended.tries,
        "seconds": ended.at,
        "ideal_seconds": ideal,
        "per_minute": 60 * trials / ended.at,
        "efficiency": ideal / ended.at,
    }


class Ended:
    """The clock, and the tries so far, when the last trial was complete (certification comes after)."""

    def __init__(self, executor: SimulatedExecutor, trials: int) -> None:
        self._executor, self._trials = executor, trials
        self.at, self.tries = 0.0, 0

    def update(self, progress: Progress) -> None:
        if progress.phase == "search" and self.tries == 0 and progress.complete >= self._trials:
            self.at, self.tries = self._executor.now, len(self._executor.durations)


# --------------------------------------------------------------------------------------------------------- real workers
def real(work: Path, policies: int, images: int, repeats: int) -> dict[str, Any]:
    """Seconds for the same policies by one worker and by two, in turns (1, 2, 2, 1, …), after both are warm."""
    from autoprune.executors import RayExecutor

    recipe = pool.Recipe(images, images)
    (records,) = pool.make_images(work / "real", recipe)
    problem = synthetic.problem(SPACE)
    entries = sampled_entries(SPACE, policies, problem.proposals.geometry, problem.tokens, pool.SEED)
    spec = pool.worker_spec(records, 16)
    executors: dict[int, Executor] = {count: RayExecutor(spec, count, cpus_per_worker=0.5) for count in (1, 2)}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    try:
        for count, executor in executors.items():
            _timed(executor, [None] * (2 * count))
        for repeat in range(repeats):
            for count in (1, 2) if repeat % 2 == 0 else (2, 1):
                seconds[count].append(_timed(executors[count], [entry.canonical for entry in entries]))
                print(f"{count} real workers: {seconds[count][-1]:.1f} s", flush=True)
    finally:
        for executor in reversed(list(executors.values())):
            executor.close()
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "policies": len(entries),
        "images": images,
        "one": seconds[1],
        "two": seconds[2],
        "ratios": ratios,
        "median": statistics.median(ratios),
        "load": output.machine()["load"],
    }


def _timed(executor: Executor, policies: Sequence[str | None]) -> float:
    """Seconds until every policy is measured."""
    outcomes: list[Any] = []
    requests = [EvalRequest(policy, "search", pool.LABELS) for policy in policies]
    began = time.perf_counter()
    run_all(executor, requests, 0, never, lambda _, outcome: outcomes.append(outcome))
    broken = [outcome for outcome in outcomes if not hasattr(outcome, "measurement")]
    if broken:
        raise AutoPruneError(f"a policy was not measured: {broken[0].message}")
    return time.perf_counter() - began


# -------------------------------------------------------------------------------------------------------------- results
def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier run left at `path`, or what is made now and left there."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made) + "\n")
    return made


def markdown(document: dict[str, Any]) -> str:
    cost, load = document["overhead"], document["machine"]["load"]
    rows = [
        [f"{i * 25} to {i * 25 + 25} %", f"{q['wall_ms']:.0f}", f"{q['cpu_ms']:.0f}"]
        for i, q in enumerate(cost["quarters"])
    ]
    lines = [
        "# Scaling\n",
        f"Load average when this was written: {load[0]}.\n",
        f"## Driver overhead, sampler excluded: {cost['wall_ms']:.0f} ms per trial, {cost['cpu_ms']:.0f} ms of them on "
        "the processor\n",
        f"{cost['trials']} random trials ({cost['settled']} settled points: some proposals are infeasible), SQLite "
        "files.\n",
        output.table(["part of the run", "wall, ms per trial", "processor, ms per trial"], rows),
        f"## Simulated workers, trials of {document['weather']['seconds']:.0f} s\n",
        f"Against the same tries with no driver in between; {document['weather']['stragglers']:.0%} of the tries "
        f"straggle, {document['weather']['losses']:.0%} lose their worker, "
        f"{sum(document['weather']['failures'].values()):.0%} of the policies fail.\n",
    ]
    rows = [
        [s["workers"], s["trials"], f"{s['per_minute']:.1f}", f"{s['efficiency']:.3f}"] for s in document["simulated"]
    ]
    lines.append(output.table(["workers", "trials", "trials per minute", "of the ideal"], rows))
    if document["real"] is not None:
        found = document["real"]
        spread = f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}"
        lines += [
            f"## Two real workers against one: {found['median']:.2f} times as fast ({spread})\n",
            f"{found['policies']} policies on {found['images']} images of the reference model, {len(found['ratios'])} "
            f"repeats; load average {found['load'][0]} at the end.\n",
        ]
    return "\n".join(lines)


def figure(document: dict[str, Any]) -> Figure:
    """Left: overhead over the run; right: throughput against the ideal."""
    from autoprune.figures import style

    drawn, axes = style.canvas(1, 2, size=(9.6, 3.8))
    quarters = document["overhead"]["quarters"]
    for key, color, label in (("wall_ms", style.BLUE, "wall"), ("cpu_ms", style.RED, "processor")):
        axes[0].plot([12.5 + 25 * i for i in range(4)], [q[key] for q in quarters], "o-", color=color, label=label)
    axes[0].set_ylim(0, None)
    found = document["simulated"]
    counts = [s["workers"] for s in found]
    axes[1].loglog(counts, [s["per_minute"] for s in found], "o-", color=style.BLUE, label="with the driver")
    axes[1].loglog(counts, [s["per_minute"] / s["efficiency"] for s in found], "--", color=style.MUTED, label="without")
    trials, seconds = document["overhead"]["trials"], document["weather"]["seconds"]
    style.dress(axes[0], x=f"% of {trials} trials", y="driver, ms per trial", title="Overhead")
    style.dress(axes[1], x="simulated workers", y="trials per minute", title=f"Trials of {seconds:.0f} s")
    for one in axes:
        one.legend(fontsize=8.5, frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400, help="of the overhead's search")
    parser.add_argument("--most", type=int, default=max(WORKERS), help="simulated workers")
    parser.add_argument("--repeats", type=int, default=3, help="of the real workers' comparison; 0 leaves it out")
    parser.add_argument("--work", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    options = parser.parse_args()
    counts = [count for count in WORKERS if count <= options.most]
    work = options.work / output.code(*MADE_BY)
    points = options.trials + sum(map(trials_for, counts))
    print(f"about {output.duration(points * GUESSED + options.repeats * 120)}", flush=True)
    cost = kept(work / f"overhead-{options.trials}.json", partial(overhead, options.trials))
    print(f"overhead: {cost['wall_ms']:.0f} ms per trial, {cost['cpu_ms']:.0f} ms of processor time", flush=True)
    many = []
    for count in counts:
        path = work / f"simulated-{count}.json"
        many.append(kept(path, partial(simulated, count, trials_for(count))))
        print(f"{count} simulated workers: {many[-1]['efficiency']:.3f} of the ideal", flush=True)
    pair = None
    if options.repeats:
        path = work / f"real-{options.repeats}.json"
        pair = kept(path, partial(real, options.work, 16, 256, options.repeats))
    document = {
        "space": SPACE,
        "overhead": cost,
        "weather": asdict(BAD),
        "simulated": many,
        "real": pair,
        "machine": output.machine(),
    }
    for path in output.write(options.out, NAME, document, markdown(document), figure(document), parts=MADE_BY):
        print(path)


if __name__ == "__main__":
    main()
