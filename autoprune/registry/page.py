"""How a version introduces itself in MLflow: tags to search by, a page with the front's table and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.policy.front import Estimate, Front, Member
from autoprune.pruning.saved import Saved
from autoprune.registry import names
from autoprune.search.remarks import verdict_text
from autoprune.spec.expressions import parse_constraint

_PAGE = 5000  # MLflow's servers cut or refuse longer descriptions


def tags_of(saved: Saved) -> dict[str, str]:
    """Measurements, verdicts and what they were made with, by tag."""
    known = saved.metadata
    tags = {names.key(f"holdout.{label}"): _exact(one) for label, one in known.get("holdout", {}).items()}
    for text, state in known.get("constraints", {}).items():
        proven = known.get("certifiable", {}).get(text)
        tags[names.key(f"constraint.{text}")] = verdict_text(parse_constraint(text), state, proven)
    environment = known.get("environment", {})
    facts = {
        "policy": saved.policy.name,
        "budget": known.get("budget"),
        "model": known.get("model", {}).get("name"),
        "fingerprint.architecture": None if saved.fingerprint is None else saved.fingerprint.architecture,
        "fingerprint.weights": None if saved.fingerprint is None else saved.fingerprint.weights,
        "calibration": known.get("calibration", {}).get("digest"),
        "confidence": known.get("confidence"),
        "dtype": environment.get("dtype"),
        "attention": environment.get("attn_implementation"),
        "device": known.get("device"),
        "front": None if saved.front is None else _counted(saved.front),
    }
    facts |= {f"software.{name}": version for name, version in known.get("software", {}).items()}
    return tags | {f"autoprune.{key}": str(value) for key, value in facts.items() if value not in (None, "")}


def page(saved: Saved, name: str, version: int, *, rows: int = 40) -> str:
    """Markdown: the front's table, gentlest first, and the lines that load the version."""
    lines = [f"Visual-token pruning for `{saved.metadata.get('model', {}).get('name', 'a model')}`: ", ""]
    lines[0] += f"`{saved.policy.name}` is selected" + ("." if saved.front is None else f" of {_counted(saved.front)}.")
    if saved.front is not None and saved.front.members:
        lines += [*_table(saved.front, rows), ""]
    lines += [
        "```python",
        "import autoprune",
        "",
        f'policy = autoprune.load_policy("models:/{name}/{version}")',
    ]
    if saved.front is not None:
        lines.append(f'gentler = autoprune.load_policy("models:/{name}/{version}", budget={_example(saved.front)})')
    lines += ["with policy.attach(model):", "    model.generate(**inputs)", "```"]
    text = "\n".join(lines)
    return text if len(text) <= _PAGE or rows == 0 else page(saved, name, version, rows=rows // 2)


def _table(front: Front, rows: int) -> list[str]:
    labels = list(front.members[0].holdout)
    shown = ["", "policy", *labels, "verdict"]
    lines = [_row(shown), _row(["---"] * len(shown))]
    lines.append(_row(["", "unpruned", *(_short(front.baseline.get(label)) for label in labels), ""]))
    for member in front.members[:rows]:
        values = [_short(member.holdout.get(label)) for label in labels]
        lines.append(_row(["**selected**" if member.selected else "", member.name, *values, _verdicts(member)]))
    if len(front.members) > rows:
        lines += ["", f"… and {len(front.members) - rows} more in `front.json`."]
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _verdicts(member: Member) -> str:
    told = [
        verdict_text(parse_constraint(text), state, member.certifiable.get(text))
        for text, state in member.constraints.items()
    ]
    return "; ".join(told) or "no constraints"


def _short(one: Estimate | None) -> str:
    if one is None:
        return ""
    value = f"{one.value:.4g}"
    exact = one.low is None or one.high is None or one.low == one.high
    return value if exact else f"{value} ({one.low:.4g} to {one.high:.4g})"


def _exact(one: Mapping[str, Any]) -> str:
    return f"{one['value']!r} [{one.get('low')!r}, {one.get('high')!r}]"


def _counted(front: Front) -> str:
    certified = sum(member.certified for member in front.members)
    return f"{len(front.members)} policies, {certified} certified"


def _example(front: Front) -> str:
    """A budget that some certified member meets, rounded up to two digits."""
    known = sorted(m.budget for m in front.members if m.certified and m.budget is not None)
    return f"{min(1.0, int(known[-1] * 100 + 1) / 100):g}" if known else "1.0"
