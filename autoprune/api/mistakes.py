"""Every kind of mistake, from `autoprune/codes.yaml`: what it means, what to do, the smallest example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import autoprune.codes
from autoprune.document.problems import suggest
from autoprune.document.yaml import read
from autoprune.errors import BadInput

FILE = Path(autoprune.codes.__file__).with_suffix(".yaml")
COLUMNS = ("code", "what it means")


def list_codes(code: str | None = None) -> list[dict[str, Any]]:
    """Every code with `section, means, do, of, bad, good`, or the one that is asked for. Raises BadInput where there is
    none."""
    listed = [
        {"code": name, "section": section, **said}
        for section, codes in read(FILE).data.items()
        for name, said in codes.items()
    ]
    if code is None:
        return listed
    found = [one for one in listed if one["code"] == code.strip("[]")]
    if not found:
        near = suggest(code, [one["code"] for one in listed]) or "; `autoprune explain` lists them"
        raise BadInput(f"there is no code {code!r}{near}", code="unknown-name")
    return found


def text(one: dict[str, Any]) -> str:
    """One code for people, in lines."""
    lines = [one["means"], one["do"], "", f"wrong: {example(one['bad'])}", f"right: {example(one['good'])}"]
    return "\n".join(lines)


def example(written: str) -> str:
    """An example in one line; what no line shows is escaped."""
    return written.replace("\0", "\\0") or "(nothing)"


def markdown(listed: list[dict[str, Any]]) -> str:
    """The codes as a page: `docs/errors.md`."""
    lines = [
        "# What can be wrong",
        "",
        "Every mistake in a document is said with its file, line, column, key path and, at the end of the line, a",
        "code:",
        "",
        "```text",
        "spec.yaml:7:3: calibration.serach: unknown key 'serach'; …; did you mean 'search'? [unknown-key]",
        "```",
        "",
        "A code never changes its meaning; `--json` has it under `code`. `autoprune explain unknown-key` prints one of",
        "these paragraphs, `autoprune explain --markdown` this page. All mistakes of a document are said at once, the",
        f"exit code is 2, and nothing was started. There are {len(listed)} codes.",
    ]
    section = ""
    for one in listed:
        if one["section"] != section:
            section = one["section"]
            lines += ["", f"## {section}"]
        lines += ["", f"### {one['code']}", "", one["means"], one["do"], ""]
        lines += [f"- wrong: `{example(one['bad'])}`", f"- right: `{example(one['good'])}`"]
    return "\n".join(lines) + "\n"
