"""Benchmark 1: how many trials a worker measures, with what trials share and without.

    python -m benchmarks.trial_throughput

Three lists of trials run on the reference model, each trial on every side in turn: the whole model for each (vision
tower and language model), and the four ways of saving work added one after the other. A repeat starts with empty
caches and the unpruned model's evaluation, which is timed apart. All sides share one process, one model and one thread,
so whatever else the machine does hits them alike; what counts is the ratio of times within a repeat. Numbers of all
sides are compared, too. Resumable: finished repeats are kept in `--work`, for the code
that they timed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.measures.prefix_cache import PrefixCache
from autoprune.measures.resuming import Parts
from autoprune.ports import CalibrationSource, EvalRequest, Measurement, MeasureRequest, WorkerSpec
from benchmarks import output
from benchmarks.trial_lists import before_the_model, from_a_quarter, greedy_probes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "trial-throughput"
LABELS = ("answer_nll", "exact_match", "logit_kl", "information_flow")
SIDES: dict[str, Parts | None] = {
    "whole model": None,
    "images": Parts(resume=False, trie=False, last=False),
    "+ resume": Parts(trie=False, last=False),
    "+ trie": Parts(last=False),
    "+ last layer": Parts(),
}
MADE_BY = (*output.MEASURING, "benchmarks/trial_lists.py", "benchmarks/trial_throughput.py")
TARGETS = {"stages before the model": 1.3, "first stage from L/4": 2.5, "greedy probes": 3.5}
LISTS = tuple(TARGETS)


@dataclass(frozen=True)
class Design:
    """What is timed. Another design has repeats of its own."""

    questions: int = 64
    batch_size: int = 32
    trials: int = 16
    tolerance: float = 1.1
    cache: int = 2**30
    seed: int = 12
    lists: int = 1

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


class Bench:
    """The reference model, its questions, and the lists of trials."""

    def __init__(self, design: Design, work: Path) -> None:
        self.design, self.work = design, work / f"{design.digest}-{output.code(*MADE_BY)}"
        self.work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def naive(self) -> ModelEvaluator:
        """The side without a cache; the others share its model and its references."""
        calib = self.work / "calib"
        if not (calib / "records.jsonl").is_file():
            command = [sys.executable, str(output.ROOT / "examples" / "reference_vlm" / "make_data.py"), "--out"]
            command += [str(calib), "--images", str(self.design.questions + 16), "--questions-per-image", "1"]
            subprocess.run([*command, "--pool", "search", "--seed", str(self.design.seed)], check=True)
        source = CalibrationSource(str(calib / "records.jsonl"), None, self.design.questions, 16, None, 0)
        wanted = tuple(MeasureRequest(label) for label in LABELS)
        size = self.design.batch_size
        return build(WorkerSpec(str(output.MODEL), source, wanted, batch_size=size, threads=1, cache=0))

    def side(self, parts: Parts | None) -> ModelEvaluator:
        """With an empty cache."""
        return self.naive if parts is None else self.naive.beside(PrefixCache(self.design.cache), parts)

    @cached_property
    def lists(self) -> dict[str, list[str]]:
        """Made once, kept beside the repeats."""
        path = self.work / "lists.json"
        if not path.is_file():
            geometry, quick = self.naive.geometry, self.side(Parts())
            made = [
                before_the_model(geometry, self.design.trials, self.design.seed),
                from_a_quarter(geometry, self.design.trials, self.design.seed),
                greedy_probes(geometry, lambda c: measured(quick, c).values["answer_nll"], self.design.tolerance),
            ]
            path.write_text(json.dumps(dict(zip(LISTS, made, strict=True))))
        return dict(json.loads(path.read_text()))

    def repeat(self, name: str, number: int) -> dict[str, Any]:
        """One list on every side, trial by trial, the sides' order turning; from the file where it is done."""
        path = self.work / f"{LISTS.index(name)}-{number}.json"
        if not path.is_file():
            path.write_text(json.dumps(self._repeat(name, number)))
        return dict(json.loads(path.read_text()))

    def _repeat(self, name: str, number: int) -> dict[str, Any]:
        sides = {label: self.side(parts) for label, parts in SIDES.items()}
        order = list(sides)
        seconds: dict[str, list[float]] = {label: [] for label in sides}
        apart = 0.0
        for place, trial in enumerate(["", *self.lists[name]]):
            turn = (place + number) % len(order)
            found: dict[str, Measurement] = {}
            for label in order[turn:] + order[:turn]:
                began = time.perf_counter()
                found[label] = measured(sides[label], trial)
                seconds[label].append(time.perf_counter() - began)
            apart = max(apart, *(difference(found["whole model"], found[label]) for label in order))
        caches = {label: asdict(side.stats) for label, side in sides.items() if side.stats is not None}
        return {
            "first": {label: times[0] for label, times in seconds.items()},
            "trials": {label: sum(times[1:]) for label, times in seconds.items()},
            "caches": caches,
            "difference": apart,
        }


def measured(side: ModelEvaluator, trial: str) -> Measurement:
    """`trial` is canonical JSON, or empty for the unpruned model."""
    return side.evaluate(EvalRequest(trial or None, "search", LABELS))


def difference(one: Measurement, other: Measurement) -> float:
    """The largest between two measurements of the same policy, over all measures and questions."""
    pairs = (zip(one.samples[label], other.samples[label], strict=True) for label in LABELS)
    return max(abs(a - b) for numbers in pairs for a, b in numbers)


# ------------------------------------------------------------------------------------------------------------- results
def summary(name: str, repeats: Sequence[Mapping[str, Any]], trials: int) -> dict[str, Any]:
    """Of every side: seconds per trial and how many times faster than the whole model, median and range of repeats."""
    sides = {}
    for label in SIDES:
        ratios = [r["trials"]["whole model"] / r["trials"][label] for r in repeats]
        each = [r["trials"][label] / trials for r in repeats]
        sides[label] = {
            "faster": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "seconds_per_trial": statistics.median(each),
            "first_seconds": statistics.median([r["first"][label] for r in repeats]),
            **({} if label not in repeats[0]["caches"] else {"cache": repeats[0]["caches"][label]}),
        }
    reached = sides["+ last layer"]["faster"]
    return {
        "trials": trials,
        "target": TARGETS[name],
        "reached": reached,
        "met": reached >= TARGETS[name],
        "largest_difference": max(r["difference"] for r in repeats),
        "sides": sides,
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The result as people read it."""
    lines = ["# Trials with what they share, against the whole model for each\n"]
    design = document["design"]
    lines.append(
        f"{document['repeats']} repeats; {design['questions']} questions in batches of {design['batch_size']} to the "
        "reference model, CPU, one thread, sides interleaved trial by trial; times faster than the whole model, median "
        "(range) of repeats. Each side adds one way of saving work to the one before.\n"
    )
    header = ["trials", *list(SIDES)[1:], "target", "met", "largest difference of a number"]
    rows = []
    for name, found in document["lists"].items():
        cells = [f"{s['faster']:.2f} ({s['range'][0]:.2f} to {s['range'][1]:.2f})" for s in found["sides"].values()]
        met = "yes" if found["met"] else "NO"
        rows.append(
            [f"{found['trials']} {name}", *cells[1:], found["target"], met, f"{found['largest_difference']:.1e}"]
        )
    lines.append(output.table(header, rows))
    header = [
        "trials",
        "seconds a trial, whole model",
        "with all",
        "first evaluation",
        "with all",
        "layers saved",
        "MiB",
    ]
    rows = []
    for name, found in document["lists"].items():
        whole, last = found["sides"]["whole model"], found["sides"]["+ last layer"]
        cache = last["cache"]
        saved = f"{cache['layers'] / cache['of_layers']:.0%}"
        times = [f"{s[key]:.2f}" for key in ("seconds_per_trial", "first_seconds") for s in (whole, last)]
        rows.append([name, *times, saved, f"{cache['bytes'] / 2**20:.0f}"])
    lines.append(output.table(header, rows))
    return "\n".join(lines)


def figure(document: Mapping[str, Any]) -> Figure:
    """Bars by list and side, their range, and the targets."""
    from autoprune.figures import style

    drawn, (axes,) = style.canvas(size=(7.6, 4.0))
    labels = list(SIDES)[1:]
    for i, label in enumerate(labels):
        cells = [found["sides"][label] for found in document["lists"].values()]
        places = [place + 0.2 * (i - (len(labels) - 1) / 2) for place in range(len(cells))]
        heights = [cell["faster"] for cell in cells]
        reach = [[h - c["range"][0] for h, c in zip(heights, cells, strict=True)]]
        reach.append([c["range"][1] - h for h, c in zip(heights, cells, strict=True)])
        axes.bar(places, heights, 0.18, yerr=reach, color=style.SERIES[i], label=label, error_kw={"elinewidth": 1})
    for place, found in enumerate(document["lists"].values()):
        axes.plot([place - 0.42, place + 0.42], [found["target"]] * 2, color=style.INK, linestyle="--", linewidth=1)
    axes.axhline(1, color=style.MUTED, linewidth=1)
    axes.set_xticks(range(len(document["lists"])), list(document["lists"]))
    style.dress(axes, x="", y="times faster than the whole model", title="Trials of one worker (dashed: target)")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--questions", type=int, default=Design.questions)
    parser.add_argument("--trials", type=int, default=Design.trials, help="of the two drawn lists")
    parser.add_argument("--work", type=Path, default=Path("runs/trial-throughput"))
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    options = parser.parse_args()
    design = Design(questions=options.questions, trials=options.trials)
    bench = Bench(design, options.work)
    measured(bench.naive, "")  # the first one encodes the questions
    began = time.monotonic()
    measured(bench.naive, "")
    each = time.monotonic() - began
    trials = sum(len(trials) + 1 for trials in bench.lists.values())
    print(f"{trials} evaluations on {len(SIDES)} sides, {options.repeats} times: about ", end="")
    print(output.duration(2.5 * each * trials * options.repeats), flush=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    for number in range(options.repeats):
        for name in LISTS:
            found[name].append(bench.repeat(name, number))
            ratio = found[name][-1]["trials"]["whole model"] / found[name][-1]["trials"]["+ last layer"]
            print(f"repeat {number + 1}, {name}: {ratio:.2f} times faster", flush=True)
    document = {
        "design": asdict(design),
        "repeats": options.repeats,
        "machine": output.machine(),
        "lists": {name: summary(name, found[name], len(bench.lists[name])) for name in LISTS},
    }
    for path in output.write(options.out, NAME, document, markdown(document), figure(document), parts=MADE_BY):
        print(path)


if __name__ == "__main__":
    main()
