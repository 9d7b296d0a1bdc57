"""Whole methods: the tokens that a document of the catalog keeps, against the sheets' formulas put together.

Every stage is checked: the oracle runs the untouched model with the keys of what is gone masked out. Geometry of the
papers (32 layers, 24 blocks, random weights) and the reference model (8 layers, 5 blocks, trained).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracle_towers import Tower, tower
from oracle_worlds import Seen, array, world
from oracles import attention, intrinsic, selection, similarity, walks
from oracles.basics import min_max, ranking, softmax, top

from autoprune.document.yaml import read
from autoprune.models.family import geometry_of
from autoprune.policy import catalog
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session

PARTS = RegisteredParts()


@dataclass(frozen=True)
class Now:
    """One sample before a stage: `alive` are the numbers of its visual tokens that are still there, `k` of which stay;
    `layer` is the stage's. `seen` ran without the others, `tower` is that of the picture."""

    seen: Seen
    tower: Tower
    alive: list[int]
    k: int
    layer: int
    depth: int

    @property
    def columns(self) -> list[int]:
        return [self.seen.visual[i] for i in self.alive]

    @property
    def everything(self) -> list[int]:
        """All columns that are still there."""
        gone = set(self.seen.visual) - set(self.columns)
        return [c for c in self.seen.all if c not in gone]

    def best(self, scores: Sequence[float]) -> list[int]:
        return [self.alive[p] for p in top(scores, self.k)]

    def encoder(self, formula: Callable[[Any], list[float]], block: int = -2) -> list[float]:
        values = self.tower.visual([formula(piece.map) for piece in self.tower.blocks[block]])
        return [values[i] for i in self.alive]

    def projected(self) -> Any:
        return self.seen.states(0, self.columns)


Oracle = Callable[[Now], list[int]]


def cls(now: Now) -> list[float]:
    return now.encoder(attention.fastervlm)


def fopru(now: Now) -> list[float]:
    return now.encoder(lambda a: attention.fopru(a, True))


def vtc_cls(now: Now) -> list[int]:
    blocks = len(now.tower.blocks)
    rows = [now.encoder(attention.fastervlm, block) for block in range(blocks - 1)]
    return now.best(walks.layers_together(rows, "sum"))


def raters(now: Now) -> list[int]:
    """Computed once, from all visual tokens (sheet A4)."""
    words = attention.sparsevlm_raters(now.seen.states(0, now.seen.visual), now.seen.states(0, now.seen.text))
    return [now.seen.text[w] for w in words]


def gravity(now: Now) -> Any:
    """All-ones queries and keys under RoPE (theta 10000), softmaxed over what is still there."""
    width = now.seen.queries[0].shape[2]
    turns = [10000 ** (-2 * i / width) for i in range(width // 2)]
    found = now.seen.maps[0] * 0 + 1.0
    for q in now.seen.text:
        there = [c for c in now.everything if c <= q]
        row = softmax([sum(2 * math.cos((q - c) * t) for t in turns) / math.sqrt(width) for c in there])
        for c, share in zip(there, row, strict=True):
            found[:, q, c] = share
    return found


def sparsevlm_v2(now: Now) -> list[int]:
    seen = now.seen.maps[now.layer - 1]
    return now.best(attention.sparsevlm_v2(seen, now.columns, raters(now), gravity(now)))


def adaptinfer(now: Now) -> list[int]:
    return now.best(attention.adaptinfer(now.seen.maps[now.layer - 1], now.columns, now.seen.text))


def transprune(now: Now) -> list[int]:
    """Each layer's sum runs over the tokens that this layer still had."""
    moved = [0.0] * len(now.columns)
    for layer in range(math.floor(3 / 16 * now.depth + 0.5), now.layer):
        there = [c for c in now.seen.all if not any(c in gone for at, gone in now.seen.gone.items() if at <= layer)]
        modules = [(x[there], y[there]) for x, y in now.seen.modules[layer]]
        ttv = attention.transprune_ttv(modules, [there.index(c) for c in now.columns])
        moved = [a + b for a, b in zip(moved, ttv, strict=True)]
    looked = attention.sparsevlm(now.seen.maps[now.layer], now.columns, now.seen.text)
    return now.best(attention.transprune(moved, looked))


def zoo(now: Now) -> list[int]:
    projector = now.seen.made.model.multi_modal_projector
    w1, b1, w2 = (array(t) for t in (projector.linear_1.weight, projector.linear_1.bias, projector.linear_2.weight))
    scores = intrinsic.zoo_closed_form(now.seen.projector_input, w1, b1, w2)
    return selection.zoo(scores, now.projected(), now.k)


def cdpruner(now: Now) -> list[int]:
    """Relevance on (0, 1] by the cosine to the mean word."""
    mean_word = now.seen.states(0, now.seen.text).mean(0)
    relevance = [max(r, 1e-6) for r in min_max(similarity.greedyprune_saliency(now.projected(), mean_word))]
    return selection.dpp(selection.dpp_kernel(now.projected(), relevance), now.k)


def greedy_prune(now: Now) -> list[int]:
    hidden = now.seen.hidden[now.layer]
    saliency = similarity.greedyprune_saliency(hidden[now.columns], hidden[-1])
    return selection.greedyprune_forced(saliency, hidden[now.columns], now.k)


def dart(now: Now) -> list[int]:
    """Pivots by the L1 norm of the previous layer's cached keys; likeness of hidden states under the last norm."""
    lengths = intrinsic.head_norms(now.seen.cached[now.layer - 1], 1)
    with torch.no_grad():
        hidden = torch.tensor(now.seen.hidden[now.layer], dtype=torch.float32)
        rows = array(now.seen.made.model.language_model.norm(hidden))
    words = [now.seen.text[p] for p in ranking([lengths[t] for t in now.seen.text])[:4]]
    chosen = selection.dart_shares(rows[now.columns], [lengths[c] for c in now.columns], now.k, 4, rows[words])
    return by_place(now, chosen)


def last_row(layer: int) -> Oracle:
    return lambda now: now.best(attention.fastv(now.seen.maps[now.layer + layer], now.columns))


def by_place(now: Now, picks: Sequence[int]) -> list[int]:
    return [now.alive[p] for p in picks]


def half_up(share: float, total: int) -> int:
    return math.floor(share * total + 0.5 + 1e-9)


def union(k: int, *ordered: Sequence[int]) -> list[int]:
    """Sets put together in this order, each by its own, until there are k."""
    found: list[int] = []
    for one in ordered:
        found += [i for i in one if i not in found][: k - len(found)]
    return found


def unrotated(now: Now) -> list[float]:
    seen = now.seen
    return attention.feather(seen.queries[now.layer - 1], seen.keys[now.layer - 1], now.columns)


def feather(now: Now) -> list[int]:
    """The best 27/37 of the count with a grid of every third row and column, filled up by the same score."""
    side, order = math.isqrt(len(now.alive)), ranking(unrotated(now))
    grid = [i for i in range(side * side) if i // side % 3 == 0 and i % side % 3 == 0]
    assert len(grid) == half_up(10 / 37, now.k)
    return by_place(now, union(now.k, order[: half_up(27 / 37, now.k)], grid, order))


def early_first(now: Now, count: int, factor: float) -> list[int]:
    """BTP: of the best factor · count, those before position K first; by score, not sorted."""
    scores = attention.fastv(now.seen.maps[now.layer - 1], now.columns)
    pool = ranking(scores)[: int(factor * count + 1e-9)]
    chosen = ([i for i in pool if i < now.k] + [i for i in pool if i >= now.k])[:count]
    return sorted(chosen, key=lambda i: (-scores[i], i))


def btp(diverse: float, attended: float, factor: float, spread: float) -> Oracle:
    def kept(now: Now) -> list[int]:
        rows = now.seen.hidden[now.layer][now.columns]
        side = math.isqrt(len(now.alive))
        apart = selection.divprune(rows, half_up(diverse, now.k))
        even = selection.lattice(side, side, half_up(spread, now.k)) if spread else []
        together = union(now.k, apart, early_first(now, half_up(attended, now.k), factor), even)
        return by_place(now, union(now.k, together, selection.farthest(rows, together, now.k)))

    return kept


def hiprune(now: Now) -> list[int]:
    middle = math.floor(len(now.tower.blocks) / 3 + 0.5)
    early = now.encoder(lambda a: attention.hiprune(a, True), middle)
    deep = now.encoder(lambda a: attention.hiprune(a, True))
    return selection.hiprune(early, deep, math.isqrt(len(now.alive)), now.k)


def ptp(now: Now) -> list[int]:
    """One tile has the whole budget."""
    words = attention.ptp_instruction(now.seen.maps[now.layer], now.columns, now.seen.text)
    return now.best(attention.ptp(fopru(now), words))


def pooling(now: Now) -> list[int]:
    """Squares of 2 x 2: the middle one, rounded down to the right, stands for its square."""
    side = math.isqrt(len(now.alive))
    return [i for i in range(side * side) if i // side % 2 == 1 and i % side % 2 == 1]


METHODS: dict[str, list[Oracle]] = {
    "hired": [lambda now: now.best(now.encoder(attention.hired))],
    "hiprune": [hiprune],
    "feather": [feather, lambda now: now.best(unrotated(now))],
    "btp": [
        btp(0.3, 0.3, 3.7, 0.5),
        btp(0.1, 0.9, 1.5, 0),
        lambda now: by_place(now, early_first(now, now.k, 1.2)),
        lambda now: [],
    ],
    "ptp": [ptp],
    "pooling": [pooling],
    "fastv": [last_row(-1)],
    "pyramiddrop": [last_row(0)] * 3,
    "adaptinfer": [adaptinfer] * 3,
    "sparsevlm_v2": [sparsevlm_v2] * 3,
    "transprune": [transprune] * 3,
    "fastervlm": [lambda now: now.best(cls(now))],
    "vtc_cls": [vtc_cls],
    "fopru_rank": [lambda now: now.best(fopru(now))],
    "fopru_row": [lambda now: attention.fopru_row(fopru(now), math.isqrt(len(now.alive)), now.k)],
    "star": [
        lambda now: now.best(fopru(now)),
        lambda now: now.best(walks.one_hop(now.seen.maps[now.layer - 1], now.seen.text, now.columns)),
    ],
    "divprune": [lambda now: selection.divprune(now.projected(), now.k)],
    "g_prune": [lambda now: now.best(similarity.g_prune(now.projected()))],
    "vispruner": [lambda now: selection.vispruner(now.seen.projector_input, cls(now), now.k)],
    "zoo_prune": [zoo],
    "cdpruner": [cdpruner],
    "greedy_prune": [greedy_prune],
    "dart": [dart],
}
HEAVY = ("g_prune", "cdpruner", "zoo_prune", "vispruner", "divprune", "greedy_prune")  # loops over all pairs
TOO_SHALLOW = ("transprune",)  # in eight layers two sites are one: both run, but a run records what is kept after both


def check(world_name: str, name: str, seed: int, samples: int) -> None:
    place = world(world_name, seed)
    policy = Policy.from_source(read(catalog.find("policies", name)), PARTS)
    geometry = geometry_of(place.made.config.to_dict())
    resolved = resolve(policy, geometry, PARTS, geometry.tokens_per_image)
    with Session(place.made, resolved) as session, torch.no_grad():
        place.made(**place.counted(), use_cache=False)
        run = session.run
    assert len(resolved.stages) == len(METHODS[name])
    for number in range(min(samples, len(place.singles))):
        gone: dict[int, list[int]] = {}
        visual = Seen(place, number).visual
        alive = list(range(len(visual)))
        for stage, oracle in zip(resolved.stages, METHODS[name], strict=True):
            found = run.kept(stage.layer, number)
            before = Seen(place, number, gone)
            now = Now(before, tower(world_name, number, seed), alive, len(found), stage.layer, resolved.depth)
            assert sorted(oracle(now)) == found
            gone[stage.layer] = [visual[i] for i in alive if i not in found]
            assert len(found) < len(alive)
            alive = found


@pytest.mark.parametrize("name", sorted(METHODS))
def test_published_methods(name: str) -> None:
    check("deep", name, 1, 2)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {*HEAVY, *TOO_SHALLOW}))
def test_published_methods_on_the_reference_model(name: str) -> None:
    check("reference", name, 1, 1)


@pytest.mark.full
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("place", ["deep", "reference"])
def test_published_methods_on_other_pictures(place: str, name: str, seed: int) -> None:
    if place == "deep" or name not in TOO_SHALLOW:
        check(place, name, seed, 3)


def test_todre_begins_on_the_overview() -> None:
    """Sheet C2: with the thumbnail's token that the class token looks at most, wherever it looks in the tiles."""
    place, on_tiles = world("llava_next"), False
    document = Policy.from_source(read(catalog.find("policies", "todre")), PARTS).dump()
    for number in range(2):
        pieces = tower("llava_next", number).blocks[-2]
        looked = tower("llava_next", number).visual([attention.fastervlm(piece.map) for piece in pieces])
        newlines = [i for i, value in enumerate(looked) if value == 0]
        document["stages"] = [{**document["stages"][0], "keep": {"tokens": len(newlines) + 1}}]
        resolved = resolve(Policy.parse(document, PARTS), geometry_of(place.made.config.to_dict()), PARTS)
        with Session(place.made, resolved) as session, torch.no_grad():
            place.made(**place.singles[number], use_cache=False)
            assert session.run.kept(0, 0) == [ranking(looked[:36])[0], *newlines]
        on_tiles = on_tiles or ranking(looked)[0] >= 36
    assert on_tiles
