"""The front as one HTML file: MLflow shows it where it lists a run's artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from autoprune.search.remarks import verdict_text
from autoprune.spec.expressions import parse_constraint

_STYLE = """\
body { font: 14px/1.5 system-ui, sans-serif; color: #1f2328; margin: 2em }
table { border-collapse: collapse }
th, td { padding: .35em .9em; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap }
th:first-child, td:first-child, td:last-child, th:last-child { text-align: left }
.selected { background: #ddf4ff; font-weight: 600 } small { color: #59636e; font-weight: 400 }"""


def front_html(document: Mapping[str, Any]) -> str:
    """A table of the front's members, dearest first, below the unpruned model; then what explains it."""
    members = document.get("members", [])
    baseline = document.get("baseline", {}).get("holdout", {})
    labels = [label for label in (members[0]["holdout"] if members else baseline) if label != "budget"]
    head = "".join(f"<th>{escape(word)}</th>" for word in ("policy", "budget", *labels, "verdict"))
    rows = [_row("unpruned", 1.0, [baseline.get(label) for label in labels], "", selected=False)]
    for member in members:
        name = str(member.get("policy", ""))
        values = [member.get("holdout", {}).get(label) for label in labels]
        rows.append(_row(name, member.get("budget"), values, _verdicts(member), selected=bool(member.get("selected"))))
    said = "".join(f"<p>{escape(line)}</p>" for line in document.get("explanation", ()))
    title = f"Front of {escape(str(document.get('study', '')))}"
    return (
        f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>Measured on the holdout, with intervals over images. The highlighted policy is the selected one.</p>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table>{said}\n"
    )


def _row(name: str, budget: float | None, values: Sequence[Any], verdict: str, *, selected: bool) -> str:
    cells = [escape(name), "" if budget is None else f"{budget:.3f}", *(_cell(value) for value in values), verdict]
    mark = " class='selected'" if selected else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if not estimate:
        return ""
    low, high = estimate.get("low"), estimate.get("high")
    value = f"{estimate['value']:.4g}"
    return value if low is None or high is None or low == high else f"{value} <small>{low:.4g} to {high:.4g}</small>"


def _verdicts(member: Mapping[str, Any]) -> str:
    proven = member.get("certifiable", {})
    told = [
        verdict_text(parse_constraint(t), state, proven.get(t)) for t, state in member.get("constraints", {}).items()
    ]
    return "<br>".join(escape(one) for one in told)
