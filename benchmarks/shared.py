"""Measurements that many searches share: equal evaluations run once, and every search still pays for its own."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autoprune.executors import InlineExecutor
from autoprune.ports import EvalRequest, Measured, Measurement, Outcome


class Memo:
    """Measurements by key in one file, for several processes. `code` is the digest of what measures: others'
    measurements are not found. A file of before this was written down is taken for the first code that opens it."""

    def __init__(self, path: Path, code: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._code = code
        self._base = sqlite3.connect(path, timeout=120, isolation_level=None)
        self._base.execute("CREATE TABLE IF NOT EXISTS found (key TEXT PRIMARY KEY, measurement TEXT NOT NULL)")
        self._base.execute("UPDATE OR IGNORE found SET key = ? || key WHERE key NOT LIKE '%:%'", (self._key(""),))

    def _key(self, key: str) -> str:
        return f"{self._code}:{key}"

    def get(self, key: str) -> Measurement | None:
        row = self._base.execute("SELECT measurement FROM found WHERE key = ?", (self._key(key),)).fetchone()
        return None if row is None else Measurement.from_json(json.loads(row[0]))

    def put(self, key: str, found: Measurement) -> None:
        row = (self._key(key), json.dumps(found.to_json()))
        self._base.execute("INSERT OR IGNORE INTO found VALUES (?, ?)", row)


class SharedExecutor:
    """`ports.Executor` of one search over workers that outlive it. `spent`: full evaluations of the `records` of the
    search split that this search asked for, whoever had them measured, without what it knew before. A failure is not
    remembered."""

    capacity = 1

    def __init__(self, workers: InlineExecutor, memo: Memo, key: Callable[[EvalRequest], str], records: int) -> None:
        self._workers, self._memo, self._key, self._records = workers, memo, key, records
        self._queue: deque[EvalRequest] = deque()
        self.spent = 0.0

    def submit(self, request: EvalRequest) -> None:
        self._queue.append(request)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        if not self._queue:
            return []
        request = self._queue.popleft()
        outcome = self._outcome(request, timeout)
        asked = min(request.limit or self._records, self._records)
        if isinstance(outcome, Measured):
            outcome = Measured(request, replace(outcome.measurement, fresh=asked - known(outcome)))
            asked -= known(outcome)
        if request.split == "search":
            self.spent += asked / self._records
        return [outcome]

    def _outcome(self, request: EvalRequest, timeout: float | None) -> Outcome:
        key = self._key(request)
        found = self._memo.get(key)
        if found is not None:
            return Measured(request, found)
        self._workers.submit(request)
        (outcome,) = self._workers.wait(timeout)
        if isinstance(outcome, Measured):
            self._memo.put(key, outcome.measurement)
        return outcome

    def close(self) -> None:
        self._queue.clear()


def known(outcome: Measured) -> int:
    """How many of the records the request knew by all measures that have a number for each."""
    before, found = outcome.request.known, outcome.measurement
    if before is None or not before.samples.keys() >= found.samples.keys():
        return 0
    return min(len(before.images), len(found.images))
