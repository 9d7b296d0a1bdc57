"""Mergers at work in a model: W against the sheets' formulas, and the states that enter the layer against W x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from oracle_towers import tower
from oracle_worlds import Seen, World, array, seen, world
from oracles import merging as oracle
from pruning_support import stage

from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning import prefill
from autoprune.pruning.session import Session

AT = 2
CLS: tuple[str, dict[str, Any]] = ("encoder_attention", {})
SIDE = {"llava": 6, "reference": 12}


@dataclass(frozen=True)
class Outcome:
    """What a stage did to one sample. tokens: what was there, by number; rows: places (in `tokens`) at which W's rows
    stand, `extra` of them made by the merger; scores of `tokens`, mass before; entered [K, d]: what the layer got."""

    tokens: list[int]
    rows: list[int]
    extra: list[int]
    scores: list[float]
    before: list[float]
    w: Any
    mass: list[float]
    hidden: Any
    entered: Any

    @property
    def selected(self) -> list[int]:
        return [r for r in self.rows if r not in self.extra]


def outcomes(place: World, *stages: Any) -> list[list[Outcome]]:
    """[stage][sample]"""
    entered: dict[int, Any] = {}
    done: list[tuple[int, Any, Any]] = []
    module: Any = prefill
    original = module.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        made = original(planned, view, *rest)
        done.append((planned.stage.layer, view, made))
        return made

    module.reduce = spy
    depth = len(place.plain.model.language_model.layers)
    layers = place.made.model.language_model.layers
    try:
        with Session(place.made, ResolvedPolicy(stages, depth)) as session, torch.no_grad():
            handles = [
                layer.register_forward_pre_hook(lambda m, a, number=number: entered.update({number: a[0]}))
                for number, layer in enumerate(layers)
            ]
            place.made(**place.batch, use_cache=False)
            run = session.run
        for handle in handles:
            handle.remove()
    finally:
        module.reduce = original
    found = []
    for layer, view, made in done:
        index, valid = run.index(layer)
        found.append([_outcome(place, view, made, entered[layer], index, valid, b) for b in range(len(place.singles))])
    return found


def _outcome(place: World, view: Any, made: Any, entered: Any, index: Any, valid: Any, b: int) -> Outcome:
    real, kept = view.valid[b], made.kept
    rows = [int(i) for i in kept.index[b][kept.valid[b]]]
    extra = [int(i) for i in kept.index[b][kept.valid[b] & kept.extra[b]]]
    ids = place.batch["input_ids"][b]
    here = (ids[index[b]] == place.image_token) & (torch.ones_like(index[b]).bool() if valid is None else valid[b])
    count = int(real.sum())
    matrix = torch.eye(count)[rows] if made.matrix is None else made.matrix[b][kept.valid[b]][:, real]
    return Outcome(
        [int(t) for t in view.tokens[b][real]],
        rows,
        extra,
        [] if kept.scores is None else kept.scores[b][real].double().tolist(),
        view.mass[b][real].double().tolist(),
        array(matrix),
        made.mass[b][kept.valid[b]].double().tolist(),
        array(view.hidden[b][real]),
        array(entered[b][here]),
    )


def features(sample: Seen, name: str, number: int, seed: int, space: str) -> Any:
    if space == "hidden":
        return sample.states(AT, sample.visual)
    if space == "projected":
        return sample.states(0, sample.visual)
    if space == "encoder":
        return sample.projector_input
    keys = [p.key.mean(0)[1:] for p in tower(name, number, seed).blocks[-2]]
    return np.concatenate(keys)


Oracle = Callable[[Outcome, Any, str], Any]


def extras_in_place(done: Outcome, selected: Any, extra: Any) -> Any:
    """Rows of the selected tokens and of the merger, in the order of the places at which they stand."""
    rows = dict(zip(done.selected, selected, strict=True)) | dict(zip(done.extra, extra, strict=True))
    return np.array([rows[place] for place in done.rows])


def identity(done: Outcome) -> Any:
    return np.eye(len(done.tokens))[done.selected]


def best_first(done: Outcome, w: Any) -> Any:
    """Merged rows by the place of their best member (ties to the lower), as they are anchored."""
    order = []
    for row in w:
        members = [j for j in range(len(row)) if row[j] > 0]
        order.append(min(members, key=lambda j: (-done.scores[j], j)))
    assert sorted(order) == sorted(done.extra)
    return [w[order.index(place)] for place in done.extra]


def nearest(done: Outcome, x: Any, name: str) -> Any:
    return oracle.nearest_mean(x, done.rows)


def soft(done: Outcome, x: Any, name: str) -> Any:
    return oracle.soft(x, done.rows, 0.2)


def residual(done: Outcome, x: Any, name: str) -> Any:
    extra = oracle.residual(done.scores, done.selected)
    return extras_in_place(done, identity(done), best_first(done, extra))


def knn(done: Outcome, x: Any, name: str) -> Any:
    weights = [s / sum(done.scores) for s in done.scores]
    w = oracle.rows_to_one(oracle.prumerge(x, weights, done.selected, k=5, residual=bool(done.extra)))
    if not done.extra:
        return w
    return extras_in_place(done, w[:-1], best_first(done, w[-1:]))


def cluster(done: Outcome, x: Any, name: str) -> Any:
    """Anchors are among the recycled: `kept` is what was selected."""
    w = oracle.sparsevlm(x, done.scores, done.selected)
    return extras_in_place(done, identity(done), best_first(done, w))


def cell(done: Outcome, x: Any, name: str) -> Any:
    return oracle.cell_kept(done.scores, SIDE[name], done.rows, 3)


CASES: list[tuple[str, dict[str, Any], Oracle]] = [
    *(("nearest", {"space": space}, nearest) for space in ("projected", "encoder", "hidden", "encoder_keys")),
    *(("soft", {"space": space, "temperature": 0.2}, soft) for space in ("projected", "encoder")),
    ("residual", {}, residual),
    ("knn", {"neighbours": 5}, knn),
    ("knn", {"neighbours": 5, "residual": True, "space": "encoder_keys"}, knn),
    ("cluster", {}, cluster),
    ("cluster", {"space": "projected"}, cluster),
    ("cell", {"side": 3}, cell),
]
IDS = ["-".join([name, *map(str, params.values())]) for name, params, _ in CASES]


def check(name: str, merge: str, params: dict[str, Any], formula: Oracle, keep: str, seed: int) -> None:
    place = world(name, seed)
    (found,) = outcomes(place, stage(AT, keep, CLS, merge=(merge, params)))
    for number, done in enumerate(found):
        sample = seen(name, number, seed)
        if name == "llava" and merge == "cell" and len(done.tokens) > SIDE[name] ** 2:
            continue  # two pictures: two grids
        x = features(sample, name, number, seed, params.get("space", "encoder" if merge == "knn" else "hidden"))
        expected = formula(done, x, name)
        assert np.abs(done.w - expected).max() <= 1e-5
        assert np.abs(oracle.fold(expected, done.hidden) - done.entered).max() <= 1e-4 * np.abs(done.entered).max()


@pytest.mark.parametrize("name", ["llava", "reference"])
@pytest.mark.parametrize(("merge", "params", "formula"), CASES, ids=IDS)
def test_merged_rows(name: str, merge: str, params: dict[str, Any], formula: Oracle) -> None:
    check(name, merge, params, formula, "1/3", 1)


@pytest.mark.full
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("keep", ["1/9", "1/2"])
@pytest.mark.parametrize("name", ["llava", "reference"])
@pytest.mark.parametrize(("merge", "params", "formula"), CASES, ids=IDS)
def test_merged_rows_at_other_counts(
    name: str, merge: str, params: dict[str, Any], formula: Oracle, keep: str, seed: int
) -> None:
    check(name, merge, params, formula, keep, seed)


@pytest.mark.parametrize("norm", ["mass", "mean"])
def test_a_second_merge_weighs_by_what_rows_stand_for(norm: str) -> None:
    """ToMe's sizes (sheet A7) against VScan's equal weights; the mass of all rows stays that of all tokens."""
    place = world("llava")
    twice = [("nearest", {"space": "hidden"}), ("nearest", {"space": "hidden", "norm": norm})]
    stages = [stage(layer, keep, CLS, merge=m) for layer, keep, m in zip((2, 4), ("1/2", "1/6"), twice, strict=True)]
    first, second = outcomes(place, *stages)
    for one, two in zip(first, second, strict=True):
        assert two.before == pytest.approx(one.mass)
        assert len(set(two.before)) > 2
        members = oracle.nearest_mean(two.hidden, two.rows) > 0
        sizes = np.array(two.before) if norm == "mass" else np.ones(len(two.before))
        assert np.abs(two.w - oracle.rows_to_one(members * sizes)).max() <= 1e-6
        assert two.mass == pytest.approx((members * np.array(two.before)).sum(1))
        assert sum(two.mass) == pytest.approx(len(one.tokens))
