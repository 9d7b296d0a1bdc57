"""Single parts against their definitions, and their parameters as a document writes them."""

from __future__ import annotations

from typing import Any

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from part_worlds import (
    ALL,
    PROTECTED,
    RANDOM,
    World,
    plan_stage,
)

from autoprune.errors import BadInput
from autoprune.policy.resolved import Part
from autoprune.pruning import parts
from autoprune.pruning.plan import evaluate
from autoprune.pruning.stage import reduce
from autoprune.pruning.tensors import rank
from autoprune.pruning.view import Quota


def test_top_is_nested_and_breaks_ties_by_index() -> None:
    planned = plan_stage(RANDOM, Part("top"))
    assert planned is not None
    use, view = planned.picks[0].select, ALL.view(planned)
    for scores in (ALL.values("any", ()), ALL.values("any", ()).round(), torch.zeros(3, 36)):
        before = torch.zeros_like(view.valid)
        for k in range(8):
            chosen = use.run(view, scores, Quota(torch.full((3,), k), k), view.candidates, before & False, use.config)
            assert (before & ~chosen).sum() == 0
            before = chosen
    first = [t for t in range(36) if t not in PROTECTED[0]][:7]
    assert before[0].nonzero()[:, 0].tolist() == first


def test_nan_scores_rank_lowest_and_never_steal_a_place() -> None:
    scores = torch.tensor([[1.0, float("nan"), float("-inf"), 3.0, float("inf")]])
    candidates = torch.tensor([[True, True, True, True, False]])
    assert rank(scores, candidates)[0].tolist() == [1, 2, 3, 0, 4]


def test_residual_is_the_score_weighted_mean_of_the_dropped() -> None:
    """Against the definition, token by token; the row stands where the best of the dropped stood."""
    planned = plan_stage(RANDOM, Part("top"), Part("residual"))
    assert planned is not None
    assert planned.picks[0].score is not None
    view, k = World([1]).view(planned, protect=False), 7
    scores = evaluate(planned.picks[0].score, view)[0]
    done = reduce(planned, view, [k], [36], [0])
    order = scores.argsort(descending=True)
    assert sorted(order[:k].tolist()) == done.kept.index[0].tolist()
    anchor = int(order[k - 1])  # the best that the selector, asked for one less, left
    assert done.kept.index[0][done.kept.extra[0]].tolist() == [anchor]
    members = order[k - 1 :]
    weights = scores[members] * view.mass[0, members]
    expected = (weights[:, None] * view.hidden[0, members]).sum(0) / weights.sum()
    row = int(done.kept.extra[0].nonzero())
    assert torch.allclose(done.rows(view.hidden)[0, row], expected, atol=1e-5)
    assert torch.allclose(done.mass[0, row], view.mass[0, members].sum())


def test_residual_without_scores_is_the_mean_by_mass() -> None:
    planned = plan_stage(None, Part("stride"), Part("residual"))
    assert planned is not None
    view = World([1]).view(planned, protect=False)
    done = reduce(planned, view, [7], [36], [0])
    row = int(done.kept.extra[0].nonzero())
    kept = done.kept.index[0][~done.kept.extra[0]].tolist()
    members = [i for i in range(36) if i not in kept]
    weights = view.mass[0, members]
    expected = (weights[:, None] * view.hidden[0, members]).sum(0) / weights.sum()
    assert torch.allclose(done.rows(view.hidden)[0, row], expected, atol=1e-5)


def test_far_is_max_min_distance() -> None:
    """Against a plain loop over the definition (DivPrune, Algorithm 1)."""
    planned = plan_stage(None, Part("far", {"space": "hidden"}))
    assert planned is not None
    view = World([1]).view(planned, protect=False)
    rows = torch.nn.functional.normalize(view.hidden[0], dim=-1)
    distance = 1 - rows @ rows.T
    lonely = (distance + torch.eye(36) * 9).amin(1)
    chosen = [int(lonely.argmax())]
    while len(chosen) < 9:
        gain = distance[:, chosen].amin(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    use = planned.picks[0].select
    none = torch.zeros_like(view.valid)
    mask = use.run(view, None, Quota(torch.tensor([9]), 9), view.candidates, none, use.config)
    assert mask[0].nonzero()[:, 0].tolist() == sorted(chosen)


def test_stride_is_even() -> None:
    planned = plan_stage(None, Part("stride"))
    assert planned is not None
    view = World([1]).view(planned, protect=False)
    use = planned.picks[0].select
    none = torch.zeros_like(view.valid)
    mask = use.run(view, None, Quota(torch.tensor([4]), 4), view.candidates, none, use.config)
    assert mask[0].nonzero()[:, 0].tolist() == [4, 13, 22, 31]


def test_random_depends_on_image_seed_and_place_alone() -> None:
    scores = []
    for seed in (0, 1):
        planned = plan_stage(Part("random", {"seed": seed}), Part("top"))
        assert planned is not None
        assert planned.picks[0].score is not None
        scores.append(evaluate(planned.picks[0].score, ALL.view(planned)))
    for one in scores:
        assert float(one.min()) >= 0
        assert float(one.max()) < 1
        assert 0.35 < float(one.mean()) < 0.65
    together = torch.stack([*scores[0], *scores[1]])
    distinct = torch.corrcoef(together) - torch.eye(6)
    assert float(distinct.abs().max()) < 0.6  # other images and other seeds give other orders


@pytest.mark.parametrize("seed", [4, 2**40, -1, 10**30])
def test_random_takes_any_whole_number_as_its_seed(seed: int) -> None:
    scores = evaluate_random(seed)
    assert len(set(scores[1].tolist())) == 36
    assert not torch.equal(scores, evaluate_random(0))


def evaluate_random(seed: int) -> torch.Tensor:
    planned = plan_stage(Part("random", {"seed": seed}), Part("top"))
    assert planned is not None
    assert planned.picks[0].score is not None
    return evaluate(planned.picks[0].score, ALL.view(planned))


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("llm_attention", {"layer": "0.5x"}, "a layer is prev, own, an integer or a fraction"),
        ("llm_attention", {"layer": "onw"}, "did you mean 'own'?"),
        ("llm_attention", {"layer": "1/0"}, "a layer is prev, own"),
        ("llm_attention", {"layer": True}, "not True"),
        ("encoder_attention", {"layer": "own"}, "a layer is an integer or a fraction"),
        ("encoder_attention", {"layer": "3/2"}, "not '3/2'"),
        ("random", {"seed": 1.5}, "valid integer"),
        ("random", {"seed": True}, "valid integer"),
    ],
)
def test_wrong_parameters_are_said_when_the_document_is_read(name: str, params: dict[str, Any], says: str) -> None:
    from autoprune.document.yaml import parse, write
    from autoprune.policy.document import Policy
    from autoprune.pruning.lookup import RegisteredParts

    key = next(iter(params))
    data = {"schema": "autoprune/policy/1", "stages": [{"at": "llm:3", "keep": 0.5, "score": {name: params}}]}
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(write(data), "p.yaml"), RegisteredParts())
    (problem,) = caught.value.problems
    assert problem.path == f"stages[0].score.{name}.{key}"
    assert says in problem.message


def test_fractions_of_the_depth_may_be_decimals() -> None:
    info = parts.find("criterion", "encoder_attention")
    assert info is not None
    assert info.config(layer=0.25) == info.config(layer="1/4")  # type: ignore[call-arg]
