"""Places of layers from made-up profiles, and plans whose layers they narrow."""

from __future__ import annotations

from typing import Any

import pytest
from search_support import FakeExecutor, FakeLog, Watcher, make_candidate, make_plan, run
from search_support import measure as toy_measure
from space_support import middle, proposals

from autoprune.policy.placing import placed, reachable
from autoprune.ports import EvalRequest, Measurement
from autoprune.search.placement import Profiling, Signals, narrowed, places, shifts
from autoprune.search.plan import Candidate, Reference

DEPTH = 32
FLAT = (0.2,) * DEPTH


def similar(**drops: float) -> tuple[float, ...]:
    """0.98 everywhere but at the layers named, such as l3=0.5."""
    return tuple(drops.get(f"l{layer}", 0.98) for layer in range(DEPTH))


# ----------------------------------------------------------------------------------------------------------- the places
def test_a_cut_stands_behind_a_jump() -> None:
    signals = Signals(similar(l0=0.1, l4=0.7, l9=0.6, l13=0.8, l31=0.2), FLAT)
    assert places(signals, range(2, 11)).jumps == (5, 10), "a third may be; the others change less than the mean"
    assert places(signals, range(2, 20)).jumps == (5, 10, 14)
    assert places(Signals(similar(), FLAT), range(3, 20)).jumps == (3, 4), "of equal ones the shallower"
    slow = Signals(tuple(0.5 + layer / 100 for layer in range(DEPTH)), FLAT)
    assert places(slow, range(2, 11)).jumps == (2, 3, 4), "a third at most"
    assert places(signals, range(9, 12)).all == (9, 10), "two at least"
    assert places(signals, range(14, 15)).all == (14,), "all where there are no two"
    assert places(signals, range(0, 3)).all == (1, 2), "nothing is behind no layer"


def test_a_shift_is_a_steep_inflection() -> None:
    fall = [0.8] * 8 + [0.75, 0.65, 0.45, 0.15, 0.08, 0.05] + [0.05] * 18
    assert shifts(fall) == (11,), "from layer 10 to 11 it falls fastest"
    signals = Signals(similar(l20=0.5, l21=0.4), tuple(fall))
    assert places(signals, range(2, 31)).shifts == (11,)
    assert places(signals, range(12, 31)).shifts == ()
    assert 11 in places(signals, range(2, 31)).all


def test_a_line_and_ripples_on_it_have_no_shift() -> None:
    assert shifts([0.9 - 0.02 * layer for layer in range(DEPTH)]) == ()
    assert shifts([0.1, 0.2]) == ()
    ripples = [0.5 + (0.001 if layer % 2 else -0.001) for layer in range(20)]
    pause = [0.9, 0.7, 0.55, 0.35, 0.1, 0.1, 0.1, 0.1]
    assert shifts(pause) == (4,), "where it falls slowest is no shift"
    step = [*ripples, 0.4, 0.2, 0.15, *(0.15 + (0.001 if layer % 2 else -0.001) for layer in range(9))]
    assert shifts(step) == (21,)


# --------------------------------------------------------------------------------------------------------- in a study
ASKED = Profiling(64, tuple(f"s{i}" for i in range(DEPTH)), tuple(f"a{i}" for i in range(DEPTH)))
SIMILARITY = similar(l2=0.3, l5=0.4, l8=0.5, l13=0.6, l15=0.7, l20=0.8)


def profile(request: EvalRequest) -> Measurement:
    assert request.policy is None
    assert request.split == "search"
    values = dict(zip(ASKED.similarity, SIMILARITY, strict=True)) | dict.fromkeys(ASKED.attention, 0.2)
    samples = {label: (value,) * request.limit for label, value in values.items()}  # type: ignore[operator]
    return Measurement(values, samples, tuple(range(request.limit or 0)))


def ready(records: int, labels: tuple[str, ...]) -> Measurement:
    return profile(EvalRequest(None, "search", labels, records))


def test_proposals_are_narrowed_and_references_stay() -> None:
    space = proposals("two_stage_mixed", DEPTH)
    values = middle(space)
    known = space.candidate(values)
    plan = make_plan(proposals=space, references=(Reference(known, values),), profiling=ASKED)
    narrow, said = narrowed(plan, ready)
    assert narrow.references == plan.references
    assert narrow.proposals.parameters == space.parameters
    assert narrow.proposals.candidate(values).digest == known.digest, "a reference's layers are among the places"
    assert narrow.proposals.express(known.document) is not None
    ranges = reachable(space.slots)
    assert len(said) == 1 + len(ranges)
    assert "64 records" in said[0]
    for line, (name, layers) in zip(said[1:], ranges.items(), strict=True):
        assert line.startswith(f"{name}: layers ")
        assert f" of {layers[0]} to {layers[-1]}; behind the largest changes" in line
    wide, few = sites_of(space, values), sites_of(narrow.proposals, values)
    assert len(few) < len(wide) / 2
    at = {3, 6, 9, 14, 16, 21}
    own = placed(space.slots, values)
    for pair in few:
        assert pair[0] in at | set(own.values())


def sites_of(space: Any, values: dict[str, Any]) -> set[tuple[int, ...]]:
    """Where the stages inside stand, for samples over the whole of the layers' ranges."""
    first, second = space.slots
    found = set()
    for layer in range(first.low, first.high + 1):
        for u in range(21):
            filled = space.filled({**values, first.name: layer, second.name: u / 20})
            inside = [s["at"] for s in filled["stages"] if s["at"].startswith("llm:")]
            found.add(tuple(int(at.removeprefix("llm:")) for at in inside))
    return found


def test_a_policy_at_another_layer_is_no_point_any_more() -> None:
    space = proposals("two_stage_mixed", DEPTH)
    first = space.slots[0]
    values = {**middle(space), first.name: first.low}
    made = space.candidate(values)
    far = space.narrowed({first.name: (first.high,)})
    assert space.express(made.document) is not None
    assert far.express(made.document) is None
    assert far.candidate(values).digest != made.digest
    edges = {p.name: p.edges for p in far.parameters}
    assert [p.edges for p in space.parameters if p.name == first.name] == [("layer 2", "layer 11")]
    assert edges[first.name] == (None, "layer 11"), "no end to widen where no layer is moved to"


def test_without_a_profile_nothing_is_measured_or_moved() -> None:
    plan = make_plan()

    def never(records: int, labels: tuple[str, ...]) -> Measurement:
        pytest.fail("measured")

    assert narrowed(plan, never) == (plan, [])


# ----------------------------------------------------------------------------------------------------- through a driver
def answer(request: EvalRequest) -> Measurement:
    """The toy's numbers, by how much the stages inside keep early and late."""
    if request.measures == ASKED.labels:
        return profile(request)
    if request.policy is not None:
        share = int(make_digest(request.policy)[-4:], 16) / 65535
        request = EvalRequest(
            make_candidate("toy", {"x": share, "y": 1 - share, "mode": "a"}).canonical,
            request.split,
            request.measures,
            request.limit,
        )
    return toy_measure(request)


def make_digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def armed() -> Any:
    one, other = proposals("two_stage_mixed", DEPTH), proposals("two_stage_mixed", DEPTH)
    known = one.candidate(middle(one))
    reference = Reference(Candidate("warm", known.document, known.canonical, known.digest), middle(one), "one")
    return make_plan(
        proposals=one,
        first_arm="one",
        more_arms={"other": other},
        references=(reference,),
        profiling=ASKED,
        constraints=(),
        trials=10,
    )


def test_every_arm_is_narrowed_told_and_resumed() -> None:
    log, executor, watcher = FakeLog(), FakeExecutor(answer=answer), Watcher()
    front = run(armed(), executor, log, observer=watcher)
    profiles = [r for r in executor.submitted if r.measures == ASKED.labels]
    assert [(r.policy, r.limit) for r in profiles] == [(None, 64)]
    told = [p.message for p in watcher.seen if p.message.startswith(("layers: auto", "l1 of arm", "l2 of arm"))]
    assert len(told) == 5
    assert set(told) <= set(front.explanation)
    references = [r for r in log.settled if r.origin == "reference"]
    assert [(r.name, r.sampler_number is not None) for r in references] == [("warm", True)], (
        "the sampler learns from it"
    )
    trials = [r for r in log.settled if r.origin == "trial" and r.policy]
    assert {r.arm for r in trials} == {"one", "other"}
    warm = placed(armed().proposals.slots, middle(armed().proposals))
    for record in trials:
        layer = int((record.policy or {})["stages"][1]["at"].removeprefix("llm:"))
        assert layer in {3, 6, 9} | ({warm["l1"]} if record.arm == "one" else set())

    again = FakeExecutor(answer=answer)
    run(armed(), again, log)
    assert not [r for r in again.submitted if r.split == "search"], "all of it was stored, the profile too"
