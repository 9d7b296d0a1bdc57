"""Every way to search, from the registry: what it does, what it takes."""

from __future__ import annotations

import inspect
from typing import Any

from autoprune.api.vocabulary import described_parameter, parameter_text
from autoprune.document.problems import suggest
from autoprune.errors import BadInput
from autoprune.search import strategy

COLUMNS = ("name", "options", "what it does")


def list_strategies(name: str | None = None) -> list[dict[str, Any]]:
    """Every registered strategy, or the one of that name. Raises BadInput where there is none."""
    known = strategy.names()
    if name is not None and name not in known:
        near = suggest(name, known) or f"; known: {', '.join(known)}"
        raise BadInput(
            f"no strategy is called {name!r}{near}; `autoprune strategies` describes them", code="unknown-name"
        )
    asked = known if name is None else (name,)
    return [_described(info) for one in asked if (info := strategy.find(one)) is not None]


def _described(info: strategy.StrategyInfo) -> dict[str, Any]:
    properties = info.options.model_json_schema().get("properties", {})
    text = inspect.getdoc(info.run) or ""
    return {
        "name": info.name,
        "summary": info.summary,
        "about": text.partition("\n\n")[2],
        "paper": info.paper,
        "derives": info.derives is not None,
        "options": {
            key: {**described_parameter(s), "about": s.get("description", "")} for key, s in properties.items()
        },
    }


def row(one: dict[str, Any]) -> tuple[str, ...]:
    """The columns of one strategy, as text."""
    return (one["name"], ", ".join(one["options"]), one["summary"])


def option_text(name: str, spec: dict[str, Any]) -> str:
    """`name = default (what is allowed)`, and what it is."""
    return f"`{parameter_text(name, spec)}`" + (f": {spec['about']}" if spec["about"] else "")


def markdown(listed: list[dict[str, Any]]) -> str:
    """The strategies as a page: `docs/strategies.md`."""
    lines = [
        "# Strategies",
        "",
        "How a study is searched, as the registry knows it: `autoprune strategies --markdown` prints this page. A spec",
        "names one, alone or with options: `strategy: greedy`, `strategy: {greedy: {block: 2, limit: 0.5}}`.",
        "",
        "Whatever the strategy, references come first, a study that goes on measures nothing twice, several workers",
        "are used side by side, and only what was measured on all search records can be on the front. A measurement",
        "on part of the records counts as that part of a trial.",
    ]
    for one in listed:
        lines += ["", f"## {one['name']}", "", one["summary"]]
        if one["options"]:
            lines += ["", *(f"- {option_text(name, spec)}" for name, spec in one["options"].items())]
        if one["about"]:
            lines += ["", *one["about"].split("\n")]
        if one["derives"]:
            lines += [
                "",
                "It searches a space of its own, made of the spec's; `autoprune validate` shows its parameters.",
            ]
        if one["paper"]:
            lines += ["", f"Source: {one['paper']}"]
    return "\n".join(lines) + "\n"
