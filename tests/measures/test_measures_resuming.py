"""Passes that go on where earlier ones were give what passes through the whole model give."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from resuming_support import ALL, LAYERS, WHERE, apart, batch, cached, loaded, naive, published, resuming, shuffled
from tiny_families import TINY

from autoprune.measures.passes import run
from autoprune.measures.resuming import Parts
from autoprune.policy.canonical import to_json
from autoprune.policy.guard import Rule
from autoprune.policy.prefix import prefix_digest, prefix_key
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.pruning.replay import Replay
from autoprune.pruning.session import Session
from autoprune.pruning.snapshot import Snapshot

CLOSE = 1e-5
FAMILIES = tuple(TINY)


def stage(
    layer: int, keep: str, score: Part, merge: str = "drop", kind: Any = "fraction", **more: Any
) -> ResolvedStage:
    return ResolvedStage(
        "llm", layer, Keep(kind, Fraction(keep)), (ResolvedPick(score, Part("top")),), Part(merge), **more
    )


def policy(*stages: ResolvedStage, guard: tuple[Rule, ...] = ()) -> ResolvedPolicy:
    return ResolvedPolicy(stages, LAYERS, guard)


PREV = Part("llm_attention", {"layer": "prev", "from": "text"})
OWN = Part("llm_attention", {"layer": "own", "from": "last"})
FIRST = Part("llm_attention", {"layer": 1, "from": "text"})
ENCODER = Part("feature_norm", {"space": "encoder"})
RANDOM = Part("random", {"seed": 3})
NEAREST = stage(0, "3/4", ENCODER, "nearest")
UNPRUNED = policy()
LIST = (
    UNPRUNED,
    policy(stage(3, "1/2", PREV)),
    policy(stage(3, "1/3", PREV), stage(5, "1/2", OWN, kind="of_current")),
    policy(stage(3, "1/2", PREV), stage(5, "1/4", FIRST)),
    policy(stage(3, "1/2", PREV), stage(4, "1/4", PREV, "nearest"), stage(5, "1/8", FIRST)),
    policy(NEAREST, stage(2, "1/2", OWN)),
    policy(NEAREST, stage(2, "1/2", OWN), stage(4, "0", RANDOM)),
    policy(NEAREST, stage(4, "1/2", Part("feature_norm", {"space": "keys"}), "nearest", attend="mass")),
    policy(stage(1, "1/2", RANDOM, "park"), stage(3, "2/3", PREV, restore="scattered"), stage(5, "1/3", PREV)),
    policy(stage(1, "1/2", RANDOM, "park"), stage(3, "2/3", PREV, restore="scattered"), stage(5, "1/4", OWN)),
    policy(stage(3, "1/2", PREV), stage(5, "1/4", FIRST), guard=(Rule("tokens_below", Fraction(60)),)),
    policy(
        stage(3, "1/2", PREV),
        stage(5, "1/4", FIRST),
        guard=(Rule("entropy_above", Fraction(9, 10), use=Fraction(4, 5)), Rule("tokens_below", Fraction(20))),
    ),
)


def run_through(name: str, policies: Any, times: int = 2, kind: str = "odd", **options: Any) -> Any:
    """All in shuffled order over one cache; every one must agree with the run that no cache helped."""
    at = resuming(name, **options)
    for one in shuffled(policies, times):
        gap = apart(cached(name, at, one, kind), naive(name, one, kind))
        assert gap <= CLOSE, f"{gap} apart: {to_json(one)}"
    return at


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pass_that_goes_on_is_the_whole_pass(name: str) -> None:
    at = run_through(name, LIST)
    assert at.cache.stats.hits > at.cache.stats.misses
    assert at.cache.stats.layers > at.cache.stats.of_layers / 3


def test_merging_before_the_projector_is_another_beginning() -> None:
    """So is a walk by what enters its layer, wherever a pass goes on."""
    before = replace(NEAREST, merge_on="encoder")
    norm, query = (Part("llm_attention", {"layer": "prev", "from": start}) for start in ("norm", "query"))
    starts = [policy(one, stage(3, "1/2", score)) for one in (NEAREST, before) for score in (PREV, norm, query)]
    own = Part("llm_attention", {"layer": "own", "from": "norm"})
    at = run_through("llava_next", [*starts, policy(before, stage(3, "1/2", norm), stage(5, "1/4", own))])
    assert at.cache.stats.hits > at.cache.stats.misses


@pytest.mark.parametrize("parts", [Parts(resume=False), Parts(images=False), Parts(trie=False), Parts(last=False)])
def test_each_part_alone_changes_nothing(parts: Parts) -> None:
    at = run_through("llava_next", LIST, times=1, parts=parts)
    assert (at.cache.stats.hits == 0) == (not parts.resume)


def test_every_row_of_the_last_layer_is_there_where_a_measure_reads_all_text() -> None:
    assert not run_through("llava_next", LIST[:5], states=ALL)._trims
    assert run_through("llava_next", LIST[:5])._trims


def test_the_catalog_over_one_cache() -> None:
    """Adaptive counts, shared budgets, restored tokens, proportional attention and all the rest."""
    policies = dict(published("llava"))
    assert len(policies) >= 25
    at = run_through("llava", [UNPRUNED, *policies.values()])
    assert at.cache.stats.hits > len(policies) / 2  # the others all prune before the language model


@pytest.mark.full
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["odd", "ragged"])
def test_the_catalog_on_every_family(name: str, kind: str) -> None:
    policies = dict(published(name))
    assert len(policies) >= 15
    run_through(name, [UNPRUNED, *policies.values()], times=3, kind=kind)


def test_a_longer_prefix_saves_more_layers() -> None:
    at = resuming("llava")
    done = at.cache.stats
    first, second = (policy(stage(2, "1/2", PREV), stage(4, keep, PREV)) for keep in ("1/4", "1/8"))
    for one, layers in ((first, 0), (second, 4), (policy(stage(2, "1/3", PREV)), 2), (policy(stage(2, "1/3", OWN)), 2)):
        before = done.layers
        cached("llava", at, one)
        assert done.layers - before == layers


def test_a_signal_that_no_snapshot_holds_is_fetched_one_layer_earlier() -> None:
    at = resuming("llava")
    cached("llava", at, UNPRUNED)
    for expected in (3, 4):  # the first reads the layer before its own; the snapshot it leaves holds what it read
        before = at.cache.stats.layers
        cached("llava", at, policy(stage(4, "1/2", PREV)))
        assert at.cache.stats.layers - before == expected


def test_the_tower_runs_once_for_all_policies_that_want_the_same() -> None:
    made, runs = loaded("llava").model, []
    handle = made.model.vision_tower.register_forward_hook(lambda *unused: runs.append(1))
    at, cls = resuming("llava"), Part("encoder_attention", {"layer": 1, "from": "cls"})
    wanting = [UNPRUNED, policy(stage(0, "1/2", ENCODER)), policy(stage(0, "1/2", cls)), policy(stage(0, "1/3", cls))]
    counted = []
    for one in (*wanting, *wanting, policy(stage(0, "1/4", ENCODER), stage(2, "1/8", cls))):
        cached("llava", at, one)
        counted.append(len(runs))
    handle.remove()
    assert counted == [1, 2, 3, 3, 3, 3, 3, 3, 3]


def test_rows_of_the_last_layer_that_nobody_reads_are_not_computed() -> None:
    made, widths = loaded("llava").model, []
    handle = made.model.language_model.layers[-1].mlp.down_proj.register_forward_hook(
        lambda module, args, output: widths.append(output.shape[1])
    )
    cached("llava", resuming("llava"), UNPRUNED)
    cached("llava", resuming("llava", parts=Parts(last=False)), UNPRUNED)
    handle.remove()
    assert widths == [batch("llava").scored, batch("llava").inputs["input_ids"].shape[1]]


def test_everything_a_prefill_holds_is_either_made_anew_or_in_a_snapshot() -> None:
    """Whoever gives a prefill more to remember decides here which of the two it is."""
    held: set[str] = set()

    class Looking(Replay):
        def enter(self, prefill: Any, number: int, hidden: Any) -> Any:
            held.update(vars(prefill))
            return super().enter(prefill, number, hidden)

    made = loaded("llava")
    with torch.inference_mode(), Session(made.model, LIST[8]) as session, session.replaying(Looking()):
        run(made, batch("llava"), (), session)
    anew = {"plan", "prompt", "embeds", "images", "cache", "implementation", "rotary", "norm", "projector", "words"}
    anew |= {"columns", "facts", "ordinal", "place", "newline", "pictures", "newlines", "grid", "separators"}
    anew |= {
        "_partitions",
        "raters",
        "probing",
        "rotation",
        "entering",
        "translator",
    }  # per layer, or worked out again
    stored = {field.name for field in fields(Snapshot)} - {"layer", "hidden", "fired"} | {"guarding"}
    assert held - anew == stored


def test_the_model_is_left_as_it_was() -> None:
    made = loaded("qwen3_vl").model
    before = [set(module.__dict__) for module in made.modules()]
    run_through("qwen3_vl", LIST[:4], times=2)
    assert [set(module.__dict__) for module in made.modules()] == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in made.modules())


def test_only_every_so_many_layers_are_kept_where_all_would_not_fit() -> None:
    at = resuming("llava")
    cached("llava", at, UNPRUNED, every=2)
    kept = [at.cache.label(at._key(WHERE, plan(UNPRUNED), layer)) is not None for layer in range(LAYERS)]
    assert kept == [False, False, True, False, True, True]
    at.cache.bound = 2 * 100 * loaded("llava").geometry.width * 4 * (LAYERS - 1)
    assert [at.spacing(p) for p in (1, 100, 101, 300)] == [1, 1, 2, 3]


def plan(resolved: ResolvedPolicy) -> Any:
    from autoprune.pruning.plan import make_plan

    return make_plan(resolved, loaded("llava").geometry)


def test_policies_that_begin_alike_share_a_digest_and_stand_together() -> None:
    one, other = LIST[1], LIST[2]
    assert prefix_digest(one, 3) == prefix_digest(UNPRUNED, 5)
    assert prefix_digest(one, 4) == prefix_digest(LIST[3], 5)
    assert prefix_digest(one, 4) != prefix_digest(other, 4)
    texts = [to_json(p) for p in (LIST[3], LIST[5], other, LIST[6], one)]
    order = [texts.index(t) for t in sorted(texts, key=prefix_key)]
    assert set(order[:2]) == {1, 3}  # at layer 0
    assert abs(order.index(0) - order.index(4)) == 1  # the same first stage


def test_a_count_that_the_sample_decides_is_shared_by_equal_policies_only() -> None:
    """It leaves room for what later stages must keep."""
    rule = Keep("rule", Fraction(1), Part("outlier", {"factor": 1.5}), Fraction(1, 10))
    ruled = ResolvedStage("llm", 2, rule, (ResolvedPick(PREV, Part("top")),), Part("drop"))
    one, other = (policy(ruled, stage(4, budget, PREV, kind="to_budget")) for budget in ("1/2", "1/3"))
    assert prefix_digest(one, 2) == prefix_digest(other, 2)
    assert prefix_digest(one, 3) != prefix_digest(other, 3)
