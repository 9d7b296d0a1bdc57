"""Scores read from the language model against the sheets' formulas: several families, random and trained weights.

The engine sees a padded batch under SDPA; the oracle sees each sample alone, eager, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llm_reference import captured
from oracle_worlds import Seen, seen, shares, world, worst
from oracles import attention as oracle
from oracles import intrinsic, similarity, walks
from oracles.basics import softmax
from pruning_support import stage

from autoprune.policy.resolved import ResolvedPolicy

AT = 3  # the stage's layer; `prev` is the one before it
WORLDS = ["llava", "reference"]
MORE = ["llava_next", "llava_onevision", "internvl_qwen3", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
Oracle = Callable[[Seen], list[float]]


def llm(**params: Any) -> tuple[str, dict[str, Any]]:
    return "llm_attention", params


def raters(sample: Seen) -> list[int]:
    chosen = oracle.sparsevlm_raters(sample.states(0, sample.visual), sample.states(0, sample.text))
    return [sample.text[t] for t in chosen]


def among_visual(sample: Seen, layer: int) -> Any:
    return sample.maps[layer][:, sample.visual][:, :, sample.visual]


def walked(sample: Seen, hops: int, temperature: float) -> list[float]:
    """AIM's walk from the library's own maps, whatever they mask: p^(1/T) is the softmax at temperature T."""
    sharp = sample.maps[AT - 1].copy()
    for head in sharp:
        for q in sample.all:
            head[q] = walks.tempered(head[q], temperature)
    together = walks.heads_together(walks.several_hops(sharp, hops, sample.all), "rms")
    return [together[i] for i in sample.visual]


def gravity(sample: Seen) -> Any:
    """Attention of all-ones queries and keys under RoPE (theta 10000): only how far two tokens are apart counts."""
    heads, n, width = sample.queries[AT - 1].shape
    turns = [10000 ** (-2 * i / width) for i in range(width // 2)]
    near = [sum(2 * math.cos(apart * turn) for turn in turns) / math.sqrt(width) for apart in range(n)]
    rows = [softmax([near[q - k] for k in range(q + 1)]) + [1.0] * (n - q - 1) for q in range(n)]
    return np.array([rows] * heads)


def pooled(sample: Seen) -> list[float]:
    """The row of the words' mean query over all that stands before the answer."""
    row = walks.mean_query(sample.queries[AT - 1][:, sample.text], sample.keys[AT - 1])
    return [row[i] for i in sample.visual]


def transitions(sample: Seen) -> list[float]:
    modules = [module for layer in range(AT) for module in sample.modules[layer]]
    return oracle.transprune_ttv(modules, sample.visual)


CASES: list[tuple[str, tuple[str, dict[str, Any]], Oracle]] = [
    ("fastv", llm(), lambda s: oracle.fastv(s.maps[AT - 1], s.visual)),
    ("own layer", llm(layer="own"), lambda s: oracle.fastv(s.maps[AT], s.visual)),
    ("first layer", llm(layer=0), lambda s: oracle.fastv(s.maps[0], s.visual)),
    *(
        (f"last, {how}", llm(heads=how), lambda s, how=how: walks.one_hop(s.maps[AT - 1], s.text[-1:], s.visual, how))
        for how in ("sum", "max", "rms", "top_half")
    ),
    *(
        (
            f"text, {how}",
            llm(**{"from": "text", "heads": how}),
            lambda s, how=how: walks.one_hop(s.maps[AT - 1], s.text, s.visual, how),
        )
        for how in ("mean", "sum", "rms", "top_half")
    ),
    ("raters", llm(**{"from": "raters"}), lambda s: oracle.sparsevlm(s.maps[AT - 1], s.visual, raters(s))),
    (
        "raters, best heads",
        llm(**{"from": "raters", "heads": "top_half"}),
        lambda s: oracle.sparsevlm_v2(s.maps[AT - 1], s.visual, raters(s)),
    ),
    (
        "raters, best heads, over the rotary embedding",
        llm(**{"from": "raters", "heads": "top_half", "over_rope": True}),
        lambda s: oracle.sparsevlm_v2(s.maps[AT - 1], s.visual, raters(s), gravity(s)),
    ),
    (
        "rise",
        llm(layer="own", rise=True),
        lambda s: walks.layers_together(
            [oracle.fastv(s.maps[layer], s.visual) for layer in (AT - 1, AT)], "difference"
        ),
    ),
    (
        "adaptinfer",
        llm(**{"from": "text", "hops": 2, "symmetrise": True, "heads": "sum"}),
        lambda s: [v / len(s.text) for v in oracle.adaptinfer(s.maps[AT - 1], s.visual, s.text)],
    ),
    (
        "feather",
        llm(rope=False, over_keys="vision"),
        lambda s: oracle.feather(s.queries[AT - 1], s.keys[AT - 1], s.visual),
    ),
    ("all", llm(**{"from": "all"}), lambda s: walks.one_hop(s.maps[AT - 1], s.all, s.visual)),
    ("vision", llm(**{"from": "vision"}), lambda s: walks.one_hop(s.maps[AT - 1], s.visual, s.visual)),
    (
        "query",
        llm(**{"from": "query", "over_keys": "vision"}),
        lambda s: walks.mean_query_seen(s.maps[AT - 1], s.text, s.visual),
    ),
    ("query, no rotary embedding", llm(**{"from": "query", "rope": False}), pooled),
    (
        "norm",
        llm(**{"from": "norm", "layer": "own"}),
        lambda s: walks.by_length(s.maps[AT], s.states(AT, s.visual), s.visual),
    ),
    (
        "norm, the layer before",
        llm(**{"from": "norm"}),
        lambda s: walks.by_length(s.maps[AT - 1], s.states(AT - 1, s.visual), s.visual),
    ),
    (
        "vision, gated",
        llm(**{"from": "vision", "hops": 2, "gate": 1.2}),
        lambda s: oracle.vflowopt(among_visual(s, AT - 1), False, 1.2),
    ),
    (
        "all, 3 hops, rms, temperature",
        llm(**{"from": "all", "hops": 3, "heads": "rms", "temperature": 0.5}),
        lambda s: walked(s, 3, 0.5),
    ),
    *(
        (
            f"layers, {over}",
            llm(layers=[0, "own"], over=over),
            lambda s, over=over: walks.layers_together(
                [
                    oracle.fastv(s.maps[layer], s.visual)
                    for layer in ((0, AT) if over == "difference" else range(AT + 1))
                ],
                over,
            ),
        )
        for over in ("sum", "ema", "difference")
    ),
    ("transitions", ("token_transition", {"layers": [0, "prev"]}), transitions),
    *(
        (
            f"keys, {order}",
            ("feature_norm", {"space": "keys", "order": order}),
            lambda s, p=p: [intrinsic.head_norms(s.cached[AT - 1], p)[i] for i in s.visual],
        )
        for order, p in (("l1", 1), ("l2", 2))
    ),
    (
        "hidden, l1",
        ("feature_norm", {"space": "hidden", "order": "l1"}),
        lambda s: intrinsic.norms(s.states(AT, s.visual), 1),
    ),
    ("projected", ("feature_norm", {}), lambda s: intrinsic.norms(s.states(0, s.visual), 2)),
    (
        "last word",
        ("similarity", {"space": "hidden", "from": "last"}),
        lambda s: similarity.greedyprune_saliency(s.states(AT, s.visual), s.hidden[AT][-1]),
    ),
    (
        "mean word",
        ("similarity", {"from": "text_mean"}),
        lambda s: similarity.greedyprune_saliency(s.states(0, s.visual), s.states(0, s.text).mean(0)),
    ),
]


def check(name: str, criterion: tuple[str, dict[str, Any]], formula: Oracle, seed: int, tolerance: float) -> None:
    place = world(name, seed)
    resolved = ResolvedPolicy((stage(AT, "1/2", criterion),), len(place.plain.model.language_model.layers))
    found = captured(place.made, place.counted(), resolved)
    for number, row in enumerate(found):
        assert worst(row, formula(seen(name, number, seed))) <= tolerance


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize(("criterion", "formula"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_scores(name: str, criterion: tuple[str, dict[str, Any]], formula: Oracle) -> None:
    check(name, criterion, formula, 1, 2e-5)


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", WORLDS + MORE)
@pytest.mark.parametrize(("criterion", "formula"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_scores_of_every_family(name: str, seed: int, criterion: tuple[str, dict[str, Any]], formula: Oracle) -> None:
    if name == "gemma3" and ("rope" in criterion[1] or "over_rope" in criterion[1]):
        return  # refused: its layers differ in their rotary embeddings
    if name == "gemma3" and criterion[1].get("from") == "query":
        return  # behind a window not all words see all that the last one sees
    if name.startswith("qwen") and "over_rope" in criterion[1]:
        return  # positions on several axes
    check(name, criterion, formula, seed, 2e-5)


@pytest.mark.parametrize("name", ["llava"])
def test_aim(name: str) -> None:
    """Five hops at temperature .1, from the logits: the oracle masks by itself."""

    def formula(sample: Seen) -> list[float]:
        with np.errstate(divide="ignore"):
            logits = np.log(sample.maps[AT - 1])
        return oracle.aim(logits, sample.visual)

    params = {"from": "all", "hops": 5, "heads": "rms", "temperature": 0.1}
    check(name, ("llm_attention", params), formula, 1, 1e-4)


@pytest.mark.parametrize("name", ["llava", "reference"])
def test_g_prune(name: str) -> None:
    graph = {"kernel": "softmax", "temperature": 0.03, "clip": 0.5, "from": "norm", "hops": 5, "by_degree": True}
    place = world(name)
    resolved = ResolvedPolicy((stage(0, "1/2", ("similarity", graph)),), len(place.plain.model.language_model.layers))
    for number, row in enumerate(captured(place.made, place.batch, resolved)[:1]):
        sample = seen(name, number)
        expected = similarity.g_prune(sample.states(0, sample.visual))
        assert worst(shares(row), shares(expected)) <= 1e-4  # the start's scale changes no order


def test_raters_are_some_of_the_words() -> None:
    """Else the cases above could not tell raters from text."""
    for name in WORLDS:
        assert any(len(raters(s)) < len(s.text) for s in (seen(name, n) for n in range(2)))
