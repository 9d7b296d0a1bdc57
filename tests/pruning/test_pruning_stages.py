"""Counts, protection and refusals: what a policy may ask and what it then gets."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from pruning_support import IMAGE, Sample, inputs, model, policy, stage

from autoprune.errors import AutoPruneError, BadInput, PolicyMismatch
from autoprune.measures.costs import costs
from autoprune.policy.budget import Infeasible, lengths
from autoprune.policy.resolved import Keep, Part, ResolvedPolicy, ResolvedStage
from autoprune.pruning.session import Session

NEXT = [Sample(9), Sample(15, ((96, 96),)), Sample(20, ((96, 48), (48, 96)))]


def prefill(made: Any, batch: dict[str, torch.Tensor], resolved: ResolvedPolicy) -> Session:
    with Session(made, resolved) as session, torch.no_grad():
        made(**batch, use_cache=False)
    return session


@pytest.mark.parametrize(
    "stages",
    [
        (stage(1, "1/2"), stage(4, "1/3", kind="of_current")),
        (stage(0, 20, kind="tokens"), stage(2, "1/100")),
        (stage(1, "2/3"), stage(3, "1/2", kind="to_budget")),
        (stage(2, "1/2"), stage(5, 0)),
    ],
)
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_the_engine_counts_as_the_documents_do(family: str, stages: Any) -> None:
    made = model(family)
    samples = NEXT if family == "llava_next" else [Sample(9), Sample(16, ((48, 96), (48, 96)))]
    resolved = policy(*stages)
    session = prefill(made, inputs(made, samples), resolved)
    for b, n in enumerate(session.run.n):
        newlines = newline_count(samples[b]) if family == "llava_next" else 0
        assert [layer[b] for layer in session.run.lengths] == list(lengths(resolved, n, newlines))


def newline_count(sample: Sample) -> int:
    return sum(height // 8 for height, _ in sample.images)


def test_newlines_survive_and_count_toward_k() -> None:
    made = model("llava_next")
    session = prefill(made, inputs(made, NEXT), policy(stage(0, "1/2", None, "stride"), stage(3, "1/50", "random")))
    for b, sample in enumerate(NEXT):
        start, expected = 0, []
        for height, width in sample.images:
            rows, columns = height // 8, width // 8
            expected += [start + 36 + (r + 1) * (columns + 1) - 1 for r in range(rows)]
            start += 36 + rows * (columns + 1)
        assert session.run.n[b] == start
        assert session.run.kept(5, b) == expected  # fewer are asked for than are protected
        assert set(expected) <= set(session.run.kept(1, b))


def test_named_tokens_are_protected_and_zero_drops_even_them() -> None:
    made = model()
    batch = inputs(made, [Sample(9), Sample(14)])
    named = (0, 17, 35)
    some = policy(
        stage(1, "1/6", "random", protect=named), stage(3, 4, ("random", {"seed": 2}), kind="tokens", protect=(17, 3))
    )
    session = prefill(made, batch, some)
    assert session.run.lengths[2] == [6, 6]
    assert session.run.lengths[4] == [4, 4]
    for b in range(2):
        assert set(named) <= set(session.run.kept(1, b))
        assert 17 in session.run.kept(4, b)
        assert (3 in session.run.kept(4, b)) == (3 in session.run.kept(1, b))
    assert prefill(made, batch, policy(stage(1, 0, "random", protect=named))).run.lengths[1] == [0, 0]


def test_named_tokens_hold_only_the_stage_that_names_them() -> None:
    """K of a stage without names is its own, in the engine as in the documents and costs."""
    made = model()
    resolved = policy(stage(1, "1/2", "random", protect=tuple(range(10))), stage(3, 2, "random", kind="tokens"))
    session = prefill(made, inputs(made, [Sample(9), Sample(16, ((48, 96), (48, 96)))]), resolved)
    for b, n in enumerate((36, 72)):
        assert [layer[b] for layer in session.run.lengths] == [n, n // 2, n // 2, 2, 2, 2]
        assert list(lengths(resolved, n)) == [n, n // 2, n // 2, 2, 2, 2]
        assert costs(resolved, session.geometry, [n], [9], 4)[0].visual == (n, n // 2, n // 2, 2, 2, 2)


def test_a_stage_without_picks_only_numbers_positions_anew() -> None:
    made = model()
    bare = ResolvedStage("llm", 3, Keep("of_current", Fraction(1)), (), Part("drop"), positions="compact")
    session = prefill(made, inputs(made, [Sample(9)]), policy(stage(1, "1/2"), bare))
    assert session.run.lengths == [[36], *[[18]] * 5]
    assert session.run.layouts[2].positions is None
    positions = session.run.layouts[3].positions
    assert positions is not None
    assert positions[0].tolist() == list(range(9 + 18))


def physical(session: Session, batch: dict[str, torch.Tensor], b: int) -> list[int]:
    """Numbers of the visual tokens whose columns really reach the last layer."""
    index, valid = session.run.index(5)
    columns = index[b] if valid is None else index[b][valid[b]]
    is_visual = batch["input_ids"][b] == IMAGE
    return [int(is_visual[:c].sum()) for c in columns.tolist() if is_visual[c]]


@pytest.mark.parametrize("protects", [True, False])
def test_separators_stay_where_the_family_or_the_stage_says_so(protects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.models.llava_next import LlavaNext

    monkeypatch.setattr(LlavaNext, "protects_newlines", protects)
    made = model("llava_next")
    resolved = policy(stage(1, "1/2", "random", protect="newlines"), stage(4, 3, "random", kind="tokens"))
    late = policy(stage(1, "1/8", "random"), stage(4, "1/9", ("random", {"seed": 2}), protect="newlines"))
    batch = inputs(made, NEXT)
    session = prefill(made, batch, late)
    for b, sample in enumerate(NEXT):  # separators that are gone cannot be kept; their places go to others
        assert [layer[b] for layer in session.run.lengths] == list(
            lengths(late, session.run.n[b], [newline_count(sample) * protects, newline_count(sample)])
        )
        assert physical(session, batch, b) == session.run.kept(5, b)
    session = prefill(made, batch, resolved)
    for b, sample in enumerate(NEXT):
        count, n = newline_count(sample), session.run.n[b]
        expected = [n, *[max(count, (n + 1) // 2)] * 3, *[count if protects else 3] * 2]
        assert [layer[b] for layer in session.run.lengths] == expected
        cost = costs(resolved, session.geometry, [n], [9], 4, [1], [count])[0]
        assert list(cost.visual) == expected


def test_an_unreachable_budget_is_infeasible_with_its_distance() -> None:
    made = model()
    with pytest.raises(Infeasible) as caught:
        prefill(made, inputs(made, [Sample(9)]), policy(stage(4, "1/2", kind="to_budget")))
    assert caught.value.distance == pytest.approx((4 + 2 / 36) / 6 - 0.5)


@pytest.mark.parametrize(
    ("resolved", "message"),
    [
        (policy(stage(0, "1/2", "llm_attention")), "'prev' cannot be used at llm:0"),
        (policy(stage(0, "1/2", "llm_attention", site="projector")), "cannot be used at site 'projector'"),
        (policy(stage(2, "1/2", ("llm_attention", {"layer": 4}))), "between 0 and the stage's own layer 2"),
        (policy(stage(2, "1/2", ("encoder_attention", {"layer": 3}))), "outside the encoder's 3 blocks"),
        (policy(stage(2, "1/2", ("encoder_attention", {"form": "cls"}))), "Extra inputs"),
        (policy(stage(2, "1/2", "attention")), "criterion 'attention' does not exist; known: .*encoder_attention"),
        (policy(stage(2, "1/2", "random", "best")), "selector 'best' does not exist"),
        (policy(stage(2, "1/2", "random", "top", "fold")), "merger 'fold' does not exist"),
    ],
)
def test_what_cannot_run_is_refused_before_it_runs(resolved: ResolvedPolicy, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Session(model(), resolved)


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        Session(model(), policy(stage(0, "1/2", "llm_attention"), stage(2, "1/2", "attention", "best")))
    assert len(str(caught.value).splitlines()) == 3


def test_another_depth_is_a_mismatch() -> None:
    with pytest.raises(PolicyMismatch, match="8 layers, this one has 6"):
        Session(model(), ResolvedPolicy((), 8))


class Config:
    """A language model's configuration, as far as refusals read it."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Holder:
    rotary_emb = None

    def __init__(self, **values: Any) -> None:
        self.config = Config(**values)


def test_unsafe_models_are_refused_with_the_reason() -> None:
    from autoprune.pruning.refuse import refuse_model, refuse_positions

    with pytest.raises(BadInput, match="flex_attention"):
        refuse_model(Holder(_attn_implementation="flex_attention"))
    with pytest.raises(BadInput, match="physical distance"):
        refuse_model(Holder(_attn_implementation="flash_attention_2", sliding_window=64))
    with pytest.raises(BadInput, match="physical distance"):
        refuse_model(
            Holder(_attn_implementation="flash_attention_2", layer_types=["full_attention", "sliding_attention"])
        )
    refuse_model(Holder(_attn_implementation="sdpa", sliding_window=64))
    refuse_model(Holder(_attn_implementation="flash_attention_2", sliding_window=None))
    compact = policy(stage(1, "1/2", positions="compact"))
    with pytest.raises(BadInput, match="M-RoPE"):
        refuse_positions(compact, Holder(rope_parameters={"rope_type": "default", "mrope_section": [1, 2]}))
    with pytest.raises(BadInput, match="longrope"):
        refuse_positions(compact, Holder(rope_parameters={"rope_type": "longrope"}))
    refuse_positions(policy(stage(1, "1/2")), Holder(rope_parameters={"mrope_section": [1, 2]}))


def test_mixed_up_images_are_noticed() -> None:
    made = model("llava_next")
    samples = [Sample(9), Sample(15, ((96, 96),))]
    batch = inputs(made, samples)
    swapped = {k: v.flip(0) if k in ("pixel_values", "image_sizes") else v for k, v in batch.items()}
    with (
        Session(made, policy(stage(1, Fraction(1, 2)))),
        pytest.raises(AutoPruneError, match="image placeholders but its images have"),
        torch.no_grad(),
    ):
        made(**swapped, use_cache=False)
