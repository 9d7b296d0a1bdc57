"""Benchmark 2: how many evaluations a search takes.

    python -m benchmarks.efficiency

Feasible hypervolume against evaluations for `auto` with 16, 32 and 64 of them, every other strategy with 32, and
`random` with 160, which gets the same warm starts; and VFlowOpt's published procedure (`vflowopt.py`). Everything
counts: the unpruned model, warm starts, ladders, and entries of a table as the part of the search records that they
are measured on; a second axis counts prefill FLOPs in evaluations of the unpruned model. Searches are AutoPrune's own
(`efficiency_runs.py`, `efficiency.yaml`); equal evaluations of all searches run once, and each search pays for them all
the same. One reference point: that of the unpruned model and the warm starts, which all have in common. What each
search found is measured again on a common holdout. Resumable: finished searches are kept in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.search import strategy
from benchmarks import efficiency_curves as curves
from benchmarks import output, vflowopt
from benchmarks.efficiency_runs import MADE_BY, TEMPLATE, Arm, Workplace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "efficiency"
CURVES = ("benchmarks/efficiency.py", "benchmarks/efficiency_curves.py")
RANDOM = Arm("random", 160)
AUTO = (Arm("auto", 16), Arm("auto", 32), Arm("auto", 64))
PROCEDURE = Arm(vflowopt.NAME, 301)
OTHERS = 32
TARGET = 16
MARKS = (8, 16, 32, 64, 160)
QUESTIONS = 560
GUESSED = {"random": 0.7, "bisection": 0.5, "greedy": 0.2, vflowopt.NAME: 0.6}
"""Seconds of one core for an evaluation, holdout included; `ASKING` where a sampler's model proposes."""
ASKING = 1.0


def arms(random: int = RANDOM.evaluations, others: int = OTHERS, procedure: int = PROCEDURE.evaluations) -> list[Arm]:
    """Random first: the others are held against it."""
    rest = [name for name in strategy.names() if name not in ("random", "auto")]
    found = [Arm("random", random), *AUTO, *(Arm(name, others) for name in rest)]
    return [*found, Arm(vflowopt.NAME, procedure)] if procedure else found


def fitting(place: Workplace, wanted: Sequence[Arm]) -> tuple[list[Arm], dict[str, str]]:
    """The arms whose strategy fits the space, and why the others do not."""
    fit, refused = [], {}
    for arm in wanted:
        try:
            if arm.strategy != vflowopt.NAME:
                place.prepared(arm.strategy, arm.evaluations - 1, 0)
        except BadInput as error:
            refused[arm.strategy] = str(error)
            continue
        fit.append(arm)
    return fit, refused


def expected(wanted: Sequence[Arm], seeds: int, workers: int) -> float:
    """Seconds on quiet cores, roughly."""
    each = sum(arm.evaluations * GUESSED.get(arm.strategy, ASKING) for arm in wanted)
    return each * seeds / workers


_place: list[Workplace] = []


def _begin(folder: Path, search: int | None, holdout: int | None) -> None:
    import torch

    torch.set_num_threads(1)
    _place.append(Workplace(folder, search, holdout))


def _job(arm: Arm, seed: int) -> dict[str, Any]:
    return _place[0].run(arm, seed)


def searched(
    folder: Path, wanted: Sequence[Arm], seeds: int, workers: int, search: int | None = None, holdout: int | None = None
) -> list[dict[str, Any]]:
    """Every arm with every seed, seed by seed."""
    found, left = [], len(wanted) * seeds
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, context, _begin, (folder, search, holdout)) as processes:
        jobs = [processes.submit(_job, arm, seed) for seed in range(seeds) for arm in wanted]
        for job in as_completed(jobs):
            found.append(job.result())
            left -= 1
            print(f"{found[-1]['arm']}, seed {found[-1]['seed']}: done; {left} searches left", flush=True)
    return found


# ------------------------------------------------------------------------------------------------------------- results
def summary(runs: Sequence[Mapping[str, Any]], wanted: Sequence[Arm]) -> dict[str, Any]:
    """Of every arm: hypervolume at `MARKS` and at its end in parts of the best known, evaluations to the target,
    phases, and the holdout's word. The target is the median of what random search has at its end."""
    of = {arm.name: [run for run in runs if run["arm"] == arm.name] for arm in wanted}
    rival = wanted[0]
    references = {tuple(run["reference"]) for run in of[rival.name]}
    if len(references) != 1:
        raise BadInput("these searches do not share their warm starts: their hypervolumes cannot be compared")
    (reference,) = references
    unpruned = next(run["baseline_cost"] for run in runs if run["baseline_cost"])
    best = curves.best_known(runs, reference)
    drawn = {name: [curves.curve(run, reference) for run in listed] for name, listed in of.items()}
    target = curves.quartiles([curves.at(one, rival.evaluations) for one in drawn[rival.name]])[0]
    flops = [m["point"][1] for run in runs if run["arm"].startswith(vflowopt.NAME) for m in run["held_out"]]
    level = curves.quartiles(flops)[0] if flops else None
    found = {}
    for arm in wanted:
        listed, lines = of[arm.name], drawn[arm.name]
        computed = [curves.curve(run, reference, "compute") for run in listed]
        takes = [curves.needed(one, target) for one in lines]
        losses = [curves.least_loss(run, level) for run in listed] if level is not None else []
        cheapest = [_cheapest(run, unpruned) for run in listed]
        found[arm.name] = {
            "runs": len(listed),
            "evaluations": curves.quartiles([one[-1][0] for one in lines]),
            "compute": curves.quartiles([one[-1][0] for one in computed]),
            "at": {mark: _parts([curves.at(one, mark) for one in lines], best) for mark in MARKS},
            "end": _parts([one[-1][1] for one in lines], best),
            "to_target": curves.quartiles(takes),
            "to_target_compute": curves.quartiles([curves.needed(one, target) for one in computed]),
            "reached": sum(math.isfinite(one) for one in takes),
            "times_fewer": curves.times_fewer(drawn[rival.name], lines, rival.evaluations),
            "times_fewer_interval": curves.interval(
                drawn[rival.name], lines, lambda one, other: curves.times_fewer(one, other, rival.evaluations)
            ),
            "held_out": curves.quartiles([curves.held_out_volume(run, reference) / best for run in listed]),
            "held_out_cheapest": curves.quartiles(cheapest),
            "held_out_loss": curves.quartiles([math.inf if one is None else one for one in losses]) if losses else None,
            "phases": curves.phases(listed, reference, best),
            "curves": [[[round(cost, 4), volume / best] for cost, volume in one] for one in lines],
            "seconds": curves.quartiles([run["seconds"] for run in listed]),
        }
    return {"reference": reference, "best": best, "target": target / best, "procedure_cost": level, "arms": found}


def _cheapest(run: Mapping[str, Any], unpruned: float) -> float:
    """The least cost of a held-out member within the constraint, in parts of the unpruned model's."""
    return min((m["point"][1] / unpruned for m in run["held_out"] if m["feasible"]), default=math.inf)


def _parts(values: Sequence[float], best: float) -> list[float]:
    return curves.quartiles([value / best for value in values])


def markdown(document: Mapping[str, Any]) -> str:
    """The result as people read it."""
    found, rival = document["found"], document["random"]
    lines = ["# Hypervolume against evaluations\n"]
    lines.append(
        f"{document['seeds']} seeds; median (quartiles) over them. Feasible hypervolume in percent of what all "
        f"searches together know. The target, {100 * found['target']:.1f}, is random search's median after "
        f"{rival} evaluations. A search that ended keeps its last value.\n"
    )
    header = [
        "strategy",
        *(f"at {mark}" for mark in MARKS),
        "evaluations to the target",
        "reached",
        "times fewer than random",
    ]
    rows = []
    for name, one in found["arms"].items():
        marks = [_percent(one["at"][str(mark)]) if mark <= one["evaluations"][2] + 1 else "" for mark in MARKS]
        low, high = one["times_fewer_interval"]
        fewer = f"{one['times_fewer']:.1f} ({low:.1f} to {high:.1f})"
        rows.append([name, *marks, _span(one["to_target"], 1), f"{one['reached']} of {one['runs']}", fewer])
    lines.append(output.table(header, rows))
    for name, why in document["refused"].items():
        lines.append(f"`{name}` does not fit the space: {why}\n")
    auto = found["arms"].get(f"auto {TARGET}")
    if auto is not None:
        met = "met" if (auto["to_target"][0] or math.inf) <= TARGET else "NOT met"
        lines.append(
            f"Target: `auto` reaches the median of random search after {rival} in at most {TARGET} evaluations: "
            f"**{met}** ({_span(auto['to_target'], 1)} of `auto {TARGET}`). Random search after {TARGET} evaluations: "
            f"{_percent(found['arms'][f'random {rival}']['at'][str(TARGET)])}.\n"
        )
    lines.append("## On the holdout\n")
    header = [
        "strategy",
        "hypervolume",
        "least FLOPs within the constraint",
        "loss at VFlowOpt's FLOPs",
        "evaluations",
        "by FLOPs",
    ]
    rows = []
    for name, one in found["arms"].items():
        loss = "" if one["held_out_loss"] is None else _span(one["held_out_loss"], 3)
        flops = _span(one["held_out_cheapest"], 3)
        rows.append(
            [name, _percent(one["held_out"]), flops, loss, f"{one['evaluations'][0]:.1f}", f"{one['compute'][0]:.1f}"]
        )
    lines.append(output.table(header, rows))
    lines.append("## Where evaluations go\n")
    header = [
        "strategy",
        "phase",
        "evaluations",
        "in full",
        "outside a bound",
        "better front",
        "hypervolume gained",
        "no policy",
    ]
    rows = []
    for name, one in found["arms"].items():
        for phase in one["phases"]:
            counts = [f"{phase[key]:.1f}" for key in ("evaluations", "measured", "infeasible", "improved")]
            rows.append([name, phase["phase"], *counts, f"{100 * phase['gain']:.1f}", f"{phase['unreachable']:.1f}"])
    lines.append(output.table(header, rows))
    return "\n".join(lines)


def _percent(three: Sequence[float]) -> str:
    return _span([100 * value for value in three], 1)


def _span(three: Sequence[float | None], digits: int) -> str:
    """`median (lower to upper quartile)`; what was never reached is a dash."""
    median, low, high = ("–" if value is None else f"{value:.{digits}f}" for value in three)
    return f"{median} ({low} to {high})"


def figure(document: Mapping[str, Any]) -> Figure:
    """Left: random, auto and VFlowOpt with quartiles, to the end of random; right: every strategy's median, early."""
    from autoprune.figures import style

    found, rival = document["found"], document["random"]
    drawn, axes = style.canvas(1, 2, size=(11.0, 4.2))
    for place, (name, one) in enumerate(found["arms"].items()):
        grid = [value / 2 for value in range(2, 2 * rival + 1)]
        three = [_parts([curves.at(line, cost) for line in one["curves"]], 0.01) for cost in grid]
        color, dash = style.SERIES[place % len(style.SERIES)], style.DASHES[place // len(style.SERIES)]
        medians = [value[0] for value in three]
        if name.split()[0] in ("random", "auto", vflowopt.NAME):
            axes[0].step(grid, medians, where="post", color=color, label=name)
            band = ([value[1] for value in three], [value[2] for value in three])
            axes[0].fill_between(grid, *band, step="post", color=color, alpha=0.15, linewidth=0)
        axes[1].step(grid, medians, where="post", color=color, linestyle=dash, label=name, linewidth=1.2)
    for one_axes in axes:
        one_axes.axhline(100 * found["target"], color=style.INK, linestyle=":", linewidth=1)
        one_axes.axvline(TARGET, color=style.MUTED, linestyle=":", linewidth=1)
        one_axes.legend(fontsize=7.5, frameon=False, loc="lower right")
    axes[0].set_xscale("log")
    axes[0].set_xlim(MARKS[0] / 2, rival)
    axes[0].set_xticks(MARKS, MARKS)
    axes[0].minorticks_off()
    axes[1].set_xlim(0, 2 * OTHERS)
    shown = "feasible hypervolume, % of the best known"
    style.dress(axes[0], x="evaluations", y=shown, title="Median and quartiles (dotted: target)")
    style.dress(axes[1], x="evaluations", y="", title="Every strategy, medians")
    floor = 100 * min(
        (one["at"][str(MARKS[0])][0] for one in found["arms"].values() if one["at"][str(MARKS[0])][0] > 0), default=0.0
    )
    for one_axes in axes:
        one_axes.set_ylim(max(0.0, floor - 2), 101)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--random", type=int, default=RANDOM.evaluations, help="evaluations of random search")
    parser.add_argument("--others", type=int, default=OTHERS, help="of every strategy beside random and auto")
    parser.add_argument("--procedure", type=int, default=PROCEDURE.evaluations, help="of VFlowOpt; 0 leaves it out")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--work", type=Path, default=Path("runs/efficiency"))
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = options.work / hashlib.sha256(TEMPLATE.read_bytes()).hexdigest()[:12]
    place = Workplace(folder)
    place.make_questions(QUESTIONS)
    wanted, refused = fitting(place, arms(options.random, options.others, options.procedure))
    print(f"{len(wanted)} strategies, {options.seeds} seeds: about ", end="")
    print(output.duration(expected(wanted, options.seeds, options.workers)), flush=True)
    runs = searched(folder, wanted, options.seeds, options.workers)
    document = made(runs, wanted, refused)
    for path in output.write(
        options.out, NAME, document, markdown(document), figure(document), parts=(*MADE_BY, *CURVES)
    ):
        print(path)


def made(runs: Sequence[Mapping[str, Any]], wanted: Sequence[Arm], refused: Mapping[str, str]) -> dict[str, Any]:
    """The result's document."""
    return {
        "template": TEMPLATE.read_text(),
        "seeds": len({run["seed"] for run in runs}),
        "random": wanted[0].evaluations,
        "refused": dict(refused),
        "found": _finite(summary(runs, wanted)),
        "machine": output.machine(),
    }


def _finite(found: Any) -> Any:
    """JSON has no infinity: what was never reached is null."""
    if isinstance(found, Mapping):
        return {str(key): _finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


if __name__ == "__main__":
    main()
