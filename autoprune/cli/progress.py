"""Live progress of a search: trials, best, hypervolume, ETA."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from autoprune import ports
from autoprune.cli.output import notes, number


class LiveObserver:
    """Shows a bar on a terminal; elsewhere one line for each phase and every tenth of the way."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or notes()
        self._live = self._console.is_terminal
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("loading", total=None, detail="")
        self._phase = ""
        self._phase_started = time.monotonic()
        self._first_complete = 0
        self._said = -1

    def __enter__(self) -> LiveObserver:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def update(self, progress: ports.Progress) -> None:
        if progress.phase != self._phase:
            self._phase, self._said = progress.phase, -1
            self._phase_started, self._first_complete = time.monotonic(), progress.complete
        if progress.message:
            self._console.print(progress.message)
        detail = self._detail(progress)
        if self._live:
            self._bar.update(
                self._task,
                description=progress.phase,
                completed=progress.complete,
                total=progress.target or None,
                detail=detail,
            )
            return
        step = progress.complete * 10 // progress.target if progress.target else 0
        if step != self._said:
            self._said = step
            done = f"{progress.complete}/{progress.target}" if progress.target else ""
            self._console.print(f"{progress.phase:<11} {done:>9} {detail}")

    def _detail(self, progress: ports.Progress) -> str:
        parts = [progress.step] if progress.step else []
        parts += [f"{label} {number(value)}" for label, value in progress.best.items()]
        if progress.hypervolume is not None:
            parts.append(f"hypervolume {number(progress.hypervolume)}")
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.infeasible:
            parts.append(f"{progress.infeasible} infeasible")
        eta = self._eta(progress)
        if eta is not None:
            parts.append(f"ETA {int(eta // 60)}:{int(eta % 60):02d}")
        return " · ".join(parts)

    def _eta(self, progress: ports.Progress) -> float | None:
        """Seconds left at the rate of this phase; None before anything is known."""
        fresh = progress.complete - self._first_complete
        if fresh < 2 or progress.target <= progress.complete:
            return None
        return (time.monotonic() - self._phase_started) / fresh * (progress.target - progress.complete)
