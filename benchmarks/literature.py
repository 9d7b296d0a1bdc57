"""Benchmark 3: is the searched policy better than what the literature sets by hand, at the same budget?

    python -m benchmarks.literature --pool runs/pool

A search (`literature.yaml`: other pictures, other digits) gives a front. For each budget its best member by the
search's own numbers is measured on the pool's images, none of which the search saw, beside every catalog policy at that
budget. Differences are paired by image; a policy is called better or worse where an exact sign test says so at 5 % for
the *whole family* of comparisons (Holm), else it is a tie, and the difference that would have been found is stated. The
best hand-set policy of each budget is picked by these very images, which favours it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.api.proposals import PARTS, candidate
from autoprune.errors import BadInput
from autoprune.measures.evaluator import build
from autoprune.models import read_geometry
from autoprune.policy.document import Policy
from autoprune.ports import EvalRequest
from autoprune.spec.load import load
from benchmarks import output, pool
from benchmarks.outcomes import COSTS, Pool, joined
from benchmarks.outcomes import Part as Outcomes
from benchmarks.policies import BUDGETS, Entry
from benchmarks.statistics import holm, paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "literature"
LEVEL = 0.05
FEWEST = 2000
SEED = 2712
IMAGES = 1100
MADE_BY = (*sorted({*output.SEARCHING, *output.MEASURING}), "benchmarks/literature.py", "benchmarks/literature.yaml")
TRIED = 64


def prepare(work: Path) -> Path:
    """The search's spec in a folder, with its questions, made unless they are there."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "calib" / "records.jsonl").is_file():
        command = [sys.executable, str(output.ROOT / "examples" / "reference_vlm" / "make_data.py")]
        command += ["--out", str(work / "calib"), "--images", str(IMAGES), "--questions-per-image", "1"]
        subprocess.run([*command, "--pool", "search", "--seed", str(SEED)], check=True)
    spec = work / "literature.yaml"
    written = (output.ROOT / "benchmarks" / "literature.yaml").read_text()
    spec.write_text(written.replace("path: MODEL", f"path: {json.dumps(str(output.MODEL))}"))
    return spec


def expected(spec: Path, images: int) -> float:
    """Seconds, on the high side: every evaluation as long as the unpruned model's, measured on a few of the search's
    own questions; then the policies of `BUDGETS` on the pool's images."""
    asked = load(spec).spec
    tried = spec.parent / "calib" / "records-tried.jsonl"
    tried.write_text("".join((spec.parent / "calib" / "records.jsonl").open().readlines()[:TRIED]))
    evaluator = build(pool.worker_spec(tried, pool.Recipe.batch_size))
    began = time.monotonic()
    evaluator.evaluate(EvalRequest(None, "search", pool.LABELS))
    each = (time.monotonic() - began) / TRIED
    return each * (asked.search.trials * asked.calibration.search + len(BUDGETS) * images)


def search(spec: Path) -> Path:
    """Run the search (again: continue it); -> its front.json."""
    from autoprune.api import search as run

    return run(spec).folder / "front.json"


def chosen(front: Mapping[str, Any], budgets: Sequence[str], tokens: int) -> dict[str, Mapping[str, Any]]:
    """For each budget the member that is best by `answer_nll` on the search split among those at or below it (to a
    token). Raises BadInput where there is none."""
    found = {}
    for target in budgets:
        members = [m for m in front["members"] if m["search"]["budget"] <= float(target) + 1 / tokens]
        if not members:
            raise BadInput(f"the front has no policy at or below a budget of {target}")
        found[target] = min(members, key=lambda m: (m["search"]["answer_nll"], m["digest"]))
    return found


def measured(folder: Path, members: Mapping[str, Mapping[str, Any]], batch_size: int) -> dict[str, Outcomes]:
    """The members' outcomes on the pool's images, in its order; kept with the pool's own."""
    pool.check_code(folder)
    geometry = read_geometry(output.MODEL)
    entries = {}
    for target, member in members.items():
        point = candidate(Policy.parse(member["document"], PARTS), geometry, geometry.tokens_per_image)
        entries[target] = Entry("searched", "searched", target, point.document, point.canonical, point.digest, {})
    files = sorted((folder / "calib").glob("records-*.jsonl"), key=lambda path: int(path.stem.split("-")[1]))
    if not files:
        raise BadInput(f"{folder} has no images: the searched policies cannot be measured there")
    pool.measure(folder, files, list(entries.values()), batch_size, workers=2)
    return {
        target: joined([Outcomes.load(folder / "parts" / file.stem / f"{entry.digest}.npz") for file in files])
        for target, entry in entries.items()
    }


def compare(found: Pool, searched: Mapping[str, Outcomes]) -> list[dict[str, Any]]:
    """A row for every catalog policy at every budget against the searched one. `p` is Holm's, over all rows. Raises
    BadInput for too few images."""
    if found.images < FEWEST:
        raise BadInput(f"{found.images} paired images are too few to conclude from; at least {FEWEST}")
    pairs = [
        (target, row, paired(outcomes.right, found.right[row]))
        for target, outcomes in searched.items()
        for row in found.rows("catalog", target)
    ]
    adjusted = holm([pair.p for _, _, pair in pairs])
    rows = []
    for (target, row, pair), p in zip(pairs, adjusted, strict=True):
        low, high = pair.interval(1 - LEVEL)
        verdict = "tie" if p >= LEVEL else "better" if pair.mean > 0 else "worse"
        rows.append(
            {
                "target": target,
                "policy": found.policies[row]["source"],
                "accuracy": float(found.right[row].mean()),
                "costs": dict(zip(COSTS, found.costs[row].tolist(), strict=True)),
                "difference": pair.mean,
                "low": low,
                "high": high,
                "wins": pair.wins,
                "losses": pair.losses,
                "p": p,
                "detectable": pair.detectable(LEVEL / len(pairs)),
                "searched_is": verdict,
            }
        )
    return rows


def summary(rows: Sequence[Mapping[str, Any]], searched: Mapping[str, Outcomes]) -> list[dict[str, Any]]:
    """For each budget: how often the searched policy is better, tied, worse, and against the best hand-set one."""
    made = []
    for target, outcomes in searched.items():
        here = [row for row in rows if row["target"] == target]
        best = max(here, key=lambda row: (row["accuracy"], row["policy"]))
        verdicts = [row["searched_is"] for row in here]
        made.append(
            {
                "target": target,
                "accuracy": float(outcomes.right.mean()),
                "budget": float(outcomes.costs[COSTS.index("budget")]),
                **{verdict: verdicts.count(verdict) for verdict in ("better", "tie", "worse")},
                "best": dict(best),
            }
        )
    return made


def markdown(document: Mapping[str, Any]) -> str:
    header = ["budget", "searched", "better than", "tied with", "worse than", "best hand-set", "difference (95 %)", "p"]
    header += ["would be found", "verdict"]
    rows = []
    for one in document["summary"]:
        best = one["best"]
        gap = f"{best['difference']:+.4f} ({best['low']:+.4f} to {best['high']:+.4f})"
        counts = [one[verdict] for verdict in ("better", "tie", "worse")]
        shown = [f"{best['policy']} {best['accuracy']:.4f}", gap, f"{best['p']:.2g}", f"{best['detectable']:.4f}"]
        ours = [f"{one['target']} ({one['budget']:.3f})", f"{one['accuracy']:.4f}"]
        rows.append([*ours, *counts, *shown, best["searched_is"]])
    title = f"# Searched against hand-set, {document['images']} paired images (unpruned {document['baseline']:.4f})\n"
    return "\n".join([title, output.table(header, rows), "p is Holm's over all comparisons of all budgets.\n"])


def figure(document: Mapping[str, Any]) -> Figure:
    """A column for each budget: every catalog policy's accuracy, the searched one as a line."""
    from autoprune.figures import style

    drawn, (axes,) = style.canvas(size=(7.2, 4.2))
    colors = {"better": style.MUTED, "tie": style.ORANGE, "worse": style.RED}
    for place, one in enumerate(document["summary"]):
        for verdict, color in colors.items():
            rows = [r for r in document["rows"] if r["target"] == one["target"] and r["searched_is"] == verdict]
            label = f"searched: {verdict}" if place == 0 else None
            spread = np.linspace(-0.18, 0.18, len(rows)) if len(rows) > 1 else [0.0] * len(rows)
            axes.plot(place + np.asarray(spread), [r["accuracy"] for r in rows], "o", color=color, ms=4.5, label=label)
        ends = ([place - 0.3, place + 0.3], [one["accuracy"]] * 2)
        axes.plot(*ends, color=style.BLUE, linewidth=2, label="searched" if place == 0 else None)
    axes.axhline(document["baseline"], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xticks(range(len(document["summary"])), [f"budget {one['target']}" for one in document["summary"]])
    shown = f"exact match on {document['images']} images"
    style.dress(axes, x="", y=shown, title="Searched and hand-set")
    axes.legend(fontsize=8.5, frameon=False)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder of python -m benchmarks.pool")
    parser.add_argument("--front", type=Path, help="front.json of another search that saw none of the pool's images")
    parser.add_argument("--work", type=Path, default=Path("runs/literature"))
    parser.add_argument("--out", type=Path, default=output.RESULTS)
    options = parser.parse_args()
    found = Pool.load(options.pool)
    path = options.front
    if path is None:
        spec = prepare(options.work / output.code(*MADE_BY))
        print(f"about {output.duration(expected(spec, found.images))}", flush=True)
        path = search(spec)
    front = json.loads(path.read_text())
    tokens = read_geometry(output.MODEL).tokens_per_image
    members = chosen(front, BUDGETS, tokens or 1)
    searched = measured(options.pool, members, pool.Recipe(1, 1).batch_size)
    rows = compare(found, searched)
    document = {
        "front": {"study": front["study"], "members": {target: m["policy"] for target, m in members.items()}},
        "pool": dict(found.recipe),
        "images": found.images,
        "baseline": float(found.right[0].mean()),
        "level": LEVEL,
        "summary": summary(rows, searched),
        "rows": rows,
        "machine": output.machine(),
    }
    for made in output.write(options.out, NAME, document, markdown(document), figure(document), parts=MADE_BY):
        print(made)


if __name__ == "__main__":
    main()
