"""Selectors, groups and count rules at work in a model: what they keep of it, against the sheets' formulas.

Features and scores come from the untouched model, not from the engine: `test_pruning_oracles.py` has the selectors on
given numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from oracle_towers import tower
from oracle_worlds import Seen, seen, world
from oracles import amounts, attention, counts, selection, similarity, walks
from oracles.basics import cosines, min_max, top
from pruning_support import stage

from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.pruning.session import Session

AT = 2
CLS: tuple[str, dict[str, Any]] = ("encoder_attention", {})
SIDE = {"llava": 6, "reference": 12}


class Given:
    """One sample: what the untouched model computes."""

    def __init__(self, name: str, number: int, seed: int) -> None:
        self.name, self.seen, self.tower = name, seen(name, number, seed), tower(name, number, seed)
        self.cls = self.tower.visual([attention.fastervlm(p.map) for p in self.tower.blocks[-2]])
        self.projected = self.seen.states(0, self.seen.visual)
        self.encoder = self.seen.projector_input
        self.hidden = self.seen.states(AT, self.seen.visual)
        self.words = self.seen.states(0, self.seen.text)
        self.keys = np.concatenate([p.key.mean(0)[1:] for p in self.tower.blocks[-2]])

    @property
    def likeness(self) -> list[float]:
        """To the mean word."""
        return similarity.greedyprune_saliency(self.projected, self.words.mean(0))


def catp(given: Given, k: int) -> list[int]:
    """CATP's first stage on cosines put on [0, 1]; the bonus likewise, by min-max."""
    m = np.array([[similarity.unit(c) for c in row] for row in cosines(given.projected)])
    return selection.cover(m, k, [0.7 * v for v in min_max(given.likeness)])


def half(given: Given, k: int) -> list[int]:
    """Zero-TPrune's S-stage (sheet B13), four at a time: of the less important half those most like the other."""
    alive = sorted(range(len(given.cls)), key=lambda i: (-given.cls[i], i))
    sim = cosines(given.keys)
    while len(alive) > k:
        upper, lower = alive[: len(alive) // 2], alive[len(alive) // 2 :]
        double = [max(sim[i][j] for j in upper) for i in lower]
        gone = {lower[p] for p in top(double, min(4, len(alive) - k))}
        alive = [i for i in alive if i not in gone]
    return alive


Oracle = Callable[[Given, int], list[int]]
LIKE_TEXT = ("similarity", {"from": "text_mean"})
CASES: list[tuple[str, Any, tuple[str, dict[str, Any]], Oracle]] = [
    ("todre", CLS, ("spread", {}), lambda g, k: selection.todre(g.projected, k, top(g.cls, 1)[0])),
    ("mmtok", None, ("cover", {}), lambda g, k: selection.mmtok(g.words, g.projected, g.encoder, k)),
    (
        "catp",
        LIKE_TEXT,
        (
            "cover",
            {"kernel": "cosine", "space": "projected", "text_weight": 0, "vision_weight": 1, "score_weight": 0.7},
        ),
        catp,
    ),
    (
        "dart, image pivots",
        ("feature_norm", {"space": "hidden", "order": "l1"}),
        ("pivot", {"text": 0, "space": "hidden"}),
        lambda g, k: selection.dart_shares(g.hidden, [float(np.abs(x).sum()) for x in g.hidden], k, 4),
    ),
    (
        "saint",
        None,
        ("peel", {"split": "full", "by": "sum", "step": 3, "space": "encoder_keys"}),
        lambda g, k: similarity.saint_vit(g.keys, k, 3),
    ),
    ("zero-tprune", CLS, ("peel", {"split": "half", "step": 4, "space": "encoder_keys"}), half),
    ("uniform", None, ("stride", {}), lambda g, k: selection.stride(len(g.cls), k)),
]


def kept(name: str, seed: int, made: ResolvedStage) -> list[list[int]]:
    place = world(name, seed)
    depth = len(place.plain.model.language_model.layers)
    with Session(place.made, ResolvedPolicy((made,), depth)) as session, torch.no_grad():
        place.made(**place.counted(), use_cache=False)
        return [session.run.kept(AT, b) for b in range(len(place.singles))]


def check(name: str, seed: int, keep: str, score: Any, select: tuple[str, dict[str, Any]], oracle: Oracle) -> None:
    for number, found in enumerate(kept(name, seed, stage(AT, keep, score, select))):
        given = Given(name, number, seed)
        assert len(found) == amounts.keep(Fraction(keep), len(given.cls))
        assert found == sorted(oracle(given, len(found)))


@pytest.mark.parametrize(("score", "select", "oracle"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_selected(score: Any, select: tuple[str, dict[str, Any]], oracle: Oracle) -> None:
    check("llava", 1, "1/4", score, select, oracle)


@pytest.mark.full
@pytest.mark.parametrize("name", ["llava", "reference"])
@pytest.mark.parametrize("keep", ["1/9", "1/2"])
@pytest.mark.parametrize(("score", "select", "oracle"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_selected_at_other_counts(
    name: str, keep: str, score: Any, select: tuple[str, dict[str, Any]], oracle: Oracle
) -> None:
    for seed in (1, 2):
        check(name, seed, keep, score, select, oracle)


# --------------------------------------------------------------------------------------------------------- groups
def test_vscan_windows() -> None:
    """32 of 144 tokens: one from each of 16 windows by an early block, the rest by the last but one."""
    early = ResolvedPick(
        Part("encoder_attention", {"layer": 1}), Part("top"), Fraction(1, 2), Part("window", {"side": "1/4"})
    )
    late = ResolvedPick(Part("encoder_attention", {"layer": -2}), Part("top"))
    made = ResolvedStage("llm", AT, Keep("tokens", Fraction(32)), (early, late), Part("drop"))
    for number, found in enumerate(kept("reference", 1, made)):
        given = Given("reference", number, 1)
        local = [attention.fastervlm(p.map) for p in given.tower.blocks[1]]
        assert found == selection.vscan(given.tower.visual(local), given.cls, 12, 32, 3)


@pytest.mark.parametrize("split", ["equal", "size", "proportional"])
def test_tiles_share_the_count(split: str) -> None:
    """PTP and HiRED: every tile's best, and its share of the count equal or by what its tokens score together."""
    pick = ResolvedPick(Part("encoder_attention", {}), Part("top"), None, Part("tile", {"split": split}))
    made = ResolvedStage("llm", AT, Keep("fraction", Fraction(1, 3)), (pick,), Part("drop"), "newlines")
    place = world("llava_next")
    for number, found in enumerate(kept("llava_next", 1, made)):
        one, tiles = seen("llava_next", number), tower("llava_next", number)
        count = len(tiles.blocks[-2])
        numbers = [int(v) - 1 for v in tiles.visual([[float(t + 1)] * 36 for t in range(count)])]  # -1: newlines
        values = tiles.visual([attention.fastervlm(p.map) for p in tiles.blocks[-2]])
        members = [[i for i, n in enumerate(numbers) if n == t] for t in range(count)]
        lines = [i for i, n in enumerate(numbers) if n < 0]
        weights = {
            "equal": [1.0] * count,
            "size": [float(len(m)) for m in members],
            "proportional": [sum(values[i] for i in m) for m in members],
        }[split]
        room = amounts.keep(Fraction(1, 3), len(one.visual)) - len(lines)
        shared = amounts.largest_remainder(room, weights, [len(m) for m in members])
        expected = list(lines)
        for own, k in zip(members, shared, strict=True):
            expected += [own[p] for p in top([values[i] for i in own], k)]
        assert found == sorted(expected)
    assert len(place.singles) == 2


# ---------------------------------------------------------------------------------------------------- count rules
def looked_at(one: Seen, rows: list[int], columns: list[int]) -> float:
    """The share of the rows' attention that goes to the columns, mean over heads and rows."""
    return sum(walks.one_hop(one.maps[AT - 1], rows, columns))


RULES: list[tuple[str, dict[str, Any], Callable[[Given], int]]] = [
    ("outlier", {}, lambda g: counts.iqr_outliers(g.cls)),
    (
        "outlier",
        {"method": "lof", "neighbours": 20},
        lambda g: sum(f > 1.5 for f in amounts.local_outlier_factors(g.cls, 20)),
    ),
    ("elbow", {}, lambda g: counts.elbow(g.cls)),
    (
        "entropy",
        {"target": 0.25, "rounds": 3},
        lambda g: len(g.cls) - counts.flowcut_drop(g.cls, amounts.keep(Fraction(1, 4), len(g.cls)), 3),
    ),
    ("threshold", {}, lambda g: sum(s >= sum(g.cls) / len(g.cls) for s in g.cls)),
    (
        "rank",
        {"from": "text", "tolerance": 1e-4, "scale": 0.5, "bias": 2},
        lambda g: counts.rank_count(walks_block(g), 0.5, 2),
    ),
    ("gate", {"below": 1, "look": "text_to_vision"}, lambda g: 0),  # words look at words, too
    (
        "gate",
        {"below": 0.05},
        lambda g: (
            0
            if looked_at(g.seen, g.seen.text, g.seen.visual) < 0.05
            and 1 - looked_at(g.seen, g.seen.visual, g.seen.visual) < 0.05
            else len(g.cls)
        ),
    ),
]


def walks_block(given: Given) -> Any:
    """Head-mean attention of the words to the visual tokens."""
    return given.seen.maps[AT - 1].mean(0)[given.seen.text][:, given.seen.visual]


@pytest.mark.parametrize("name", ["llava", "reference"])
@pytest.mark.parametrize(("rule", "params", "formula"), RULES, ids=[f"{r[0]}-{i}" for i, r in enumerate(RULES)])
def test_counts_that_the_sample_decides(
    name: str, rule: str, params: dict[str, Any], formula: Callable[[Given], int]
) -> None:
    pick = ResolvedPick(Part(*CLS), Part("top"))
    keep = Keep("rule", Fraction(1), Part(rule, params))
    for number, found in enumerate(kept(name, 1, ResolvedStage("llm", AT, keep, (pick,), Part("drop")))):
        given = Given(name, number, 1)
        count = formula(given)
        assert found == top(given.cls, count if rule == "gate" else max(1, count))
