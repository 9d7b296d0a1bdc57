"""Sampled layers moved to places."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.policy.placing import Slot, placed, reachable, snapped

ONE, TWO, THREE = Slot("a", 2, 10, ()), Slot("b", 4, 11, ("a",)), Slot("c", 2, 12, ("b",))
CHAIN = (ONE, TWO, THREE)


def moved(values: dict[str, Any], places: dict[str, tuple[int, ...]]) -> dict[str, int]:
    return placed(CHAIN, snapped(CHAIN, values, places))


def test_the_nearest_place_and_of_two_the_shallower() -> None:
    places = {"a": (2, 6, 9), "b": (), "c": ()}
    assert [moved({"a": a, "b": 0.0, "c": 0.0}, places)["a"] for a in (2, 3, 4, 5, 7, 8, 10)] == [2, 2, 2, 6, 6, 9, 9]


def test_what_comes_after_makes_room_and_stays_where_it_has_no_place() -> None:
    values = {"a": 4, "b": TWO.gap_of(5, {"a": 4}), "c": THREE.gap_of(9, {"a": 4, "b": 5})}
    assert placed(CHAIN, values) == {"a": 4, "b": 5, "c": 9}
    assert moved(values, {}) == {"a": 4, "b": 5, "c": 9}
    assert moved(values, {"a": (7,)}) == {"a": 7, "b": 8, "c": 9}
    assert moved(values, {"a": (7,), "b": (5, 6)}) == {"a": 7, "b": 8, "c": 9}, "no place of b is behind a"
    assert moved(values, {"a": (10,), "c": (9,)}) == {"a": 10, "b": 11, "c": 12}
    assert moved(values, {"b": (11,), "c": (3, 6)}) == {"a": 4, "b": 11, "c": 12}


def test_other_values_are_left_alone() -> None:
    values = {"a": 3, "b": 0.5, "c": 0.5, "keep": 0.3, "how": "top"}
    found = snapped(CHAIN, values, {"a": (9,)})
    assert (found["keep"], found["how"], found.keys()) == (0.3, "top", values.keys())
    assert values["a"] == 3


def test_all_layers_a_slot_can_reach() -> None:
    assert reachable(CHAIN) == {"a": range(2, 11), "b": range(4, 12), "c": range(5, 13)}


layers = st.sets(st.integers(0, 14), max_size=5)


@given(st.integers(2, 10), st.floats(0, 1), st.floats(0, 1), layers, layers, layers)
@settings(deadline=None, max_examples=200)
def test_order_and_slots_are_kept(a: int, b: float, c: float, at_a: set[int], at_b: set[int], at_c: set[int]) -> None:
    places = {"a": tuple(at_a), "b": tuple(at_b), "c": tuple(at_c)}
    values = {"a": a, "b": b, "c": c}
    once = snapped(CHAIN, values, places)
    found = placed(CHAIN, once)
    assert found["a"] < found["b"] < found["c"]
    assert all(layer in reachable(CHAIN)[name] for name, layer in found.items())
    assert placed(CHAIN, snapped(CHAIN, once, places)) == found, "what is at its place stays"
    before: dict[str, int] = {}
    for slot in CHAIN:
        free = [p for p in places[slot.name] if slot.lowest(before) <= p <= slot.high]
        assert not free or found[slot.name] in free
        before[slot.name] = found[slot.name]
