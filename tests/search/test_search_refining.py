"""Rounds around a front's members: every neighbour once, the same order however many at a time, and only what was
measured counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from layered_support import Layered
from search_support import objective
from space_support import proposals

from autoprune.ports import EvalRequest
from autoprune.search.refine import refine
from autoprune.search.refining import PHASE, Refining, Spot
from autoprune.search.schedule import Form, Schedule
from autoprune.search.strategy import Answer, Probe, Probes, Task

DEPTH, TOKENS = 8, 64
SPACE = proposals("p_sigmoid", DEPTH, TOKENS)
TOY = Layered((1.0, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1))
FORM = Form.of(
    SPACE.filled({p.name: p.choices[0] if p.choices else p.middle for p in SPACE.parameters}),
    DEPTH,
    SPACE.sites,
    TOKENS,
)
START = Schedule.of(DEPTH, {2: Fraction(1, 2), 5: Fraction(1, 4)}).on(TOKENS)


def task(width: int = 1) -> Task:
    goals = (objective("budget"), objective("nll"))
    baseline = TOY.measure(EvalRequest(None, "search", ("budget", "nll")))
    return Task(SPACE, goals, (), baseline, 100, 0, 3, width, lambda *phases: [])


def spot(schedule: Schedule, point: tuple[float, ...] = (0.5, 3.0), feasible: bool = True) -> Spot:
    made = SPACE.free(FORM.document(schedule))
    return Spot(made.document, made.canonical, made.digest, point, feasible)


def answered(probe: Probe, state: str = "complete") -> Answer:
    """Worse than the start, so that it stays the only member."""
    made = SPACE.free(probe.document)
    return Answer(probe, state, {"budget": 0.9, "nll": 9.0} if state == "complete" else {}, {}, made)


def asked(refining: Refining, trials: int, answer: Callable[[Probe], Answer] = answered) -> list[str]:
    """Digests of everything that was asked for, in order."""
    found: list[str] = []
    steps, answers = refining.run(trials), None
    while True:
        try:
            step = next(steps) if answers is None else steps.send(answers)
        except StopIteration:
            return found
        assert isinstance(step, Probes)
        assert step.phase == PHASE
        answers = [answer(probe) for probe in step.probes]
        found += [made.candidate.digest for made in answers if made.candidate is not None]


def neighbours() -> list[str]:
    made = [SPACE.free(FORM.document(schedule)).digest for schedule in refine(START, FORM, TOKENS, seed=3)]
    return list(dict.fromkeys(made))


@pytest.mark.parametrize("width", [1, 3, 16])
def test_every_neighbour_is_asked_for_once_in_the_order_of_its_promise(width):
    found = asked(Refining(task(width), [spot(START)]), 30)
    assert found == neighbours()[:30]


def test_smoothed_ones_come_early_and_all_of_them():
    known = [len(set(schedule.layers)) for schedule in refine(START, FORM, TOKENS, seed=3)]
    smooth = [place for place, distinct in enumerate(known) if distinct >= DEPTH - 1]
    assert smooth[:1] == [0]
    assert max(smooth) <= 9


def test_what_is_known_from_before_is_not_asked_for_again():
    known = refine(START, FORM, TOKENS, seed=3)[:3]
    start = [spot(START), *(spot(made, (0.9, 9.0), feasible=False) for made in known)]
    assert asked(Refining(task(), start), 5) == neighbours()[3:8]


def test_only_what_was_measured_counts():
    def every_other(probe: Probe) -> Answer:
        digest = SPACE.free(probe.document).digest
        return answered(probe, "complete" if int(digest, 16) % 2 else "infeasible")

    found = asked(Refining(task(), [spot(START)]), 10, every_other)
    assert sum(int(digest, 16) % 2 for digest in found) == 10
    assert len(found) > 10


def test_it_gives_up_where_nothing_can_be_measured():
    found = asked(Refining(task(), [spot(START)]), 10, lambda probe: answered(probe, "failed"))
    assert 0 < len(found) <= 64


def test_an_infeasible_point_is_no_member():
    better = replace(spot(START.cut(6, Fraction(1, 16)), (0.1, 1.0)), feasible=False)
    assert asked(Refining(task(), [spot(START), better]), 4) == neighbours()[:4]
