"""Scores read from the vision tower against the sheets' formulas, on towers with and without a class token.

Trained weights: the reference model. The engine sees a padded batch under SDPA, the oracle each sample alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from llm_reference import captured
from oracle_towers import CLASSLESS, Piece, Tower, tower
from oracle_worlds import array, world, worst
from oracles import attention as oracle
from oracles import intrinsic, walks
from pruning_support import stage

from autoprune.policy.resolved import ResolvedPolicy

Formula = Callable[[Sequence[Piece], bool], list[float]]
"""Values of the patches (no class token) from the pieces of the blocks that are read."""


def on_map(formula: Callable[[Any, bool], list[float]]) -> Formula:
    return lambda pieces, cls: formula(pieces[0].map, cls)


def patches(one: Piece, cls: bool) -> range:
    return range(int(cls), one.map.shape[1])


def over(how: str, row: Callable[[Any, bool], list[float]]) -> Formula:
    return lambda pieces, cls: walks.layers_together([row(p.map, cls) for p in pieces], how)


def ends(hops: int, heads: str) -> Formula:
    def formula(pieces: Sequence[Piece], cls: bool) -> list[float]:
        nodes = range(pieces[0].map.shape[1])
        rows = walks.several_hops(pieces[0].map, hops, nodes)
        return walks.heads_together([row[int(cls) :] for row in rows], heads)

    return formula


def tempered(pieces: Sequence[Piece], cls: bool) -> list[float]:
    sharp = [walks.tempered(head[0], 0.5)[1:] for head in pieces[0].map]
    return walks.heads_together(sharp)


def joined(pieces: Sequence[Piece], cls: bool) -> list[float]:
    q, k = (np.concatenate(list(x), axis=1) for x in (pieces[0].query, pieces[0].key))
    return oracle.prumerge(q, k)


def cls_row(heads: str) -> Formula:
    return lambda pieces, cls: walks.one_hop(pieces[0].map, [0], patches(pieces[0], cls), heads)


Case = tuple[str, dict[str, Any], tuple[int, ...], Formula]
WITH_CLASS: list[Case] = [
    ("fastervlm", {"layer": -2}, (-2,), on_map(lambda a, _: oracle.fastervlm(a))),
    ("hired", {"layer": 0, "heads": "sum"}, (0,), on_map(lambda a, _: oracle.hired(a))),
    ("vtc_cls", {"layers": [0, -1]}, (0, 1, -1), lambda p, _: oracle.vtc_cls([x.map for x in p])),
    ("prumerge", {"layer": -1, "heads": "joined"}, (-1,), joined),
    ("temperature", {"temperature": 0.5}, (-2,), tempered),
    *((f"class row, {how}", {"heads": how}, (-2,), cls_row(how)) for how in ("max", "rms", "top_half")),
    ("ema", {"layers": [0, -1], "over": "ema"}, (0, 1, -1), over("ema", lambda a, _: oracle.fastervlm(a))),
]
ANY: list[Case] = [
    ("hiprune", {"layer": 1, "from": "all"}, (1,), on_map(oracle.hiprune)),
    ("fopru", {"from": "all"}, (-2,), on_map(oracle.fopru)),
    (
        "patches",
        {"from": "patches"},
        (-2,),
        lambda p, cls: walks.one_hop(p[0].map, patches(p[0], cls), patches(p[0], cls)),
    ),
    *(
        (
            f"vflowopt, {t}",
            {"from": "patches", "hops": 2, "gate": t},
            (-2,),
            on_map(partial(oracle.vflowopt, t=t)),
        )
        for t in (0.8, 1.1, 30)
    ),
    (
        "mean query",
        {"from": "query"},
        (-2,),
        lambda p, cls: walks.mean_query(p[0].query, p[0].key)[int(cls) :],
    ),
    *(
        (f"{hops} hops, {how}", {"from": "all", "hops": hops, "heads": how}, (-2,), ends(hops, how))
        for hops, how in ((2, "mean"), (5, "rms"))
    ),
    ("all, max", {"from": "all", "heads": "max"}, (-2,), ends(1, "max")),
    ("all, sum of blocks", {"from": "all", "layers": [0, 1]}, (0, 1), over("sum", oracle.hiprune)),
]
PLAIN = ["llava", "reference"]
MORE = ["llava_next", "internvl", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
FEW = ("fastervlm", "hiprune", "vflowopt, 1.1", "mean query")


def cases(names: Sequence[str], chosen: Sequence[str] | None = None) -> list[Any]:
    """Every case that a tower has the tokens for."""
    found = []
    for name in names:
        for case in ANY if name in CLASSLESS else WITH_CLASS + ANY:
            windows = name == "qwen2_5_vl" and len(case[2]) > 1  # its blocks do not have the same pieces
            if not windows and (chosen is None or case[0] in chosen):
                found.append(pytest.param(name, case, id=f"{name}-{case[0]}"))
    return found


def expected(sample: Tower, case: Case, blocks: Sequence[int]) -> list[float]:
    pieces = zip(*(sample.blocks[b] for b in blocks), strict=True)
    return sample.visual([case[3](one, sample.has_cls) for one in pieces])


def check(name: str, case: Case, seed: int) -> None:
    place = world(name, seed)
    depth = len(place.plain.model.language_model.layers)
    resolved = ResolvedPolicy((stage(2, "1/2", ("encoder_attention", case[1])),), depth)
    for number, row in enumerate(captured(place.made, place.batch, resolved)):
        sample = tower(name, number, seed)
        first, last = case[2][0], case[2][-1] % len(sample.blocks)
        blocks = range(first, last + 1) if len(case[2]) > 1 else case[2]
        assert worst(row, expected(sample, case, blocks)) <= 1e-5


@pytest.mark.parametrize(("name", "case"), cases(PLAIN) + cases(MORE, FEW))
def test_scores(name: str, case: Case) -> None:
    check(name, case, 1)


@pytest.mark.parametrize("name", ["fopru", "vflowopt, 0.8", "mean query"])
def test_a_window_holds_its_share_of_the_picture(name: str) -> None:
    """Qwen2.5-VL's first block: attention of other windows is 0, so a window's tokens share what its queries hold.

    Else the tokens of small windows at the edge would look important (trap 4: such blocks are not for this anyway).
    """
    (case,) = (c for c in ANY if c[0] == name)
    place = world("qwen2_5_vl")
    score = ("encoder_attention", {**case[1], "layer": 0})
    found = captured(place.made, place.batch, ResolvedPolicy((stage(2, "1/2", score),), 6))
    for number, row in enumerate(found):
        sample = tower("qwen2_5_vl", number)
        pieces = sample.blocks[0]
        patches_of_all = sum(len(p.map[0]) for p in pieces)
        rows = [[v * len(p.map[0]) / patches_of_all for v in case[3]([p], False)] for p in pieces]
        assert worst(row, sample.visual(rows)) <= 1e-5
    assert any(len({len(p.map[0]) for p in tower("qwen2_5_vl", n).blocks[0]}) > 1 for n in range(3))


def test_heads_of_odd_variance_are_left_out() -> None:
    """Zero-TPrune's filter: with this bound one of the two heads counts in some pictures, in others both or none."""
    params = {"from": "all", "hops": 3, "heads": "rms", "head_variance": [0, 9.5]}

    def formula(pieces: Sequence[Piece], cls: bool) -> list[float]:
        n = pieces[0].map.shape[1]
        return [s / n for s in oracle.zero_tprune(pieces[0].map, 3, cls, (0, 9.5))]

    check("gemma3", ("", params, (-2,), formula), 1)
    pieces = [p for n in range(2) for p in tower("gemma3", n).blocks[-2]]
    assert any(formula([p], False) != pytest.approx(ends(3, "rms")([p], False)) for p in pieces)


@pytest.mark.parametrize("name", ["llava", "reference"])
def test_a_walk_from_the_length_of_features(name: str) -> None:
    """Factoring 2.1, start `norm`: the patches begin with mass in proportion to what enters the block."""
    place = world(name)
    caught: list[Any] = []
    blocks = place.plain.model.vision_tower.encoder.layers
    handle = blocks[1].register_forward_pre_hook(lambda m, a: caught.extend(array(x) for x in a[0]))
    samples = [tower(name, n) for n in range(len(place.singles))]
    for one in place.singles:
        with torch.no_grad():
            place.plain(**one, use_cache=False)
    handle.remove()
    depth = len(place.plain.model.language_model.layers)
    score = ("encoder_attention", {"layer": 1, "from": "norm"})
    found = captured(place.made, place.batch, ResolvedPolicy((stage(2, "1/2", score),), depth))
    for row, sample in zip(found, samples, strict=True):
        expected = []
        for piece in sample.blocks[1]:
            length = intrinsic.norms(caught.pop(0), 2)[1:]
            start = [0.0, *(v / sum(length) for v in length)]
            heads = [
                [sum(m * float(a[q, j]) for q, m in enumerate(start)) for j in range(1, len(a))] for a in piece.map
            ]
            expected.append(walks.heads_together(heads))
        assert worst(row, sample.visual(expected)) <= 1e-5


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("name", "case"), cases(PLAIN + MORE))
def test_scores_of_every_tower(name: str, case: Case, seed: int) -> None:
    check(name, case, seed)
