"""Benchmark 6, on a GPU: the quickstart with workers that share it, and trials of two 7B shapes, each trial by the
whole model and with what trials share.

    python -m benchmarks.gpu

1. *The quickstart* on `device: cuda` by two Ray workers that have half a GPU each.
2. *Trials* of models with the shapes of LLaVA-1.5-7B and Qwen2.5-VL-7B and random weights (`gpu_shapes.py`), in
   bfloat16: the whole model for each trial, and what trials share kept in the cache; in turns, trial by trial. Random
   weights make random answers: what is timed hangs on shapes and policies alone, and the lists of trials are made
   without asking the model.

Without a GPU it says so and ends with 1. `--tiny` goes the same way on the CPU, with models in miniature. Resumable:
finished parts are kept in `--work`, for the code that they are about.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.calibration.batches import Batch, batches
from autoprune.errors import BadInput
from autoprune.measures.loading import Loaded
from autoprune.measures.passes import Trace, run
from autoprune.measures.prefix_cache import PrefixCache, prefix_cache
from autoprune.measures.resuming import Resuming, Where
from autoprune.policy import canonical
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.session import Session
from autoprune.search.schedule import schedule_of
from benchmarks import output
from benchmarks.gpu_shapes import SHAPES, Shape, build, questions
from benchmarks.scaling import kept
from benchmarks.trial_lists import before_the_model, from_a_quarter, greedy_probes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "gpu"
MADE_BY = (
    *sorted({*output.SEARCHING, *output.MEASURING}),
    "autoprune/executors",
    "benchmarks/gpu.py",
    "benchmarks/gpu_shapes.py",
    "benchmarks/trial_lists.py",
)
MINUTES = {"quickstart": 4.0, "shape": 4.0}
"""Guessed, until a GPU was lent; how long the trials of a shape take is measured, and said, once its model is there."""
WORKERS = 2


@dataclass(frozen=True)
class Size:
    """How much is run. `cache` in bytes."""

    tiny: bool
    questions: int = 16
    batch: int = 8
    trials: int = 12
    repeats: int = 3
    cache: int = 16 * 2**30
    search: int = 384
    holdout: int = 1000
    searched: int = 32

    @classmethod
    def of(cls, tiny: bool) -> Size:
        return cls(True, 3, 2, 2, 1, 2**28, 6, 6, 2) if tiny else cls(False)


# ---------------------------------------------------------------------------------------------------------- quickstart
def quickstart(work: Path, size: Size) -> dict[str, Any]:
    """The quickstart's search on the GPU; tiny: on the CPU, by one worker in this process."""
    from autoprune.api import search

    calib = work / "quickstart" / "calib"
    if not (calib / "records.jsonl").is_file():
        command = [
            sys.executable,
            str(output.ROOT / "examples" / "reference_vlm" / "make_data.py"),
            "--out",
            str(calib),
        ]
        command += ["--images", str(1 + (size.search + size.holdout) // 2 + 20), "--questions-per-image", "2"]
        subprocess.run([*command, "--pool", "search", "--seed", "12"], check=True)
    spec = work / "quickstart" / "spec.yaml"
    spec.write_text(quickstart_spec(size))
    began = time.perf_counter()
    found = search(spec)
    members = found.front["members"]
    return {
        "seconds": time.perf_counter() - began,
        "trials": found.front["trials"],
        "members": len(members),
        "certified": sum(all(s == "certified" for s in m["constraints"].values()) for m in members),
        "executor": "inline on the CPU" if size.tiny else f"ray, {WORKERS} workers with half a GPU each",
    }


def quickstart_spec(size: Size) -> str:
    """The shipped spec with another device, executor and number of records; nothing is registered."""
    written = (output.ROOT / "examples" / "quickstart" / "spec.yaml").read_text()
    ray = f"{{ray: {{workers: {WORKERS}, gpus_per_worker: 0.5}}}}"
    device, executor = ("cpu", "inline") if size.tiny else ("cuda", ray)
    changes = {
        "  path: ../reference_vlm/checkpoint": f"  device: {device}\n  path: {json.dumps(str(output.MODEL))}",
        "  search: 384": f"  search: {size.search}",
        "  holdout: 1000": f"  holdout: {size.holdout}",
        "trials: 32": f"trials: {size.searched}, executor: {executor}, explain: false",
        "register: quickstart, ": "",
    }
    for old, new in changes.items():
        if written.count(old) != 1:
            raise BadInput(f"the quickstart's spec has changed: {old.strip()!r} is there {written.count(old)} times")
        written = written.replace(old, new)
    return written


# -------------------------------------------------------------------------------------------------------------- trials
@dataclass(frozen=True)
class Bench:
    """A model on its device, and its questions in batches."""

    loaded: Loaded
    batches: tuple[Batch, ...]
    tokens: int
    device: str

    @classmethod
    def of(cls, shape: Shape, device: str, size: Size) -> Bench:
        import torch

        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        loaded = build(shape, device, size.tiny)
        rows = questions(shape, loaded, size.questions)
        made = batches(rows, [row.answer for row in rows], size.batch, loaded.pad, device)
        return cls(loaded, tuple(made), rows[0].visual, device)

    def lists(self, size: Size) -> dict[str, list[str]]:
        """As in benchmark 1, where the model has what the policies need; a formula says what a greedy search loses."""
        geometry = replace(self.loaded.geometry, tokens_per_image=self.tokens)

        def loss(policy: str) -> float:
            return 1.0 if not policy else 1.0 + 0.35 * (1 - float(schedule_of(policy, self.tokens).budget(self.tokens)))

        makes: dict[str, Callable[[], list[str]]] = {
            "stages before the model": lambda: before_the_model(geometry, size.trials, 12),
            "first stage from L/4": lambda: from_a_quarter(geometry, size.trials, 12),
            "greedy probes": lambda: greedy_probes(geometry, loss, 1.1)[: 2 * size.trials],
        }
        found = {}
        for name, make in makes.items():
            try:
                found[name] = make()
            except BadInput:  # this space reads something that the family does not have
                continue
        return {name: trials for name, trials in found.items() if trials}

    def timed(self, policy: str, resuming: Resuming | None) -> tuple[float, list[float]]:
        """Seconds of one trial, and the mean loss of every batch's answers."""
        import torch

        resolved = canonical.from_json(policy) if policy else ResolvedPolicy((), self.loaded.geometry.depth)
        self._wait()
        began, traces = time.perf_counter(), []
        if resuming is not None:
            resuming.cache.begin()
        with torch.inference_mode(), Session(self.loaded.model, resolved) as session:
            traces = [self._pass(batch, session, resuming) for batch in self.batches]
        self._wait()
        seconds = time.perf_counter() - began
        loss = torch.nn.functional.cross_entropy
        return seconds, [float(loss(t.logits.float(), b.targets)) for t, b in zip(traces, self.batches, strict=True)]

    def _pass(self, batch: Batch, session: Session, resuming: Resuming | None) -> Trace:
        if resuming is None:
            return run(self.loaded, batch, (), session)
        columns = sum(b.inputs["input_ids"].numel() for b in self.batches)
        where = Where("search", "given", batch.indices)
        return resuming.run(batch, where, (), session, resuming.spacing(columns))

    def _wait(self) -> None:
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()

    @property
    def peak(self) -> int:
        """Bytes of the device's memory at most, so far."""
        import torch

        return 0 if self.device == "cpu" else int(torch.cuda.max_memory_allocated())


def measured(shape: Shape, device: str, size: Size) -> dict[str, Any]:
    """Every list on both sides, in turns; a repeat starts with an empty cache."""
    bench = Bench.of(shape, device, size)
    bench.timed("", None)  # the first pass loads kernels
    lists = bench.lists(size)
    each = bench.timed("", None)[0] * 2 * size.repeats
    print(f"{shape.name}: about {output.duration(each * sum(len(some) + 1 for some in lists.values()))}", flush=True)
    found, caches = {}, []
    for name, trials in lists.items():
        repeats = []
        for _ in range(size.repeats):
            cache = prefix_cache(size.cache, bench.loaded.model.device) or PrefixCache(size.cache)
            resuming = Resuming(bench.loaded, cache, ())
            repeats.append(_repeat(bench, trials, resuming))
            caches.append(asdict(resuming.cache.stats))
        found[name] = {"trials": len(trials), "repeats": repeats}
        print(f"{shape.name}, {name}: {_median(repeats, 'ratio'):.2f} times faster", flush=True)
    parameters = sum(weight.numel() for weight in bench.loaded.model.parameters())
    return {
        "model": shape.name,
        "parameters": parameters,
        "dtype": str(bench.loaded.dtype),
        "tokens": bench.tokens,
        "depth": bench.loaded.geometry.depth,
        "lists": found,
        "cache_bytes": max(one["bytes"] for one in caches),
        "cache_forgotten": max(one["forgotten"] for one in caches),
        "peak_bytes": bench.peak,
    }


def _repeat(bench: Bench, trials: Sequence[str], resuming: Resuming) -> dict[str, Any]:
    sides: dict[str, Resuming | None] = {"naive": None, "cached": resuming}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    apart = 0.0
    for place, trial in enumerate(["", *trials]):
        order = list(sides) if place % 2 == 0 else list(sides)[::-1]
        losses = {}
        for side in order:
            spent, losses[side] = bench.timed(trial, sides[side])
            seconds[side].append(spent)
        apart = max(apart, *(abs(a - b) for a, b in zip(losses["naive"], losses["cached"], strict=True)))
    naive, cached = (sum(seconds[side][1:]) for side in sides)
    first = {side: times[0] for side, times in seconds.items()}
    return {"naive": naive, "cached": cached, "ratio": naive / cached, "first": first, "difference": apart}


def _median(repeats: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(statistics.median(repeat[key] for repeat in repeats))


# ------------------------------------------------------------------------------------------------------------- results
def markdown(document: Mapping[str, Any]) -> str:
    """The result as people read it."""
    size, quick = document["size"], document["quickstart"]
    lines = [f"# On {document['device']}\n"]
    lines.append(
        f"Trials of {size['questions']} questions in batches of {size['batch']}, random weights; median of "
        f"{size['repeats']} repeats, both sides in turns.\n"
    )
    header = ["shape", "trials", "naive, ms a trial", "cached, ms", "times faster", "largest difference of a loss"]
    rows = []
    for one in document["shapes"]:
        for name, found in one["lists"].items():
            times = [f"{1000 * _median(found['repeats'], side) / found['trials']:.0f}" for side in ("naive", "cached")]
            ratios = [repeat["ratio"] for repeat in found["repeats"]]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            apart = max(repeat["difference"] for repeat in found["repeats"])
            rows.append([one["model"], f"{found['trials']} {name}", *times, spread, f"{apart:.1e}"])
    lines.append(output.table(header, rows))
    header = ["shape", "parameters", "visual tokens", "cache, MiB", "forgotten", "device memory at most, GiB"]
    rows = [
        [
            one["model"],
            f"{one['parameters'] / 1e9:.2f} billion, {one['dtype'].removeprefix('torch.')}",
            one["tokens"],
            f"{one['cache_bytes'] / 2**20:.0f}",
            one["cache_forgotten"],
            f"{one['peak_bytes'] / 2**30:.1f}",
        ]
        for one in document["shapes"]
    ]
    lines.append(output.table(header, rows))
    lines.append(
        f"The quickstart ({quick['executor']}): {quick['trials']['complete']} trials, {quick['trials']['failed']} "
        f"failed, {quick['certified']} of {quick['members']} members certified, {output.duration(quick['seconds'])}.\n"
    )
    return "\n".join(lines)


def figure(document: Mapping[str, Any]) -> Figure:
    """Bars: how many times faster, by shape and list, with their range."""
    from autoprune.figures import style

    drawn, (axes,) = style.canvas(size=(7.2, 3.8))
    names = list(dict.fromkeys(name for one in document["shapes"] for name in one["lists"]))
    for i, one in enumerate(document["shapes"]):
        for place, name in enumerate(names):
            if name in one["lists"]:
                ratios = [repeat["ratio"] for repeat in one["lists"][name]["repeats"]]
                middle = statistics.median(ratios)
                reach = [[middle - min(ratios)], [max(ratios) - middle]]
                label = one["model"] if name == next(iter(one["lists"])) else None
                axes.bar(place + 0.3 * i, middle, 0.28, yerr=reach, color=style.SERIES[i], label=label)
    axes.axhline(1, color=style.MUTED, linewidth=1)
    axes.set_xticks([place + 0.15 for place in range(len(names))], names)
    style.dress(axes, x="", y="times faster than the whole model", title=f"Trials on {document['device']}")
    axes.legend(fontsize=8.5, frameon=False)
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="models in miniature, on the CPU")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--out", type=Path, help="default: benchmarks/results, with --tiny the folder of --work")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("there is no GPU here: this benchmark needs one (--tiny goes the same way on the CPU)", file=sys.stderr)
        return 1
    size, device = Size.of(options.tiny), "cpu" if options.tiny else "cuda"
    expected = 60.0 if size.tiny else 60 * (MINUTES["quickstart"] + len(SHAPES) * MINUTES["shape"])
    print(f"about {output.duration(expected)}", flush=True)
    work = options.work / f"{device}-{output.code(*MADE_BY)}"
    found = [kept(work / f"{shape.name}.json", partial(measured, shape, device, size)) for shape in SHAPES]
    quick = kept(work / "quickstart.json", partial(quickstart, work, size))
    name = "the CPU (tiny)" if size.tiny else torch.cuda.get_device_name()
    document = {
        "device": name,
        "size": asdict(size),
        "shapes": found,
        "quickstart": quick,
        "machine": output.machine(),
    }
    out = options.out or (options.work if size.tiny else output.RESULTS)
    for path in output.write(out, NAME, document, markdown(document), figure(document), parts=MADE_BY):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
