"""Where rows of calibration records come from: JSONL, parquet, a `datasets` name (pyarrow, datasets: lazily)."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.codes import Code
from autoprune.document.json import parse_json
from autoprune.errors import BadInput, Located, Mistake

DATASETS = "datasets:"


@dataclass(frozen=True)
class Row:
    """One row of a source and where it stands (`line` counts rows from 1 where a source has no lines)."""

    file: str
    line: int
    values: Mapping[str, Any]

    def problem(self, path: str, code: Code, message: str) -> Located:
        return Located(self.file, self.line, 1, path, code, message)


def read_rows(source: str) -> tuple[list[Row], list[Located]]:
    """Rows of a source, and the lines that are no rows. Raises BadInput where nothing can be read at all."""
    if source.startswith(DATASETS):
        return _number(source, _dataset_rows(source)), []
    path = Path(source)
    if not path.is_file():
        raise BadInput(problems=[Located(source, 1, 1, "", "no-such-file", "no such file of calibration records")])
    if path.suffix == ".jsonl":
        return _jsonl_rows(path)
    if path.suffix == ".parquet":
        return _number(source, _parquet_rows(path)), []
    allowed = "a .jsonl file, a .parquet file or 'datasets:<name>[:split]'"
    raise BadInput(problems=[Located(source, 1, 1, "", "unknown-format", f"calibration records must be {allowed}")])


def image_path(item: Any, folder: Path) -> Path | None:
    """The absolute path of an image cell: a path, or a `{bytes, path}` mapping whose bytes are kept in a cache folder
    under their own hash. None if the cell is neither."""
    if isinstance(item, str):
        return (folder / item).absolute()
    if not isinstance(item, Mapping):
        return None
    content = item.get("bytes")
    if isinstance(content, bytes):
        return _materialised(content)
    return image_path(item.get("path"), folder)


def _jsonl_rows(path: Path) -> tuple[list[Row], list[Located]]:
    rows: list[Row] = []
    problems: list[Located] = []
    for line, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            values = parse_json(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
        except Mistake as error:
            problems.append(Located(str(path), line, error.offset + 1, "", error.code, str(error)))
            continue
        except UnicodeDecodeError as error:
            problems.append(Located(str(path), line, error.start + 1, "", "not-utf8", "not valid UTF-8"))
            continue
        if isinstance(values, dict):
            rows.append(Row(str(path), line, values))
        else:
            problems.append(Located(str(path), line, 1, "", "wrong-type", "a record must be a JSON object"))
    return rows, problems


def _parquet_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    parquet = _needed("pyarrow.parquet", str(path))
    arrow = _needed("pyarrow", str(path))
    try:
        rows: list[Mapping[str, Any]] = parquet.read_table(str(path)).to_pylist()
    except (arrow.lib.ArrowException, OSError) as error:
        raise BadInput(
            problems=[Located(str(path), 1, 1, "", "unreadable-records", f"not a readable parquet file: {error}")]
        ) from error
    return rows


def _dataset_rows(source: str) -> Iterable[Mapping[str, Any]]:
    """Rows of a dataset, images undecoded (`{bytes, path}`). The split defaults to `train`."""
    datasets = _needed("datasets", source)
    name, _, split = source.removeprefix(DATASETS).partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(
            problems=[Located(source, 1, 1, "", "unreadable-records", f"the dataset cannot be loaded: {error}")]
        ) from error
    images = data.features.get("images")
    inner = getattr(images, "feature", images[0] if isinstance(images, list) and images else None)
    if isinstance(inner, datasets.Image):
        data = data.cast_column("images", datasets.List(datasets.Image(decode=False)))
    rows: Iterable[Mapping[str, Any]] = data
    return rows


def _number(source: str, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [Row(source, number, values) for number, values in enumerate(rows, start=1)]


def _needed(module: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        message = f"needs the package {package!r}: pip install 'autoprune[data]'"
        raise BadInput(problems=[Located(source, 1, 1, "", "not-installed", message)]) from error


def _materialised(content: bytes) -> Path:
    """Embedded image bytes as a file. The name is the content's hash, so that writing twice is harmless."""
    name = hashlib.sha256(content).hexdigest()
    folder = Path.home() / ".cache" / "autoprune" / "images"
    path = folder / name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.{id(content)}.partial"
        partial.write_bytes(content)
        partial.replace(path)
    return path
