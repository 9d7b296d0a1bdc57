"""Measure many policies on many images of the reference model, once, for the benchmarks that replay searches.

    python -m benchmarks.pool --out runs/pool

The images are made first (`examples/reference_vlm/make_data.py`; a seed and digits that no search, test or training
run used), in chunks: a worker process takes a chunk, builds one evaluator for it, and measures every policy in an order
in which those that begin with the same stages follow each other. What is measured is kept, file by file, so the same
command continues after an interruption. `--estimate` measures a few policies on a few images and says how long the
whole would take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError, BadInput
from autoprune.measures import registry as measures
from autoprune.models import read_geometry
from autoprune.policy import catalog
from autoprune.ports import CalibrationSource, EvalRequest, Failed, Lost, Measurement, MeasureRequest, WorkerSpec
from benchmarks.outcomes import BASELINE, COSTS, SCORES, Part, Pool, joined
from benchmarks.output import MEASURING, MODEL, ROOT, code, duration
from benchmarks.policies import Entry, by_prefix, catalog_entries, sampled_entries

SEED = 2711
DIGITS = "test"
MANY = {"two_stage_mixed": 16, "mixed": 16}
FEW = 1
CACHE = 2 * 2**30  # bytes of a worker: what policies share is computed once
LABELS = (*SCORES, *COSTS)
TRIED = 300  # images that the expected time is measured on


@dataclass(frozen=True)
class Recipe:
    """What a pool is made of. Another recipe is another pool, in a folder of its own."""

    images: int
    chunk: int
    seed: int = SEED
    digits: str = DIGITS
    batch_size: int = 32


def entries(geometry: Any, seed: int) -> tuple[list[Entry], list[dict[str, str]]]:
    """The catalog at its budgets, many samples of the mixed spaces, a few of every other; and what cannot be."""
    made, impossible = catalog_entries(geometry, geometry.tokens_per_image)
    for name in catalog.names("search_spaces"):
        made += sampled_entries(name, MANY.get(name, FEW), geometry, geometry.tokens_per_image, seed)
    return by_prefix(made), impossible


# -------------------------------------------------------------------------------------------------------------- images
def make_images(folder: Path, recipe: Recipe) -> list[Path]:
    """One records file for each chunk, made unless it is there; images lie beside them."""
    data = folder / "calib"
    files = [data / f"records-{i}.jsonl" for i in range(-(-recipe.images // recipe.chunk))]
    if all(file.is_file() for file in files):
        return files
    command = [sys.executable, str(ROOT / "examples" / "reference_vlm" / "make_data.py"), "--out", str(data)]
    command += ["--images", str(recipe.images), "--questions-per-image", "1"]
    subprocess.run([*command, "--pool", recipe.digits, "--seed", str(recipe.seed)], check=True)
    lines = (data / "records.jsonl").read_text().splitlines(keepends=True)
    if len(lines) != recipe.images:
        raise AutoPruneError(f"{recipe.images} questions were asked for, {len(lines)} were made")
    for i, file in enumerate(files):
        file.write_text("".join(lines[i * recipe.chunk : (i + 1) * recipe.chunk]))
    return files


def question_types(files: Sequence[Path]) -> list[str]:
    return [json.loads(line)["type"] for file in files for line in file.read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------------- measuring
def worker_spec(records: Path, batch_size: int) -> WorkerSpec:
    """A worker of one thread that measures on all records of a file."""
    count = len(records.read_text().splitlines())
    wanted = []
    for label in LABELS:
        info = measures.find(label)
        if info is None:
            raise AssertionError(f"{label} is a registered measure")
        wanted.append(MeasureRequest(label, info.config().model_dump(mode="json")))
    source = CalibrationSource(str(records), None, search=count, holdout=0, stratify_by=None, seed=0)
    return WorkerSpec(str(MODEL), source, tuple(wanted), batch_size=batch_size, threads=1, cache=CACHE)


def part_of(measurement: Measurement) -> Part:
    """A measurement in the order of the records file (the evaluator's own order is a seeded shuffle)."""
    if len(set(measurement.images)) != len(measurement.images):
        raise AutoPruneError("two records share an image: a pool has one question for each")
    order = np.argsort([int(record) for record in measurement.records])
    right, nll = (np.asarray(measurement.samples[label])[order] for label in SCORES)
    return Part(right, nll, np.asarray([measurement.values[label] for label in COSTS]))


def is_missing(part: Path) -> bool:
    """What failed (memory ran out, a worker died) may work the next time."""
    return not part.is_file() or bool(Part.load(part).reason)


def measure_chunk(records: Path, folder: Path, wanted: Sequence[tuple[str, str | None]], batch_size: int) -> int:
    """Every policy of (digest, canonical form) that has no file with numbers in `folder` yet; -> how many were tried.
    Runs in a worker process."""
    from autoprune.executors import InlineExecutor

    todo = [(digest, policy) for digest, policy in wanted if is_missing(folder / f"{digest}.npz")]
    executor = InlineExecutor(worker_spec(records, batch_size))
    began = time.monotonic()
    for done, (digest, policy) in enumerate(todo, start=1):
        executor.submit(EvalRequest(policy, "search", LABELS, tag=digest))
        (outcome,) = executor.wait()
        if isinstance(outcome, Lost | Failed):
            part = Part.failed(outcome.message.split("\n")[0])
        else:
            part = part_of(outcome.measurement)
        part.save(folder / f"{digest}.npz")
        if done % 20 == 0 or done == len(todo):
            left = (time.monotonic() - began) / done * (len(todo) - done)
            print(f"{folder.name}: {done} of {len(todo)} policies, {duration(left)} left in this chunk", flush=True)
    executor.close()
    return len(todo)


def measure(folder: Path, files: Sequence[Path], policies: Sequence[Entry], batch_size: int, workers: int) -> None:
    """Every policy on every chunk, a chunk to a process at a time."""
    wanted: list[tuple[str, str | None]] = [(BASELINE, None), *((e.digest, e.canonical) for e in policies)]
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as processes:
        jobs = [
            processes.submit(measure_chunk, file, folder / "parts" / file.stem, wanted, batch_size) for file in files
        ]
        for job in as_completed(jobs):
            job.result()


def assemble(
    folder: Path, recipe: Recipe, files: Sequence[Path], policies: Sequence[Entry], missing: Sequence[dict[str, str]]
) -> Pool:
    """The pool out of its parts. A policy without numbers is listed with its reason instead."""

    def whole(digest: str) -> Part:
        return joined([Part.load(folder / "parts" / file.stem / f"{digest}.npz") for file in files])

    found = [whole(BASELINE)]
    if found[0].reason:
        raise AutoPruneError(f"the unpruned model could not be measured: {found[0].reason}")
    described: list[dict[str, Any]] = [{"kind": BASELINE, "name": BASELINE, "source": "", "target": None}]
    left_out = [dict(one) for one in missing]
    for entry in policies:
        part = whole(entry.digest)
        if part.reason:
            left_out.append({"policy": entry.name, "target": entry.target or "", "reason": part.reason})
            continue
        found.append(part)
        described.append({**asdict(entry), "name": entry.name})
    return Pool(
        {**asdict(recipe), "code": measured_by(folder)},
        tuple(described),
        tuple(question_types(files)),
        np.stack([part.right for part in found]),
        np.stack([part.nll for part in found]),
        np.stack([part.costs for part in found]),
        tuple(left_out),
    )


# ------------------------------------------------------------------------------------------------------------- command
def missing_share(folder: Path, files: Sequence[Path], policies: Sequence[Entry]) -> float:
    """Which part of the parts is not there yet."""
    digests = [BASELINE, *(entry.digest for entry in policies)]
    parts = [folder / "parts" / file.stem / f"{digest}.npz" for file in files for digest in digests]
    return sum(map(is_missing, parts)) / len(parts)


def estimate(folder: Path, policies: Sequence[Entry], recipe: Recipe, workers: int) -> tuple[float, float]:
    """Seconds that the whole would take, from five policies (spread over the list) on `TRIED` images in one process: if
    the machine stays as busy as it is, and if it had nothing else to do. On the high side: over the whole list more is
    shared."""
    count = min(TRIED, recipe.images)
    trial = Recipe(count, count, recipe.seed, recipe.digits, recipe.batch_size)
    (file,) = make_images(folder / "estimate", trial)
    chosen = [policies[i] for i in np.linspace(0, len(policies) - 1, 5).astype(int)]
    wanted: list[tuple[str, str | None]] = [(e.digest, e.canonical) for e in chosen]
    parts = folder / "estimate" / "parts"
    measure_chunk(file, parts, [(BASELINE, None)], recipe.batch_size)  # loads libraries and images
    for old in parts.glob("*.npz"):
        old.unlink()
    began, used = time.monotonic(), time.process_time()
    measure_chunk(file, parts, wanted, recipe.batch_size)
    times = (len(policies) + 1) * recipe.images / workers / (len(chosen) * trial.images)
    return times * (time.monotonic() - began), times * (time.process_time() - used)


def check_folder(folder: Path, recipe: Recipe, policies: Sequence[Entry]) -> None:
    """Writes down what the folder is for, or raises BadInput where it is for something else, or was measured by other
    code (folders of before that was written down are taken as they are)."""
    content = {"recipe": asdict(recipe), "policies": [entry.digest for entry in policies]}
    path = folder / "recipe.json"
    if path.is_file():
        known = json.loads(path.read_text())
        if {key: known[key] for key in content} != content:
            raise BadInput(f"{folder} holds a pool of another recipe or other policies; choose another folder")
        check_code(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "code": code(*MEASURING)}, indent=1) + "\n")


def measured_by(folder: Path) -> str | None:
    """Digest of the code that measures the folder's parts; None where it was not written down."""
    path = folder / "recipe.json"
    return json.loads(path.read_text()).get("code") if path.is_file() else None


def check_code(folder: Path) -> None:
    """Raises BadInput where what is measured now would not belong with what is there."""
    if measured_by(folder) not in (None, code(*MEASURING)):
        raise BadInput(
            f"{folder} was measured by other code ({measured_by(folder)}); make a new pool in another folder"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; the same one continues")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--chunk", type=int, default=1000, help="images that a worker holds in memory at once")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--policies", type=int, help="only so many, spread over the list (for a try)")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take")
    options = parser.parse_args()
    recipe = Recipe(options.images, options.chunk)
    policies, missing = entries(read_geometry(MODEL), recipe.seed)
    if options.policies is not None:
        places = np.linspace(0, len(policies) - 1, options.policies).astype(int)
        policies = [policies[i] for i in dict.fromkeys(places.tolist())]
    if options.estimate:
        busy, idle = estimate(options.out, policies, recipe, options.workers)
        what = f"{len(policies)} policies on {recipe.images} images with {options.workers} workers"
        print(f"{what}: about {duration(busy)}, or {duration(idle)} if nothing else runs")
        return
    check_folder(options.out, recipe, policies)
    files = make_images(options.out, recipe)
    what = f"{len(policies)} policies on {recipe.images} images, {options.workers} workers"
    left = missing_share(options.out, files, policies)
    busy = left * estimate(options.out, policies, recipe, options.workers)[0] if left else 0.0
    print(f"{what}: {1 - left:.0%} is there, the rest takes about {duration(busy)}", flush=True)
    if left:
        measure(options.out, files, policies, recipe.batch_size, options.workers)
    pool = assemble(options.out, recipe, files, policies, missing)
    for path in pool.save(options.out):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
