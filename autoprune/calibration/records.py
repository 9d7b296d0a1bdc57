"""Calibration records: what a model is asked about which images, and what the right answer is.

A source is a JSONL file, a parquet file, or `datasets:<name>[:split]`. Every source becomes rows with a position, and
every row is checked the same way, so that one call reports every mistake of a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.calibration.sources import Row, image_path, read_rows
from autoprune.document.paths import is_file, leaves, project
from autoprune.errors import BadInput, Located

FIELDS = ("id", "images", "prompt", "prompt_raw", "answer", "type")
TEXTS = ("prompt", "prompt_raw", "answer", "type")


@dataclass(frozen=True)
class Record:
    """One question. `images` are absolute paths. Exactly one of `prompt` (plain text, put into the processor's chat
    template after the images) and `prompt_raw` (used verbatim, image placeholders included) is set."""

    id: str
    images: tuple[str, ...]
    prompt: str | None = None
    prompt_raw: str | None = None
    answer: str | None = None
    type: str | None = None


def load_records(records: str, images: str | None = None) -> tuple[Record, ...]:
    """The records of a source, in its order.

    `records`: a path ending in .jsonl or .parquet, or `datasets:<name>[:split]`. `images`: the folder that relative
    image paths start from (default: the records file's own). Raises BadInput with every mistake found.
    """
    found, problems = scan_records(records, images)
    if problems:
        raise BadInput(problems=problems)
    return tuple(found)


def check_records(records: str, images: str | None = None, need_answers: bool = False) -> list[Located]:
    """Every mistake in a source, without opening an image; `need_answers` if a measure compares with answers."""
    try:
        return scan_records(records, images, need_answers)[1]
    except BadInput as error:
        return list(error.problems) or [Located(records, 1, 1, "", error.code, str(error))]


def scan_records(
    source: str, images: str | None = None, need_answers: bool = False
) -> tuple[list[Record], list[Located]]:
    """The good records of a source and every mistake in it. Raises BadInput where it cannot be read at all."""
    rows, problems = read_rows(source)
    folder = Path(images) if images is not None else Path(source).parent
    found: list[Record] = []
    seen: dict[str, int] = {}
    for row in rows:
        record, mistakes = _record(row, folder, need_answers)
        problems.extend(mistakes)
        if record is None:
            continue
        if record.id in seen:
            problems.append(row.problem("id", "repeated", f"{record.id!r} is already the id of line {seen[record.id]}"))
        seen.setdefault(record.id, row.line)
        found.append(record)
    if not rows and not problems:
        problems.append(
            Located(source, 1, 1, "", "no-records", "the calibration set is empty: at least one record is needed")
        )
    return found, sorted(problems, key=lambda p: (p.file, p.line, p.column))


def _record(row: Row, folder: Path, need_answers: bool) -> tuple[Record | None, list[Located]]:
    values = {key: value for key, value in row.values.items() if value is not None}
    mistakes = [*_unknown_keys(row, values), *_wrong_texts(row, values)]
    if ("prompt" in values) == ("prompt_raw" in values):
        what = "both are there" if "prompt" in values else "neither is there"
        mistakes.append(row.problem("prompt", "prompt-or-raw", f"a record has either 'prompt' or 'prompt_raw'; {what}"))
    if need_answers and "answer" not in values:
        mistakes.append(row.problem("answer", "no-answer", "missing, and a measure of the spec compares with it"))
    paths, image_mistakes = _images(row, values.get("images"), folder)
    mistakes.extend(image_mistakes)
    if mistakes:
        return None, mistakes
    texts = {key: values.get(key) for key in TEXTS}
    return Record(id=str(values.get("id", row.line)), images=paths, **texts), []


def _unknown_keys(row: Row, values: Mapping[str, Any]) -> Iterable[Located]:
    """Other columns are welcome; one that looks like a misspelt field of ours is not."""
    missing = [field for field in FIELDS if field not in row.values]
    for key in values:
        close = difflib.get_close_matches(key, missing, n=1, cutoff=0.8) if key not in FIELDS else []
        if close:
            yield row.problem(key, "unknown-key", f"unknown key {key!r}; did you mean {close[0]!r}?")


def _wrong_texts(row: Row, values: Mapping[str, Any]) -> Iterable[Located]:
    for key in TEXTS:
        if key not in values:
            continue
        if not isinstance(values[key], str):
            yield row.problem(key, "wrong-type", f"must be text, not {_kind(values[key])}: {values[key]!r}")
        elif not values[key].strip():
            yield row.problem(key, "empty-value", "must not be empty")
    if not isinstance(values.get("id", ""), str | int):
        yield row.problem(
            "id", "wrong-type", f"must be text or a whole number, not {_kind(values['id'])}: {values['id']!r}"
        )


def _images(row: Row, value: Any, folder: Path) -> tuple[tuple[str, ...], list[Located]]:
    if not isinstance(value, list) or not value:
        shown = "missing" if value is None else f"not {_kind(value)}: {value!r}"
        return (), [
            row.problem(
                "images",
                "empty-value" if value == [] else "wrong-type",
                f"must be a list with at least one image path, {shown}",
            )
        ]
    paths: list[str] = []
    mistakes: list[Located] = []
    for number, item in enumerate(value):
        key = f"images[{number}]"
        path = image_path(item, folder)
        if isinstance(item, str) and leaves(item, folder):
            message = f"{item!r} leads out of {project(folder)}"
            mistakes.append(row.problem(key, "path-leaves-folder", message))
        elif path is None:
            mistakes.append(row.problem(key, "wrong-type", f"must be an image path, not {_kind(item)}"))
        elif not is_file(path):
            mistakes.append(row.problem(key, "no-such-file", f"no such image: {path}"))
        else:
            paths.append(str(path))
    return tuple(paths), mistakes


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true/false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)
