"""Benchmark 5: is what is called certified true, and is anything certified at all?

    python -m benchmarks.certified --pool runs/pool

Thousands of searches are replayed from the pool: policies, search split and holdout are drawn, the front is certified
by AutoPrune's own functions, and every certificate, and every number shown beside a verdict, is held against the pool's
truth. A search counts as false if *any* of its certificates is, and as falsely shown if any of its numbers is: the
promise is for the whole front. Drawn with replacement, the pool is a distribution and the promise is tested as it is
made; so it is with images of several alike questions (made from the pool's, which has one for each image); without,
holdouts are parts of a finite pool and the intervals a little too wide. Searches stay far from their bounds most of the
time: beside them stands the least favourable bound, just above what a policy is truly worth. Resumable: finished blocks
are kept in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from benchmarks import output
from benchmarks.outcomes import Pool
from benchmarks.replay import ALIKE, MOST_QUESTIONS, Drawing, at_the_edge, draw, replay, retained
from benchmarks.statistics import clopper_pearson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "certified"
BLOCK = 100
MADE_BY = (
    "autoprune/search",
    "autoprune/spec/goals.py",
    "benchmarks/certified.py",
    "benchmarks/outcomes.py",
    "benchmarks/replay.py",
    "benchmarks/statistics.py",
)
ALLOWANCE = 0.01
"""How far above 1 - confidence the upper bound of the rate of false certificates may lie."""
EDGES = 5
"""Least favourable bounds for each search: their rate may be 1 - confidence, so that many are needed to tell."""
COUNTED = ("any", "false", "misshown", "certified", "finalists")


@dataclass(frozen=True)
class Design:
    """What is replayed. Another design has blocks of its own."""

    pool: str
    bounds: tuple[float, ...] = (0.95, 0.97, 0.98, 0.99)
    holdouts: tuple[int, ...] = (250, 500, 1000, 2000)
    trials: int = 32
    search: int = 384
    confidence: float = 0.95
    seed: int = 5

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


def run_block(folder: Path, design: Design, how: Drawing, block: int, size: int) -> dict[str, Any]:
    """Counts over `size` draws. The draws follow from design, drawing and block alone."""
    pool = Pool.load(folder)
    truth = retained(pool)
    rng = np.random.default_rng([design.seed, get_args(Drawing).index(how), block])
    cells = {(b, n): dict.fromkeys(COUNTED, 0) for b, n in _cells(design)}
    edge = dict.fromkeys(design.holdouts, 0)
    for _ in range(size):
        drawn = draw(pool, rng, design.trials, design.search, max(design.holdouts), how)
        for (bound, holdout), found in replay(pool, drawn, design.bounds, design.holdouts, design.confidence).items():
            cell = cells[bound, holdout]
            cell["any"] += bool(found.certified)
            cell["false"] += any(truth[row] < bound for row in found.certified)
            cell["misshown"] += any(truth[row] < number for row, number in found.shown.items())
            cell["certified"] += len(found.certified)
            cell["finalists"] += len(found.finalists)
        for _ in range(EDGES):
            for holdout, wrong in at_the_edge(pool, rng, design.holdouts, design.confidence, how).items():
                edge[holdout] += wrong
    return {
        "searches": size,
        "cells": [{"bound": b, "holdout": n, **counts} for (b, n), counts in cells.items()],
        "edge": [{"holdout": n, "false": count} for n, count in edge.items()],
    }


def _cells(design: Design) -> Iterator[tuple[float, int]]:
    yield from ((bound, holdout) for bound in design.bounds for holdout in design.holdouts)


def run(folder: Path, work: Path, design: Design, searches: int, workers: int) -> dict[Drawing, list[dict[str, Any]]]:
    """All blocks, those of an earlier run by the same code from `work`."""
    blocks: dict[Drawing, list[dict[str, Any]]] = {how: [] for how in get_args(Drawing)}
    work = work / f"{design.digest}-{output.code(*MADE_BY)}"
    work.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as processes:
        jobs = {}
        for how, block in ((how, block) for how in blocks for block in range(-(-searches // BLOCK))):
            path = work / f"{how}-{block}.json"
            if path.is_file():
                blocks[how].append(json.loads(path.read_text()))
            else:
                jobs[processes.submit(run_block, folder, design, how, block, BLOCK)] = (how, path)
        began, waiting = time.monotonic(), len(jobs)
        for done, job in enumerate(as_completed(jobs), start=1):
            how, path = jobs[job]
            blocks[how].append(job.result())
            path.write_text(json.dumps(job.result()) + "\n")
            left = (time.monotonic() - began) / done * (waiting - done)
            print(f"{done} of {waiting} blocks, {output.duration(left)} left", flush=True)
    return blocks


# ------------------------------------------------------------------------------------------------------------- results
def summary(blocks: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Rates over all blocks of one way of drawing; `holds`: the bound of the rate is within the promise."""
    searches = sum(block["searches"] for block in blocks)
    promise = 1 - confidence + ALLOWANCE
    cells = []
    for same in zip(*(block["cells"] for block in blocks), strict=True):
        counts = {key: sum(cell[key] for cell in same) for key in COUNTED}
        upper, shown = (clopper_pearson(counts[key], searches, 0.95)[1] for key in ("false", "misshown"))
        cells.append(
            {
                "bound": same[0]["bound"],
                "holdout": same[0]["holdout"],
                "false_rate": counts["false"] / searches,
                "false_upper": upper,
                "shown_false_rate": counts["misshown"] / searches,
                "shown_false_upper": shown,
                "holds": upper <= promise and shown <= promise,
                "certified_anything": counts["any"] / searches,
                "certified_per_search": counts["certified"] / searches,
                "finalists_per_search": counts["finalists"] / searches,
            }
        )
    edge = []
    for same in zip(*(block["edge"] for block in blocks), strict=True):
        hits = sum(cell["false"] for cell in same)
        bounds = searches * EDGES
        low, high = clopper_pearson(hits, bounds, 0.95)
        holds = high <= promise
        edge.append({"holdout": same[0]["holdout"], "rate": hits / bounds, "low": low, "high": high, "holds": holds})
    return {"searches": searches, "promise": promise, "cells": cells, "edge": edge}


DRAWN: dict[str, str] = {
    "without": "Images drawn without replacement",
    "with": "Images drawn with replacement",
    "clusters": f"Images of 1 to {MOST_QUESTIONS} questions, {ALIKE:.0%} of them alike, drawn with replacement",
}


def markdown(document: dict[str, Any]) -> str:
    lines = [
        f"# Is what is called certified true? {document['searches']} searches for each line\n",
        f"Replayed from {document['policies']} policies on {document['images']} images; each search tried "
        f"{document['design']['trials']} policies on {document['design']['search']} images. A search is false if any "
        f"of its certificates is, falsely shown if any number beside a verdict is; each rate's bound (95 %, "
        f"Clopper-Pearson) may not exceed {document['promise']:.2f}.\n",
    ]
    names = ("false", "at most", "falsely shown", "at most", "holds", "certified anything", "certified per search")
    header = ["bound", "holdout images", *names]
    for how, found in document["drawing"].items():
        rows = [
            [
                f"{c['bound']} x baseline",
                c["holdout"],
                f"{c['false_rate']:.4f}",
                f"{c['false_upper']:.4f}",
                f"{c['shown_false_rate']:.4f}",
                f"{c['shown_false_upper']:.4f}",
                "yes" if c["holds"] else "NO",
                f"{c['certified_anything']:.3f}",
                f"{c['certified_per_search']:.2f} of {c['finalists_per_search']:.2f}",
            ]
            for c in found["cells"]
        ]
        lines += [f"## {DRAWN[how]}\n", output.table(header, rows)]
        edge = [
            [e["holdout"], f"{e['rate']:.4f}", f"{e['low']:.4f} to {e['high']:.4f}", "yes" if e["holds"] else "NO"]
            for e in found["edge"]
        ]
        lines += [
            "The least favourable bound, just above what one policy is truly worth, is certified (wrongly) in:\n",
            output.table(["holdout images", "rate", "95 % bounds", "holds"], edge),
        ]
    return "\n".join(lines)


def figure(document: dict[str, Any]) -> Figure:
    """Left: false certificates against the promise; right: searches that certified anything."""
    from autoprune.figures import style

    drawn, axes = style.canvas(1, 2, size=(9.6, 4.0))
    found = document["drawing"]["with"]
    for i, bound in enumerate(document["design"]["bounds"]):
        cells = [c for c in found["cells"] if c["bound"] == bound]
        sizes = [c["holdout"] for c in cells]
        look: dict[str, Any] = {
            "color": style.SERIES[i],
            "marker": "os^D"[i % 4],
            "markersize": 5,
            "label": f"{bound} x baseline",
        }
        rates = [c["false_rate"] for c in cells]
        reach = [[0.0] * len(cells), [c["false_upper"] - c["false_rate"] for c in cells]]
        axes[0].errorbar([n * (1 + 0.03 * i) for n in sizes], rates, yerr=reach, elinewidth=1, capsize=2, **look)
        axes[1].plot(sizes, [c["certified_anything"] for c in cells], **look)
    edge = found["edge"]
    axes[0].plot(
        [e["holdout"] for e in edge],
        [e["rate"] for e in edge],
        color=style.INK,
        linestyle=":",
        marker="x",
        label="least favourable bound",
    )
    axes[0].axhline(document["promise"] - ALLOWANCE, color=style.MUTED, linestyle=(0, (4, 3)))
    axes[0].set_ylim(0, None)
    axes[1].set_ylim(0, 1.02)
    for one in axes:
        one.set_xscale("log")
        one.set_xticks(document["design"]["holdouts"], [str(n) for n in document["design"]["holdouts"]])
        one.minorticks_off()
    style.dress(axes[0], x="holdout images", y="searches with a false certificate", title="Is it true?")
    style.dress(axes[1], x="holdout images", y="searches that certified anything", title="Is anything certified?")
    axes[0].legend(fontsize=8, frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of python -m benchmarks.pool")
    parser.add_argument("--searches", type=int, default=2000, help="for each way of drawing; at least 2000 to conclude")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/certified"))
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    options = parser.parse_args()
    pool = Pool.load(options.pool)
    content = (options.pool / "pool.npz").read_bytes()
    design = Design(hashlib.sha256(content).hexdigest()[:16])
    began = time.monotonic()
    run_block(options.pool, design, "with", 0, 3)
    each = (time.monotonic() - began) / 3
    ways = len(get_args(Drawing))
    expected = ways * options.searches * each / options.workers
    print(f"{ways * options.searches} draws of {len(design.bounds) * len(design.holdouts)} searches each: ", end="")
    print(f"about {output.duration(expected)} with {options.workers} workers", flush=True)
    blocks = run(options.pool, options.work, design, options.searches, options.workers)
    drawing = {how: summary(found, design.confidence) for how, found in blocks.items()}
    document = {
        "design": asdict(design),
        "pool": dict(pool.recipe),
        "policies": len(pool.policies) - 1,
        "images": pool.images,
        "searches": drawing["with"]["searches"],
        "promise": drawing["with"]["promise"],
        "machine": output.machine(),
        "drawing": drawing,
    }
    for path in output.write(options.out, NAME, document, markdown(document), figure(document), parts=MADE_BY):
        print(path)


if __name__ == "__main__":
    main()
