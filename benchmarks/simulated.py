"""Workers that take time, fail, die and straggle, on a clock that nobody waits for.

`SimulatedExecutor` keeps the promises of `ports.Executor`: every request is answered once. What an evaluation finds is
computed when its answer is due; how long it took is drawn. Waiting moves the clock to the next answer instead of
sleeping. With `live` the time that the driver itself spends passes on the clock as well: then what it shows in the
end is how long the search would have taken on that many workers.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoprune.errors import BadInput
from autoprune.executors.classify import attempt
from autoprune.ports import EvalRequest, Evaluator, Failed, FailureKind, Lost, Measured, Outcome


@dataclass(frozen=True)
class Weather:
    """What happens to evaluations. Everything follows from `seed`, the policy and (where a retry may fare better) how
    often it was tried.

    `seconds`: a usual one takes this long, up to `spread` of it less or more. `stragglers`: the share that takes
    `straggle` times as long. `failures`: shares of policies that fail, by kind, always. `losses`: the share of tries in
    which the worker dies halfway; another is there after `restart` seconds. `timeout`: an answer that takes longer is a
    failure of that kind, after that time.
    """

    seconds: float = 10.0
    spread: float = 0.3
    stragglers: float = 0.0
    straggle: float = 10.0
    failures: Mapping[FailureKind, float] = field(default_factory=dict)
    losses: float = 0.0
    restart: float = 20.0
    timeout: float | None = None
    seed: int = 0

    def duration(self, request: EvalRequest, number: int) -> float:
        usual = self.seconds * (1 + self.spread * (2 * self._luck("time", request, number) - 1))
        return usual * (self.straggle if self._luck("straggle", request, number) < self.stragglers else 1.0)

    def failure(self, request: EvalRequest) -> FailureKind | None:
        """The baseline never fails: without it there is no study."""
        luck = self._luck("failure", request, 0)
        for kind, share in self.failures.items():
            if luck < share and request.policy is not None:
                return kind
            luck -= share
        return None

    def is_lost(self, request: EvalRequest, number: int) -> bool:
        return self._luck("loss", request, number) < self.losses

    def _luck(self, what: str, request: EvalRequest, number: int) -> float:
        """Uniform on [0, 1)."""
        text = f"{self.seed}\n{what}\n{request.policy}\n{request.split}\n{number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


@dataclass(frozen=True, order=True)
class _Due:
    """An answer and when it is there. `order` breaks ties by submission."""

    at: float
    order: int
    request: EvalRequest = field(compare=False)
    lost: bool = field(compare=False)
    late: bool = field(compare=False)


class SimulatedExecutor:
    """Implements `ports.Executor` with `workers` simulated ones around one evaluator.

    `durations` are those of all tries, in the order of submission; `evaluating` is the real time spent on computing
    answers, which belongs to the workers and never passes on the clock.
    """

    def __init__(self, evaluator: Evaluator, workers: int, weather: Weather, *, live: bool = False) -> None:
        if workers < 1:
            raise BadInput(f"at least one worker is needed, not {workers}")
        self.capacity = workers
        self.durations: list[float] = []
        self.evaluating = 0.0
        self._evaluator, self._weather, self._live = evaluator, weather, live
        self._free = [0.0] * workers
        self._due: list[_Due] = []
        self._tries: dict[tuple[str | None, str], int] = {}
        self._skipped, self._began = 0.0, time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds on the clock."""
        real = time.perf_counter() - self._began - self.evaluating if self._live else 0.0
        return self._skipped + real

    def submit(self, request: EvalRequest) -> None:
        number = self._tries.get((request.policy, request.split), 0)
        self._tries[request.policy, request.split] = number + 1
        took = self._weather.duration(request, number)
        lost, limit = self._weather.is_lost(request, number), self._weather.timeout
        late = not lost and limit is not None and took > limit
        took = took / 2 if lost else limit if late and limit is not None else took
        begins = max(self.now, heapq.heappop(self._free))
        heapq.heappush(self._free, begins + took + (self._weather.restart if lost else 0.0))
        heapq.heappush(self._due, _Due(begins + took, len(self.durations), request, lost, late))
        self.durations.append(took)

    def wait(self, timeout: float | None = None) -> Sequence[Outcome]:
        """The answers that are there, or else the next ones. A timeout is real time, of which waiting takes none."""
        if not self._due:
            return []
        self._skipped += max(0.0, self._due[0].at - self.now)
        there, now = [], max(self.now, self._due[0].at)
        while self._due and self._due[0].at <= now:
            there.append(heapq.heappop(self._due))
        return [self._answer(due) for due in there]

    def _answer(self, due: _Due) -> Measured | Failed | Lost:
        request, kind = due.request, self._weather.failure(due.request)
        if due.lost:
            return Lost(request, "the simulated worker died")
        if due.late:
            return Failed(request, "timeout", "no answer within the limit")
        if kind is not None:
            return Failed(request, kind, f"a simulated {kind}")
        began = time.perf_counter()
        try:
            return attempt(self._evaluator, request)
        finally:
            self.evaluating += time.perf_counter() - began

    def close(self) -> None:
        self._due.clear()


def ideal_seconds(durations: Sequence[float], workers: int) -> float:
    """How long tries of these durations take if the next one always starts the moment a worker is free."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)
