"""`autoprune watch`: retune at the times of a cron line. A restart neither loses a due run nor does it twice.

What is done is one line on disk (`.autoprune/watch.json`): the due time of the last run that ended. The next due time
follows from it alone, so a run that was due while nobody watched, or was cut short, is done at the start; of several
that were missed, only the last. Retuning itself may be repeated: it finds nothing to do where it was done.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, BadInput, Mistake

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.spec.load import LoadedSpec

logger = logging.getLogger(__name__)
STATE = "watch.json"
NAP = 30.0
"""Seconds between two looks at the clock: a machine that slept wakes up to a due run."""
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Schedule:
    """The times of a cron line of five fields, in this machine's time zone (or `zone`). Days of the week are 0 to 7 or
    names, 0 and 7 are Sunday; where both the day of the month and that of the week are given, either will do."""

    def __init__(self, line: str, zone: Any = None) -> None:
        """Raises Mistake for what is no cron line."""
        from apscheduler.triggers.combining import OrTrigger
        from apscheduler.triggers.cron import CronTrigger

        fields = line.split()
        if len(fields) != 5:
            raise Mistake("wrong-form", f"'{line}' is not a cron line of five fields such as '0 3 * * *'")
        minute, hour, day, month, weekday = fields
        days = [{"day": day}] if day != "*" else []
        weekdays = [{"day_of_week": _weekdays(weekday)}] if weekday != "*" else []
        try:
            each = [
                CronTrigger(minute=minute, hour=hour, month=month, timezone=zone, **one)
                for one in (*days, *weekdays) or ({},)
            ]
        except ValueError as error:
            raise Mistake("wrong-form", f"'{line}' is not a cron line: {error}") from error
        self._trigger = each[0] if len(each) == 1 else OrTrigger(each)

    def after(self, moment: datetime) -> datetime | None:
        """The first time after a moment; None where there is none."""
        found = self._trigger.get_next_fire_time(None, moment + timedelta(microseconds=1))
        return None if found is None else found.astimezone(UTC)

    def last(self, since: datetime, now: datetime) -> datetime | None:
        """The last time in (since, now]; None where nothing was due."""
        due, following = None, self.after(since)
        while following is not None and following <= now:
            due, following = following, self.after(following)
        return due


def _weekdays(text: str) -> str:
    """Cron's numbers as names: APScheduler counts from Monday."""
    named = []
    for part in text.lower().split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if not (first == "*" or first.isdigit()) or (dash and not last.isdigit()) or (slash and not step.isdigit()):
            named.append(part)
            continue
        low = 0 if first == "*" else int(first)
        high = 6 if first == "*" or (slash and not dash) else int(last or first)
        if not 0 <= low <= high <= 7 or step == "0":
            raise Mistake("wrong-form", f"'{text}' are no days of the week: 0 to 7, or sun to sat")
        named += [_DAYS[day % 7] for day in range(low, high + 1, int(step or 1))]
    return ",".join(dict.fromkeys(named))


@dataclass(frozen=True)
class Done:
    """The due time of the last run that ended, of this cron line; a watch that has just begun counts from its start."""

    file: Path

    def read(self, line: str, now: datetime) -> datetime:
        """Where the count goes on. A line that was changed counts from now. Raises BadInput for a damaged file."""
        try:
            known = json.loads(self.file.read_text())
            if known["every"] == line:
                return min(datetime.fromisoformat(known["done"]), now)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{self.file} is damaged ({error}); delete it to count from now") from error
        self.write(line, now)
        return now

    def write(self, line: str, due: datetime) -> None:
        partial = self.file.with_suffix(".partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"every": line, "done": due.isoformat()}))
            partial.replace(self.file)
        except OSError as error:
            raise AutoPruneError(f"{self.file} cannot be written: {error.strerror}") from error


def watch(
    spec: str | Path,
    run: Callable[[], object],
    *,
    say: Callable[[str], None] = logger.info,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
    rounds: int | None = None,
) -> None:
    """Call `run` whenever the spec's `retune.every` says, for good (or so many `rounds` of it).

    A run that fails is told and the watch goes on: the next one may find the database back. Raises BadInput for a spec
    without a schedule, or with one that is none; KeyboardInterrupt ends it.
    """
    from autoprune.spec.load import load

    loaded = load(spec)
    line, schedule = _scheduled(loaded)
    done = Done(loaded.state_folder / STATE)
    since = done.read(line, now())
    if (following := schedule.after(since)) is None:
        raise BadInput(problems=[loaded.source.problem(("retune", "every"), "wrong-form", f"'{line}' never happens")])
    say(f"watching {loaded.spec.name}: next at {_local(max(following, now()))}")
    left = rounds
    while left is None or left > 0:
        due = schedule.last(since, now())
        if due is None:
            sleep(NAP)
            continue
        say(f"due at {_local(due)}")
        try:
            run()
        except AutoPruneError as error:
            say(f"failed: {error}")
        done.write(line, due)
        since, left = due, None if left is None else left - 1
        if (following := schedule.after(since)) is not None:
            say(f"next at {_local(max(following, now()))}")


def _scheduled(loaded: LoadedSpec) -> tuple[str, Schedule]:
    if importlib.util.find_spec("apscheduler") is None:
        raise BadInput("watch needs APScheduler (pip install 'autoprune[watch]')", code="not-installed")
    wish = loaded.spec.retune
    if wish is None or wish.every is None:
        message = 'watch needs a cron line: `retune: {every: "0 3 * * *"}`'
        raise BadInput(problems=[loaded.source.problem(() if wish is None else ("retune",), "missing-key", message)])
    try:
        return wish.every, Schedule(wish.every)
    except Mistake as error:
        problem = loaded.source.problem(("retune", "every"), error.code, str(error))
        raise BadInput(problems=[problem]) from error


def _local(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="minutes")
