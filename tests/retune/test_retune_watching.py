"""The schedule of `autoprune watch`, with a clock that is told: nothing lost, nothing twice, over restarts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest_cli import cli

from autoprune.errors import AutoPruneError, BadInput, Mistake
from autoprune.retune.watching import Done, Schedule, watch

pytest.importorskip("apscheduler")
SPEC = """\
schema: autoprune/spec/1
name: watched
model: {path: model}
calibration: {records: records.jsonl, search: 2, holdout: 2}
search_space: two_stage_mixed
objectives: [maximize exact_match, minimize prefill_flops]
retune: {every: "0 3 * * *", margin: 1 point}
"""
SUNDAY = datetime(2026, 11, 22, tzinfo=UTC)


class Clock:
    """Moves only when somebody sleeps."""

    def __init__(self, start: datetime = SUNDAY) -> None:
        self.time = start
        self.slept = 0

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.slept += 1
        assert self.slept < 20000, "it never becomes due"


class Runs(list[datetime]):
    """When the watch ran; `cut`: which of them never ends."""

    def __init__(self, clock: Clock, cut: int | None = None) -> None:
        super().__init__()
        self.clock, self.cut = clock, cut

    def __call__(self) -> None:
        self.append(self.clock.now())
        if len(self) == self.cut:
            raise KeyboardInterrupt


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TZ", "UTC")
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def run_until(spec: Path, clock: Clock, runs: Runs, rounds: int) -> None:
    watch(spec, runs, now=clock.now, sleep=clock.sleep, rounds=rounds, say=lambda _: None)


def days(runs: Runs) -> list[int]:
    return [moment.day for moment in runs]


def test_it_runs_when_it_is_due_and_not_at_the_start(spec: Path) -> None:
    clock = Clock()
    runs = Runs(clock)
    run_until(spec, clock, runs, 3)
    assert days(runs) == [22, 23, 24]
    assert all(timedelta() <= one - one.replace(hour=3, minute=0, second=0) < timedelta(minutes=1) for one in runs)


def test_a_restart_does_no_run_twice(spec: Path) -> None:
    clock = Clock()
    runs = Runs(clock)
    for _ in range(3):
        run_until(spec, clock, runs, 1)
    assert days(runs) == [22, 23, 24]


def test_a_run_that_was_due_while_nobody_watched_is_done_once_at_the_start(spec: Path) -> None:
    clock = Clock()
    runs = Runs(clock)
    run_until(spec, clock, runs, 1)
    clock.time += timedelta(days=5)
    started = clock.time
    run_until(spec, clock, runs, 2)
    assert runs[1] == started, "the missed ones, at once"
    assert days(runs) == [22, 27, 28]


def test_a_run_that_was_cut_short_is_done_again(spec: Path) -> None:
    clock = Clock()
    runs = Runs(clock, cut=1)
    with pytest.raises(KeyboardInterrupt):
        run_until(spec, clock, runs, 1)
    run_until(spec, clock, runs, 2)
    assert days(runs) == [22, 22, 23]


def test_a_failed_run_is_told_and_the_watch_goes_on(spec: Path) -> None:
    clock, said, calls = Clock(), [], []

    def fail() -> None:
        calls.append(clock.now())
        raise AutoPruneError("the database is away")

    watch(spec, fail, now=clock.now, sleep=clock.sleep, rounds=2, say=said.append)
    assert len(calls) == 2
    assert said.count("failed: the database is away") == 2


def test_another_cron_line_counts_from_now(spec: Path, tmp_path: Path) -> None:
    clock = Clock()
    runs = Runs(clock)
    run_until(spec, clock, runs, 1)
    clock.time += timedelta(days=5)
    spec.write_text(SPEC.replace('"0 3 * * *"', '"30 4 * * *"'))
    started = clock.time
    run_until(spec, clock, runs, 1)
    assert runs[1] > started
    assert (runs[1].hour, runs[1].minute) == (4, 30)
    (tmp_path / ".autoprune" / "watch.json").write_text("{}")
    with pytest.raises(BadInput, match="damaged"):
        Done(tmp_path / ".autoprune" / "watch.json").read("30 4 * * *", clock.now())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 3 * * 0", "2026-11-22T03:00"),
        ("0 3 * * 7", "2026-11-22T03:00"),
        ("0 3 * * 1", "2026-11-23T03:00"),
        ("0 3 * * mon", "2026-11-23T03:00"),
        ("0 3 * * 2-4", "2026-11-24T03:00"),
        ("0 3 * * 5-7", "2026-11-22T03:00"),
        ("0 3 * * 1/3", "2026-11-23T03:00"),
        ("*/20 * * * *", "2026-11-22T00:20"),
        ("0 3 25 * *", "2026-11-25T03:00"),
        ("0 3 25 * 2", "2026-11-24T03:00"),
        ("0 0 1 1 *", "2027-01-01T00:00"),
    ],
)
def test_cron_lines_mean_what_cron_means(line: str, expected: str) -> None:
    found = Schedule(line, UTC).after(SUNDAY)
    assert found is not None
    assert found.isoformat().startswith(expected)


@pytest.mark.parametrize("line", ["0 3 * *", "99 3 * * *", "0 3 * * 9", "0 3 * * 4-2", "a b c d e", "0 3 * * 1/0"])
def test_what_is_no_cron_line(line: str) -> None:
    with pytest.raises(Mistake):
        Schedule(line, UTC)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"0 3 * * *"', '"0 99 * * *"', "retune.every"),
        ('"0 3 * * *"', '"0 3 30 2 *"', "never happens"),
        ('every: "0 3 * * *", ', "", "needs a cron line"),
    ],
)
def test_a_schedule_that_is_none_is_bad_input(
    spec: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    spec.write_text(SPEC.replace(old, new))
    assert cli("watch", str(spec)).code == 2
    assert said in capsys.readouterr().err
