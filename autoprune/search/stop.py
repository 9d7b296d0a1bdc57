"""When a search stops asking."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from autoprune.errors import AutoPruneError
from autoprune.search.ledger import Ledger

StopReason = Literal["trials", "time", "exhausted", "finished", "interrupted"]

EXHAUSTED_AFTER = 100  # proposals in a row without a new evaluation, nearly all of them random ones
FAILURE_SHARE = 0.3
ROUNDING = 1e-9  # shares of a trial are added up


@dataclass
class StopRule:
    """Trials reached (what might exceed them is not begun), time over, or the user's wish. `time_limit` in seconds from
    construction."""

    trials: int
    time_limit: float | None
    wish: Callable[[], bool]
    _began: float = field(default_factory=time.monotonic)

    def reason(self, ledger: Ledger, running: float, upcoming: float) -> StopReason | None:
        """Why what comes next should not be asked; None = ask. `running` is in flight, `upcoming` the most that the
        next may cost, both in full evaluations. While something is running, 'trials' may pass again."""
        if self.wish():
            return "interrupted"
        if ledger.spent() + running + upcoming > self.trials + ROUNDING:
            return "trials"
        if self.time_limit is not None and time.monotonic() - self._began >= self.time_limit:
            return "time"
        return None


def check_failures(ledger: Ledger, allowed: int) -> None:
    """Raise when too much of this run failed to call it a search; the message names the commonest reason."""
    failures = ledger.failures_of_this_run
    settled = ledger.settled_in_this_run
    if len(failures) <= max(allowed, FAILURE_SHARE * settled):
        return
    kinds = [f.reason.split(":", 1)[0] for f in failures]
    kind = max(sorted(set(kinds)), key=kinds.count)
    example = next(f for f in failures if f.reason.startswith(kind))
    raise AutoPruneError(
        f"{len(failures)} of {settled} evaluations failed, {kinds.count(kind)} of them as '{kind}' "
        f"(for example {example.name}: {example.reason}); what was measured is kept, and the same command continues"
    )
