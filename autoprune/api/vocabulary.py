"""Every part that a policy can be made of, from the registry: what it does, what it takes, where it is legal."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from autoprune.document.problems import suggest
from autoprune.errors import BadInput
from autoprune.pruning import parts

KINDS: Mapping[parts.Kind, str] = {
    "criterion": "Criteria: `score: …`",
    "selector": "Selectors: `select: …`",
    "group": "Groups: `group: …`",
    "count": "Count rules: `keep: {rule: …}`",
    "merger": "Mergers: `merge: …`",
}


def list_parts(name: str | None = None) -> list[dict[str, Any]]:
    """Every registered part, or those of one name. Raises BadInput where none has it."""
    listed = [_described(info) for kind in KINDS for info in _of(kind)]
    if name is None:
        return listed
    found = [part for part in listed if part["name"] == name]
    if not found:
        known = sorted({part["name"] for part in listed})
        near = suggest(name, known) or f"; known: {', '.join(known)}"
        raise BadInput(f"no part is called {name!r}{near}; `autoprune parts` describes them", code="unknown-name")
    return found


def _of(kind: parts.Kind) -> Iterator[parts.PartInfo]:
    for name in parts.names(kind):
        info = parts.find(kind, name)
        if info is not None:
            yield info


def _described(info: parts.PartInfo) -> dict[str, Any]:
    schema = info.config.model_json_schema(by_alias=True)
    about = inspect.getdoc(info.config) if info.config.__doc__ else ""
    return {
        "name": info.name,
        "kind": info.kind,
        "summary": info.summary,
        "signal_tier": info.tier,
        "sites": list(info.sites),
        "paper": info.paper,
        "parameters": {name: described_parameter(spec) for name, spec in schema.get("properties", {}).items()},
        "about": "" if about == "No parameters." else about,
    }


def described_parameter(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Default, choices and bounds of one field of a JSON schema."""
    found: dict[str, Any] = {"default": spec["default"]} if "default" in spec else {}
    options = [
        o for one in (spec, *spec.get("anyOf", ())) for o in one.get("enum", [one["const"]] if "const" in one else [])
    ]
    if options:
        found["allowed"] = options
    bounds = {
        sign: one[key]
        for one in (spec, *spec.get("anyOf", ()))
        for key, sign in (
            ("minimum", ">="),
            ("exclusiveMinimum", ">"),
            ("maximum", "<="),
            ("exclusiveMaximum", "<"),
        )
        if key in one
    }
    return {**found, **({"bounds": bounds} if bounds else {})}


def parameter_text(name: str, spec: Mapping[str, Any]) -> str:
    """`name = default (what is allowed)`, on one line."""
    default = f" = {json.dumps(spec['default'])}" if "default" in spec else ""
    allowed = ", ".join(map(str, spec.get("allowed", ()))) or " and ".join(
        f"{sign} {bound}" for sign, bound in spec.get("bounds", {}).items()
    )
    return f"{name}{default}" + (f" ({allowed})" if allowed else "")


def markdown(listed: list[dict[str, Any]]) -> str:
    """The reference of parts as a page: `docs/parts.md`."""
    lines = [
        "# Parts",
        "",
        "What a policy is made of, as the registry knows it: `autoprune parts --markdown` prints this page. A part",
        "stands in a document as a bare word, or as a mapping with one key: `{name: {parameter: value}}`. Tiers say",
        "what must be captured: T0 features, T1 one attention row, T2 rows of the text, T3 a whole map, T4 more.",
        "Sites are `projector` and `llm:<l>`, before decoder layer l; `input` is `llm:0`. A part is legal at all of",
        "them unless it says otherwise.",
    ]
    for kind, title in KINDS.items():
        lines += ["", f"## {title}"]
        for part in (p for p in listed if p["kind"] == kind):
            sites = {0: ", in no policy", 1: f", only at {''.join(part['sites'])}"}.get(len(part["sites"]), "")
            lines += ["", f"### {part['name']}", "", f"{part['summary']} *({part['signal_tier']}{sites})*"]
            if part["parameters"]:
                lines += ["", *(f"- `{parameter_text(n, s)}`" for n, s in part["parameters"].items())]
            if part["about"]:
                lines += ["", *part["about"].split("\n")]
            if part["paper"]:
                lines += ["", f"Source: {part['paper']}"]
    return "\n".join(lines) + "\n"
