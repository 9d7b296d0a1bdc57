"""What every registered part must keep: exact K, raster order, determinism, batch = singles, protected survive."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from part_worlds import (
    ALL,
    COUNTS,
    GEOMETRY,
    MERGERS,
    PROTECTED,
    RANDOM,
    SELECTORS,
    World,
    identifier,
    plan_stage,
    variants,
)

from autoprune.errors import BadInput
from autoprune.policy.resolved import Keep, Mix, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.pruning import parts
from autoprune.pruning.plan import PlannedStage, evaluate, make_plan
from autoprune.pruning.stage import Reduction
from autoprune.pruning.view import Quota, StageView

CONSERVING = {"nearest", "residual", "soft"}  # every token joins a row wherever one may take it in


def pairs(plain: bool = True) -> list[Any]:
    """Every selector with `drop` and every merger under `top`; or all other pairs (test_pruning_pairs.py)."""
    found = []
    for select, merge in itertools.product(SELECTORS, MERGERS):
        if plain == (select.name == "top" or merge.name == "drop"):
            found.append(pytest.param(select, merge, id=f"{identifier(select)}-{identifier(merge)}"))
    return found


@pytest.mark.parametrize("part", list(variants("criterion")), ids=identifier)
def test_criteria_are_finite_repeatable_and_batch_is_singles(part: Part) -> None:
    group = Part("head") if part.params.get("heads") == "each" else None
    stages = (plan_stage(part, Part("top"), where=w, group=group) for w in range(3))
    planned = [p for p in stages if p is not None]
    assert planned
    for one in planned:
        use = one.picks[0].score
        assert use is not None
        scores = evaluate(use, ALL.view(one))
        assert scores.shape[:2] == (3, 36)
        assert scores.ndim == (2 if group is None else 3)
        assert scores.dtype == torch.float32
        assert torch.equal(scores, evaluate(use, ALL.view(one)))
        for b, count in enumerate(COUNTS):
            assert torch.isfinite(scores[b, :count]).all()
            alone = evaluate(use, World([b]).view(one))
            assert torch.allclose(scores[b, :count], alone[0, :count], atol=1e-6)


@pytest.mark.parametrize("score", [RANDOM, None], ids=["scored", "unscored"])
@pytest.mark.parametrize("part", SELECTORS, ids=identifier)
def test_selectors_choose_exactly_as_many_as_asked_among_the_free(part: Part, score: Part | None) -> None:
    planned = plan_stage(score, part)
    assert planned is not None
    use, view = planned.picks[0].select, ALL.view(planned)
    info = parts.find("selector", part.name)
    assert info is not None
    if "score" in info.needs and score is None:
        with pytest.raises(BadInput, match="needs a score"):
            use.run(view, None, Quota(torch.tensor([1, 1, 1]), 1), view.candidates, view.candidates, use.config)
        return
    scores = None if planned.picks[0].score is None else evaluate(planned.picks[0].score, view)
    taken = view.candidates & (view.tokens % 5 == 2)
    for earlier in (torch.zeros_like(taken), taken):
        free = view.candidates & ~earlier
        most = free.sum(1).tolist()
        for wanted in ([0, 1, 2], [5, 0, 3], [1, most[1], 4], most):
            quota = Quota(torch.tensor(wanted), max(wanted), min(wanted), int(earlier.sum(1).max()))
            chosen = use.run(view, scores, quota, free, earlier, use.config)
            assert chosen.sum(1).tolist() == wanted
            assert not (chosen & ~free).any()
            assert torch.equal(chosen, use.run(view, scores, quota, free, earlier, use.config))


@pytest.mark.parametrize(("select", "merge"), pairs())
def test_the_equation_holds(select: Part, merge: Part) -> None:
    check_the_equation(select, merge)


def check_the_equation(select: Part, merge: Part) -> None:
    planned = plan_stage(RANDOM, select, merge)
    assert planned is not None
    for keep in ([8, 9, 4], [3, 1, 4], [22, 35, 11], [0, 5, 3], [2, 36, 7]):
        done = ALL.reduce(planned, keep)
        check_kept(done, keep)
        check_matrix(done, ALL.view(planned), merge.name)
        assert torch.equal(done.kept.index, ALL.reduce(planned, keep).kept.index)
        for b, k in enumerate(keep):
            if k:
                same_alone(done, World([b]).reduce(planned, [k]), planned, b, k)


def check_kept(done: Reduction, keep: Sequence[int]) -> None:
    kept = done.kept
    assert kept.mask.sum(1).tolist() == list(keep)
    for b, k in enumerate(keep):
        index = kept.index[b, :k].tolist()
        assert index == sorted(set(index))  # raster order, nobody twice
        assert kept.valid[b].tolist() == [i < k for i in range(kept.valid.shape[1])]
        assert all(i < COUNTS[b] for i in index)
        if k:
            assert set(PROTECTED[b]) <= set(index)


def check_matrix(done: Reduction, view: StageView, merge: str) -> None:
    kept = done.kept
    if done.matrix is None:
        assert merge in ("drop", "park")
        assert (done.follows is None) == (merge == "drop")
        if done.follows is not None:  # a kept token, where one is left
            alive = view.valid & kept.mask.any(1, keepdim=True)
            assert kept.mask.gather(1, done.follows)[alive].all()
        assert torch.equal(done.mass, view.mass.gather(1, kept.index) * kept.valid)
        return
    own = done.matrix.gather(2, kept.index[..., None])[..., 0]
    assert (done.matrix >= 0).all()
    assert (own[kept.valid] > 0).all()
    assert torch.allclose(done.matrix.sum(2)[kept.valid], torch.ones(int(kept.valid.sum())))
    assert (done.matrix[~kept.valid] == 0).all()
    assert (done.matrix.transpose(1, 2)[~view.valid] == 0).all()  # padding joins nothing
    for b in range(len(COUNTS)):
        weights = view.mass[b] * view.valid[b]
        assert torch.allclose(done.matrix[b] * done.mass[b][:, None] @ torch.ones(36), done.mass[b], atol=1e-4)
        assert done.mass[b].sum() <= weights.sum() + 1e-4
        if merge in CONSERVING and kept.mask[b].sum() > len(PROTECTED[b]):
            assert torch.allclose(done.mass[b].sum(), weights.sum(), atol=1e-4)  # nothing is lost
        shielded = [i for i, t in enumerate(kept.index[b].tolist()) if t in PROTECTED[b] and kept.valid[b, i]]
        rows = done.rows(view.hidden)[b, shielded]
        assert torch.equal(rows, view.hidden[b, kept.index[b, shielded]])  # protected rows are unchanged
        others = [i for i in range(kept.index.shape[1]) if i not in shielded]
        assert (done.matrix[b, others][:, list(PROTECTED[b])] == 0).all()  # and nobody takes them in


def same_alone(done: Reduction, alone: Reduction, planned: PlannedStage, b: int, k: int) -> None:
    assert done.kept.index[b, :k].tolist() == alone.kept.index[0, :k].tolist()
    rows = done.rows(ALL.view(planned).hidden)[b, :k]
    assert torch.allclose(rows, alone.rows(World([b]).view(planned).hidden)[0, :k], atol=1e-5)
    assert torch.allclose(done.mass[b, :k], alone.mass[0, :k], atol=1e-5)


@pytest.mark.parametrize(("select", "merge"), pairs())
def test_keeping_all_is_the_identity(select: Part, merge: Part) -> None:
    check_the_identity(select, merge)


def check_the_identity(select: Part, merge: Part) -> None:
    planned = plan_stage(RANDOM, select, merge)
    assert planned is not None
    done = ALL.reduce(planned, COUNTS)
    hidden = ALL.view(planned).hidden
    rows = done.rows(hidden)
    for b, count in enumerate(COUNTS):
        assert torch.equal(rows[b, :count], hidden[b, :count])


def test_shares_are_split_by_largest_remainder_and_earlier_picks_excluded() -> None:
    picks = (
        ResolvedPick(RANDOM, Part("top"), Fraction(1, 3)),
        ResolvedPick(None, Part("far"), Fraction(1, 3)),
        ResolvedPick(None, Part("stride")),
    )
    stage = ResolvedStage("llm", 3, Keep("fraction", Fraction(1, 2)), picks, Part("residual"))
    planned = make_plan(ResolvedPolicy((stage,), 6), GEOMETRY).stages[0]
    for keep in ([8, 11, 6], [3, 2, 4], [22, 35, 10]):
        check_kept(ALL.reduce(planned, keep), keep)
    top = plan_stage(RANDOM, Part("top"))
    assert top is not None
    only = replace(planned, picks=planned.picks[:1])
    everything = ALL.reduce(replace(only, merge=top.merge), [5, 5, 5])  # a single share takes all there is
    assert everything.kept.mask.sum(1).tolist() == [5, 5, 5]


MIXES = [(n, o) for n in ("rank", "minmax", "softmax", "sum", "none") for o in ("sum", "product", "max")]


@pytest.mark.parametrize(("normalise", "op"), MIXES)
def test_mixes_are_finite_and_batch_is_singles(normalise: Any, op: Any) -> None:
    terms = ((Fraction(3, 4), Part("feature_norm", {"space": "hidden"})), (Fraction(1, 4), RANDOM))
    planned = plan_stage(Mix(terms, normalise, op), Part("top"))
    assert planned is not None
    use = planned.picks[0].score
    assert use is not None
    scores = evaluate(use, ALL.view(planned))
    for b, count in enumerate(COUNTS):
        alone = evaluate(use, World([b]).view(planned))[0, :count]
        assert torch.isfinite(alone).all()
        free = ALL.view(planned).candidates[b, :count]
        assert torch.allclose(scores[b, :count][free], alone[free], atol=1e-5)


def test_a_mix_of_one_orders_like_its_criterion() -> None:
    term = Part("feature_norm", {"space": "hidden"})
    plain = plan_stage(term, Part("top"))
    assert plain is not None
    expected = ALL.reduce(plain, [7, 7, 7]).kept.index
    for normalise, op in MIXES:
        planned = plan_stage(Mix(((Fraction(1), term),), normalise, op), Part("top"))  # type: ignore[arg-type]
        assert planned is not None
        assert torch.equal(ALL.reduce(planned, [7, 7, 7]).kept.index, expected)
