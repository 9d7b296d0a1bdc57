"""The records that a spec names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoprune.calibration.records import Record, scan_records
from autoprune.errors import BadInput, Located
from autoprune.spec.load import LoadedSpec


def scanned(loaded: LoadedSpec, needs_answers: str) -> tuple[list[Located], Sequence[Record]]:
    """What is wrong with the records, and the good ones; none where they cannot be read here."""
    calibration = loaded.spec.calibration
    if loaded.is_broken("calibration", "records") or loaded.is_broken("calibration", "images"):
        return [], ()
    name = records_source(loaded)
    if not name.startswith("datasets:") and not Path(name).is_file():
        message = f"no such file: {name}"
        return [loaded.source.problem(("calibration", "records"), "no-such-file", message)], ()
    images = None if calibration.images is None else str(loaded.path(calibration.images))
    if images is not None and not Path(images).is_dir():
        return [loaded.source.problem(("calibration", "images"), "no-such-file", f"no such folder: {images}")], ()
    if name.startswith("datasets:"):
        return [], ()
    try:
        records, problems = scan_records(name, images, bool(needs_answers))
    except BadInput as error:
        return list(error.problems) or [loaded.source.problem(("calibration", "records"), error.code, str(error))], ()
    asked = calibration.search + (calibration.holdout if isinstance(calibration.holdout, int) else 2)
    counted = not any(loaded.is_broken("calibration", key) for key in ("search", "holdout"))
    if not problems and counted and asked > len(records):
        holdout = "at least 2" if calibration.holdout == "auto" else calibration.holdout
        message = f"search {calibration.search} + holdout {holdout} records are asked for, {len(records)} are there"
        problems.append(loaded.source.problem(("calibration", "search"), "too-few-records", message))
    return _answers(loaded, needs_answers, problems, none_good=not records), records


def _answers(loaded: LoadedSpec, measure: str, problems: list[Located], none_good: bool) -> list[Located]:
    """Says which measure misses the answers: at each record, or once where no record has one."""
    missing = [p for p in problems if p.code == "no-answer"]
    if missing and none_good and len(missing) == len(problems):
        return [
            loaded.source.problem(
                ("calibration", "records"), "no-answer", f"{measure} needs answers; no record has one"
            )
        ]
    return [replace(p, message=f"missing; {measure} compares with it") if p in missing else p for p in problems]


def records_source(loaded: LoadedSpec) -> str:
    """The records' path relative to the spec, or the `datasets:` name as it is."""
    text = loaded.spec.calibration.records
    return text if re.match(r"^datasets:", text) else str(loaded.path(text))
