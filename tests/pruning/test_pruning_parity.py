"""Parity runs: what `parity:` says is what the engine does, in attached models and in W."""

from __future__ import annotations

import warnings
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from merger_worlds import DIM, cosine, padded, use, view_of
from merger_worlds import Sample as Lists
from pruning_support import IMAGE, Sample, difference, generate, inputs, model
from tiny_families import model as tiny_model

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.policy.document import Policy
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedStage
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import PlannedPick, PlannedStage, Use
from autoprune.pruning.session import Session
from autoprune.pruning.signals import PartConfig
from autoprune.pruning.stage import reduce

STAGES: list[dict[str, Any]] = [
    {"at": "projector", "keep": "2/3", "select": "far"},
    {"at": "llm:1/2", "keep": {"of_current": "1/3"}, "score": {"llm_attention": {"from": "text"}}},
]


def loaded(stages: list[dict[str, Any]] = STAGES, **more: Any) -> LoadedPolicy:
    document = {"schema": "autoprune/policy/1", "name": "p", "stages": stages, **more}
    return LoadedPolicy(Policy.parse(document, RegisteredParts()))


def answer(policy: LoadedPolicy, **options: Any) -> Any:
    made = model()
    with policy.attach(made, **options):
        return generate(made, inputs(made, [Sample(12), Sample(7)]))


def test_a_parity_run_is_the_policy_with_the_positions_of_the_release() -> None:
    policy = loaded(parity={"positions": "compact", "notes": "and nothing else"})
    compact = loaded([{**stage, "positions": "compact"} for stage in STAGES])
    assert difference(answer(policy, parity=True), answer(compact)) == 0.0
    assert difference(answer(policy), answer(loaded())) == 0.0
    assert difference(answer(policy), answer(compact)) > 1e-3


def test_what_was_measured_without_parity_is_uncertified_with_it(tmp_path: Any) -> None:
    from transformers import LlavaForConditionalGeneration

    from autoprune.models import fingerprint

    model().save_pretrained(tmp_path)
    live = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    measured = replace(loaded(parity={"positions": "compact"}), fingerprint=fingerprint(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with measured.attach(live, strict=True):
            pass
        with replace(measured, policy=loaded().policy).attach(live, strict=True, parity=True):
            pass
    with (
        pytest.raises(PolicyMismatch, match="it was not measured in a parity run"),
        measured.attach(live, strict=True, parity=True),
    ):
        pass


def test_a_parity_run_that_the_model_cannot_do_is_refused() -> None:
    made = tiny_model("qwen2_vl")
    policy = loaded(parity={"positions": "compact"})
    with policy.attach(made):
        pass
    with pytest.raises(BadInput, match="M-RoPE"), policy.attach(made, parity=True):
        pass


@pytest.mark.parametrize("merge", [{"knn": {"neighbours": 4, "residual": True}}, "residual", {"nearest": {}}])
def test_rows_that_are_not_scaled(merge: Any) -> None:
    """A row of a sum is the same row times what its weights sum to: 1 for the token itself and, beside it, the
    attention on what it takes in, which is 1 over all tokens."""
    score = {"encoder_attention": {"layer": -2, "from": "cls"}}
    policy = loaded([{"at": "projector", "keep": "1/4", "score": score, "merge": merge}], parity={"rows": "sum"})
    made, entering = model(), {}
    batch = inputs(made, [Sample(9), Sample(7)])

    def seen(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            entering[name] = args[0]

        return hook

    for name, parity in (("mean", False), ("sum", True)):
        with Session(made, policy.resolve(made, parity=parity)) as session, torch.no_grad():
            handle = made.model.language_model.layers[0].register_forward_pre_hook(seen(name), with_kwargs=True)
            made(**batch)
            handle.remove()
        index, valid = session.run.index(0)
        assert valid is not None
        visual = (batch["input_ids"].gather(1, index) == IMAGE) & valid
    mean, total = entering["mean"], entering["sum"]
    length = (total * mean).sum(2) / mean.square().sum(2)
    assert torch.allclose(total, mean * length[..., None], atol=1e-4)
    assert torch.equal(total[valid & ~visual], mean[valid & ~visual])
    for sample in range(2):
        rows = length[sample][visual[sample]]
        assert len(rows) == 9
        if merge == "residual":
            assert sorted((rows - 1).abs().tolist())[:8] == pytest.approx([0] * 8, abs=1e-4)
            assert float(rows.min()) < 0.999  # the attention on the dropped
        elif merge == {"nearest": {}}:
            assert float(rows.sum()) == pytest.approx(36, abs=1e-2)
        else:
            assert int((rows > 1).sum()) == 8
            assert float(rows.max()) < 2


@pytest.mark.parametrize("residual", [True, False])
def test_unscaled_rows_are_those_of_the_release_of_prumerge(residual: bool) -> None:
    """x + Σ a·x over a kept token's neighbours, and Σ a·x over all that was not selected, a the attention as it is."""
    lists = Lists(1, True, protect=False)
    lists.mass = [1.0] * lists.count
    attention = lists.scores = [(i * 7 % 36 + 1) / 666 for i in range(36)]  # sums to 1
    score = Use(lambda view, config: padded([attention]), PartConfig())
    merge = use("merger", "knn", {"neighbours": 4, "residual": residual})
    picks = (ResolvedPick(None, Part("top")),)
    one = ResolvedStage("llm", 3, Keep("fraction", Fraction(1, 4)), picks, Part("knn"), rows="sum")
    view = view_of([lists])
    planned = PlannedStage(0, one, view.site, (PlannedPick(score, use("selector", "top"), None),), merge, frozenset())
    done = reduce(planned, view, [9], [36], [0])
    rows, x, hidden = done.rows(view.hidden)[0], lists.features["encoder"], lists.hidden
    order = sorted(range(36), key=lambda i: -attention[i])
    selected = order[: 9 - residual]
    for place, token in enumerate(done.kept.index[0].tolist()):
        near = sorted((i for i in range(36) if i != token), key=lambda i: -cosine(x[token], x[i]))[:4]
        members = {i: attention[i] for i in near} | {token: 1.0}
        if token not in selected:
            members = {i: attention[i] for i in range(36) if i not in selected}
        total = [sum(weight * hidden[i][d] for i, weight in members.items()) for d in range(DIM)]
        assert rows[place].tolist() == pytest.approx(total, abs=1e-5)
    assert len(set(done.kept.index[0].tolist()) - set(selected)) == residual
