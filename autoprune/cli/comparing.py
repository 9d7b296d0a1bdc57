"""`autoprune compare` and `autoprune methods`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.output import JsonFlag, agreement, console, emit, interval, notes, number, table

Names = Annotated[str, typer.Option(help="Catalog names and YAML files, comma-separated, or all.")]
Budgets = Annotated[str, typer.Option(help="Fractions of the visual positions, averaged over the decoder layers.")]

KEY = """\
class: vision prunes before the language model, llm inside it, baseline looks at nothing. tier: T0 features, T1 one
attention row, T2 rows of the text, T3 a whole map, T4 an extra pass. count: the rule that decides it for each image, or
fixed."""


def compare(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec's YAML file.")],
    policies: Names = "all",
    budgets: Budgets = "0.33,0.22,0.11",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many holdout questions.")] = None,
    timing: Annotated[bool, typer.Option(help="Also time the prefill beside the unpruned one.")] = True,
    parity: Annotated[bool, typer.Option("--parity", help="Do as the methods' releases do.")] = False,
    json: JsonFlag = False,
) -> None:
    """Measure policies side by side on the spec's holdout, each at the same budgets."""
    from autoprune import api
    from autoprune.cli.progress import LiveObserver

    with LiveObserver() as observer:
        made = api.compare(
            spec, _listed(policies), _listed(budgets), limit=limit, timing=timing, parity=parity, observer=observer
        )
    if json:
        emit(made.document)
    else:
        _show(made.document)
        for line in made.notes:
            notes().print(line)
    if not any(row["state"] == "measured" for row in made.document["rows"]):
        raise typer.Exit(1)


def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page of Markdown.")] = False,
    json: JsonFlag = False,
) -> None:
    """Every method of the catalog: where it prunes, what signal it needs, how surely it follows its paper."""
    from autoprune import api
    from autoprune.api import methods as page

    listing = api.list_methods()
    if json:
        emit([{key: method[key] for key in page.PROMISED} for method in listing])
        return
    if markdown:
        typer.echo(page.markdown(listing), nl=False)
        return
    rows = [
        (
            *(m["name"], m["class"], ", ".join(m["sites"]), m["signal_tier"]),
            *(", ".join(m["count_rules"]) or "fixed", m["confidence"], m["paper"]),
        )
        for m in listing
    ]
    console().print(table(None, ("name", "class", "sites", "tier", "count", "confidence", "paper"), rows))
    notes().print(KEY)


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


LEGEND = {
    "target": "the budget asked for",
    "budget": "the share of visual positions that entered the decoder layers",
    "retained": "the score as a share of the unpruned model's",
    "flow": "how far the last prompt token's states are from the unpruned ones (0: undisturbed)",
    "FLOPs": "of the prefill, as a share of the unpruned model's",
    "KV": "cache bytes, likewise",
    "prefill": "measured time over the unpruned model's [quartiles]",
    "selection": "the share of the pruned prefill that choosing tokens takes",
}
UNDISTURBED = 1e-6  # a distance below this is rounding


def _show(document: Mapping[str, Any]) -> None:
    score = document["score"]
    kinds = list(document["baseline"]["by_type"])
    columns = ("policy", "target", "budget", score, "retained", *kinds, "flow", "FLOPs", "KV", "prefill", "selection")
    title = f"{document['records']} {document['split']} questions on {document['images']} images"
    if document["parity"]:
        title += ", in parity with the releases"
    rows = [(*row, *[""] * (len(columns) - len(row))) for row in _rows(document, score, kinds)]
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    names = [columns[i] for i in shown]
    console().print(table(title, names, [[row[i] for i in shown] for row in rows]))
    console().print(" · ".join(f"{name}: {LEGEND[name]}" for name in LEGEND if name in names))
    for line in agreement(document.get("agreement", ()), "policies"):
        console().print(line)


def _rows(document: Mapping[str, Any], score: str, kinds: list[str]) -> Iterable[tuple[str, ...]]:
    base = document["baseline"]
    yield _row("unpruned", base, base, score, kinds)
    for row in document["rows"]:
        if row["state"] == "measured":
            yield _row(row["policy"], row, base, score, kinds)
        else:
            yield (row["policy"], number(row["target"]), "", f"{row['state']}: {row['reason']}")


def _row(name: str, row: Mapping[str, Any], base: Mapping[str, Any], score: str, kinds: list[str]) -> tuple[str, ...]:
    types = [number(row["by_type"].get(kind)) for kind in kinds]
    spent = [f"{row[label] / base[label]:.0%}" for label in ("prefill_flops", "kv_bytes")]
    timed = [_ratio(row.get(label)) for label in ("prefill_ratio", "selection_share")]
    distance = row["information_flow"]
    flow = number(0.0 if distance < UNDISTURBED else distance)
    used = number(row["budget"]) + ("" if row.get("reached", True) else " not reached")
    start = (name, number(row.get("target")), used, interval(row[score]), number(row["retained"]))
    return (*start, *types, flow, *spent, *timed)


def _ratio(spread: Mapping[str, float] | None) -> str:
    return "" if spread is None else f"{spread['value']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"
