"""llm_attention and key norms: against plain loops over an eager model's own tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from llm_reference import (
    Prompt,
    captured,
    close,
    dot,
    gravity,
    heads_together,
    maps,
    only,
    over_rope,
    softmax,
    walked,
)
from oracles.attention import sparsevlm_v2
from pruning_support import MaskedReference, inputs, model, policy, single, stage
from tiny_families import IMAGE, Sample

from autoprune.errors import BadInput
from autoprune.pruning.session import Session

SAMPLES = [Sample(9), Sample(16, ((48, 96), (48, 96))), Sample(5)]
ONE = [Sample(12)]


def attention_scores(params: dict[str, Any], batch: dict[str, torch.Tensor], attention: str = "sdpa") -> list[Any]:
    return captured(model("llava", attention), batch, policy(stage(3, "1/2", ("llm_attention", params))))


def raters(batch: dict[str, torch.Tensor], prompt: Prompt) -> list[int]:
    """Text columns whose mean softmax likeness to the visual tokens is above the average."""
    caught: list[torch.Tensor] = []
    made = model("llava", "eager")
    handle = made.model.language_model.layers[0].register_forward_pre_hook(lambda m, a: caught.append(a[0][0].double()))
    with torch.no_grad():
        made(**batch, use_cache=False)
    handle.remove()
    rows = caught[0].tolist()
    shares = [softmax([dot(rows[v], rows[t]) for t in prompt.text]) for v in prompt.visual]
    means = [sum(s[i] for s in shares) / len(shares) for i in range(len(prompt.text))]
    return [t for t, m in zip(prompt.text, means, strict=True) if m > sum(means) / len(means)] or prompt.text


WALKS: list[dict[str, Any]] = [
    {"from": "last", "heads": "rms"},
    {"from": "text", "heads": "sum"},
    {"from": "text", "heads": "top_half"},
    {"from": "raters"},
    {"from": "raters", "heads": "top_half"},
    {"from": "raters", "hops": 2},
    {"from": "all"},
    {"from": "vision", "heads": "sum"},
    {"from": "last", "hops": 2},
    {"from": "text", "hops": 2, "symmetrise": True, "heads": "sum"},
    {"from": "text", "hops": 3, "heads": "max"},
    {"from": "all", "hops": 5, "heads": "rms", "temperature": 0.1},
    {"from": "vision", "hops": 2, "gate": 1.5},
    {"from": "all", "hops": 3, "gate": 1, "heads": "top_half"},
    {"from": "vision", "hops": 2, "over_keys": "vision"},
    {"from": "last", "over_keys": "vision", "rope": False},
    {"from": "text", "rope": False, "temperature": 2},
    {"from": "all", "over_keys": "vision"},
    {"from": "raters", "heads": "top_half", "over_rope": True},
    {"from": "text", "heads": "max", "over_rope": True, "over_keys": "vision", "temperature": 2},
]


@pytest.mark.parametrize("params", WALKS, ids=str)
def test_walks_end_where_a_plain_loop_says(params: dict[str, Any]) -> None:
    batch = inputs(model(), ONE)
    prompt = Prompt(batch)
    attention = maps(batch, 2, params.get("rope", True), params.get("temperature", 1.0))
    if params.get("over_keys") == "vision":
        attention = [only(rows, prompt.visual) for rows in attention]
    if params.get("over_rope"):
        columns = prompt.visual if params.get("over_keys") == "vision" else prompt.all
        attention = over_rope(attention, gravity(len(prompt.all), params.get("temperature", 1.0)), columns)
    among = {"all": prompt.all, "vision": prompt.visual}.get(params["from"], prompt.text)
    start = {"last": prompt.text[-1:]}.get(params["from"], among)
    if params["from"] == "raters":
        start = raters(batch, prompt)
        assert len(start) < len(prompt.text)  # else the test would not tell raters from text
    expected = walked(
        attention,
        start,
        among,
        params.get("hops", 1),
        heads=params.get("heads", "mean"),
        visual=prompt.visual,
        gate=params.get("gate"),
        symmetrise=params.get("symmetrise", False),
    )
    if params.get("heads") == "max" and params.get("hops", 1) == 1:  # of one hop: each row's loudest head
        rows = [[max(rows[t][c] for rows in attention) for c in prompt.visual] for t in start]
        expected = [sum(column) / len(start) for column in zip(*rows, strict=True)]
    for name in ("eager", "sdpa"):
        (found,) = attention_scores(params, batch, name)
        assert close(found, expected)


def test_over_rope_is_the_oracle_of_sparsevlm_v2() -> None:
    """Even heads: the sheet's half (rounded down) and ours (up) are the same."""
    batch = inputs(model(), ONE)
    prompt = Prompt(batch)
    alone = gravity(len(prompt.all), 1.0)
    attention = np.array(maps(batch, 2))
    expected = sparsevlm_v2(attention, prompt.visual, raters(batch, prompt), np.array([alone] * len(attention)))
    (found,) = attention_scores({"from": "raters", "heads": "top_half", "over_rope": True}, batch)
    assert close(found, expected)
    (plain,) = attention_scores({"from": "raters", "heads": "top_half"}, batch)
    assert not close(found, plain, 1e-2)


STARTS: list[dict[str, Any]] = [
    {"from": "query"},
    {"from": "query", "hops": 2, "heads": "rms"},
    {"from": "query", "over_rope": True, "heads": "top_half"},
    {"from": "query", "heads": "max", "rope": False, "temperature": 2},
    {"from": "norm"},
    {"from": "norm", "hops": 3, "heads": "max", "over_keys": "vision"},
]


@pytest.mark.parametrize("more", [{}, {"hops": 2}, {"over_rope": True}, {"heads": "max", "rope": False}], ids=str)
def test_of_one_word_the_mean_query_is_the_last_row(more: dict[str, Any]) -> None:
    batch = inputs(model(), [Sample(4)])
    assert len(Prompt(batch).text) == 1
    (found,) = attention_scores({"from": "query", **more}, batch)
    (last,) = attention_scores({"from": "last", **more}, batch)
    assert close(found, last)


@pytest.mark.parametrize("hops", [1, 2])
def test_the_mean_query_is_a_row_of_its_own(hops: int) -> None:
    """Not the mean of the words' rows; and lengths tell visual tokens apart."""
    batch = inputs(model(), ONE)
    for one, other in (("query", "text"), ("query", "last"), ("norm", "vision")):
        (found,), (even,) = (attention_scores({"from": name, "hops": hops}, batch) for name in (one, other))
        assert not close(found, even, 1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"from": "query", "hops": 2, "symmetrise": True}, "starts with one row"),
        ({"from": "query", "rows": "max"}, "starts with one row"),
        ({"from": "norm", "rows": "max"}, "compares rows that count alike"),
    ],
)
def test_starts_that_have_no_rows_to_compare(params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        attention_scores(params, inputs(model(), ONE))


@pytest.mark.parametrize("params", [*WALKS, *STARTS], ids=str)
def test_a_padded_batch_is_its_samples(params: dict[str, Any]) -> None:
    batch = inputs(model(), SAMPLES)
    together = attention_scores({**params, "layer": "own"}, batch)
    for b in range(len(SAMPLES)):
        (alone,) = attention_scores({**params, "layer": "own"}, single(batch, SAMPLES, b))
        assert close(together[b], alone)


def test_rise_is_the_difference_to_the_layer_before() -> None:
    batch = inputs(model(), ONE)
    for layer, ends in (("prev", [1, "prev"]), ("own", [2, "own"]), (1, [0, 1])):
        (found,) = attention_scores({"layer": layer, "rise": True}, batch)
        assert found == attention_scores({"layers": ends, "over": "difference"}, batch)[0]
    with pytest.raises(BadInput, match="no layer comes before layer 0"):
        attention_scores({"layer": 0, "rise": True}, batch)


@pytest.mark.parametrize("over", ["sum", "mean", "ema", "difference"])
def test_ranges_of_layers_are_put_together(over: str) -> None:
    batch = inputs(model(), ONE)
    each = [attention_scores({"layer": layer}, batch)[0] for layer in (0, 1, 2)]
    (found,) = attention_scores({"layers": [0, "prev"], "over": over}, batch)
    combine: Any = {
        "sum": lambda a, b, c: a + b + c,
        "mean": lambda a, b, c: (a + b + c) / 3,
        "ema": lambda a, b, c: a / 4 + b / 4 + c / 2,
        "difference": lambda a, b, c: max(0.0, c - a),
    }[over]
    assert close(found, [combine(*values) for values in zip(*each, strict=True)])
    if over == "difference":
        assert 0 < sum(x == 0 for x in found) < len(found)
    (own,) = attention_scores({"layers": [2, "own"], "over": "difference"}, batch)
    (last,) = attention_scores({"layer": "own"}, batch)
    assert close(own, [max(0.0, b - a) for a, b in zip(each[2], last, strict=True)])


@pytest.mark.parametrize(
    "params",
    [{"from": "all", "hops": 3, "heads": "rms"}, {"from": "raters"}, {"from": "vision", "over_keys": "vision"}],
    ids=str,
)
def test_after_a_stage_the_walk_is_on_what_is_left(params: dict[str, Any]) -> None:
    """Against the attention of an untouched eager model in which the dropped keys are masked."""
    made, eager = model(), model("llava", "eager")
    batch = inputs(made, ONE)
    prompt = Prompt(batch)
    resolved = policy(stage(1, "1/3", "random"), stage(3, "1/6", ("llm_attention", params)))
    (found,) = captured(made, batch, resolved, 1)
    with Session(made, resolved) as session, torch.no_grad():
        made(**batch, use_cache=False)
    run = session.run
    with MaskedReference(eager, run), torch.no_grad():
        attention = eager(**batch, output_attentions=True, use_cache=False).attentions[2][0].double().tolist()
    left = [prompt.visual[i] for i in run.kept(2, 0)]
    assert len(left) == 12
    if params.get("over_keys") == "vision":
        attention = [only(rows, left) for rows in attention]
    text = raters(batch, prompt) if params["from"] == "raters" else prompt.text
    everything = [c for c in prompt.all if c not in set(prompt.visual) - set(left)]
    among = {"all": everything, "vision": left}.get(params["from"], text)
    hops, heads = params.get("hops", 1), params.get("heads", "mean")
    assert close(found, walked(attention, among, among, hops, heads=heads, visual=left))


@pytest.mark.parametrize("params", [{"from": "all", "hops": 2}, {"from": "raters"}, {"from": "vision"}], ids=str)
def test_answers_are_no_part_of_the_walk(params: dict[str, Any]) -> None:
    made = model()
    batch = inputs(made, ONE)
    answer = torch.tensor([[40, 41, 42]])
    both = {
        **batch,
        "input_ids": torch.cat([batch["input_ids"], answer], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(answer)], 1),
    }
    for criterion in (("llm_attention", params), ("token_transition", {"layers": [0, 2]})):
        resolved = policy(stage(3, "1/2", criterion))
        (expected,) = captured(made, batch, resolved)
        (found,) = captured(made, both, resolved, answer_start=batch["input_ids"].shape[1])
        assert close(found, expected)


@pytest.mark.parametrize("start", ["all", "text", "raters"])
def test_rows_in_pieces_give_the_same(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.pruning import decoder_walk

    batch = inputs(model(), SAMPLES)
    params: list[dict[str, Any]] = [
        {"from": start, "hops": 2, "symmetrise": True},
        {"from": start},
        {"from": start, "heads": "max"},
    ]
    whole = [attention_scores(p, batch) for p in params]
    monkeypatch.setattr(decoder_walk, "CHUNK", 5)
    for held in (1 << 27, 0):
        monkeypatch.setattr(decoder_walk, "MAP", held)
        for p, expected in zip(params, whole, strict=True):
            for one, other in zip(attention_scores(p, batch), expected, strict=True):
                assert close(one, other)


def test_one_word_rates_where_none_is_above_the_average() -> None:
    batch = inputs(model(), [Sample(5)])  # three words, the image, one more and the last
    batch = {k: v[:, :-1] if k in ("input_ids", "attention_mask") else v for k, v in batch.items()}
    (found,) = attention_scores({"from": "raters"}, batch)
    (last,) = attention_scores({"from": "last"}, batch)
    assert close(found, last)


def test_key_norms_in_l1_do_not_depend_on_padding() -> None:
    """An L1 norm changes when a key is turned on: the positions that count are those of the sample alone."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    made = model()
    batch = inputs(made, SAMPLES)
    attention, rotation = made.model.language_model.layers[2].self_attn, made.model.language_model.rotary_emb
    resolved = policy(stage(3, "1/2", ("feature_norm", {"space": "keys", "order": "l1"})))
    together = captured(made, batch, resolved)
    for b in range(len(SAMPLES)):
        alone = single(batch, SAMPLES, b)
        caught: list[torch.Tensor] = []
        rotary: list[Any] = []
        handles = [
            attention.k_proj.register_forward_hook(lambda m, a, o, to=caught: to.append(o)),
            rotation.register_forward_hook(lambda m, a, o, to=rotary: to.append(o)),
        ]
        (found,) = captured(made, alone, resolved)
        for handle in handles:
            handle.remove()
        rows = caught[0].view(*caught[0].shape[:2], 2, attention.head_dim).transpose(1, 2)
        keys = apply_rotary_pos_emb(rows, rows, *rotary[0])[1].transpose(1, 2).flatten(2).double()
        visual = (alone["input_ids"][0] == IMAGE).nonzero()[:, 0].tolist()
        assert close(found, [sum(abs(x) for x in keys[0, c].tolist()) for c in visual])
        assert close(together[b], found)


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("at", "criterion", "says"),
    [
        (3, ("llm_attention", {"gate": 1}), "they need `hops: 2`"),
        (3, ("llm_attention", {"symmetrise": True}), "they need `hops: 2`"),
        (3, ("llm_attention", {"from": "text", "hops": 2, "over_keys": "vision"}), "no way between prompt rows"),
        (3, ("llm_attention", {"layer": 1, "layers": [0, 1]}), "not both"),
        (3, ("llm_attention", {"layer": 1, "over": "sum"}), "needs `layers"),
        (3, ("llm_attention", {"layers": [2, 1]}), "goes from shallow to deep, not from 2 to 1"),
        (3, ("llm_attention", {"layers": [2, 4]}), "between 0 and the stage's own layer 3"),
        (3, ("llm_attention", {"hops": 0}), "greater than or equal to 1"),
        (3, ("llm_attention", {"temperature": 0}), "greater than 0"),
        (3, ("llm_attention", {"from": "question"}), "Input should be 'last'"),
        (3, ("token_transition", {"layers": [2, 3]}), "before the stage's own, 3"),
        (3, ("token_transition", {"layers": [2, 1]}), "before the stage's own, 3"),
        (3, ("token_transition", {"layers": 2}), "the first and the last of a range"),
        (0, "token_transition", "no layer runs before it"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(at: int, criterion: Any, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        Session(model(), policy(stage(at, "1/2", criterion)))
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["token_transition", "llm_attention"])
def test_nothing_of_a_layer_is_known_at_the_projector(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be used at site 'projector'"):
        Session(model(), policy(stage(0, "1/2", (name, {}), site="projector")))


def test_a_rope_that_cannot_be_undone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    bare = policy(stage(3, "1/2", ("llm_attention", {"rope": False})))
    Session(made, bare)
    monkeypatch.setattr(made.model.language_model.rotary_emb, "attention_scaling", 1.3)  # as YaRN does
    with pytest.raises(BadInput, match="cannot be undone"):
        Session(made, bare)


def test_heads_meet_by_hand() -> None:
    from autoprune.pruning.decoder_walk import meet

    ends = [[1.0, 4.0, 0.0], [3.0, 0.0, 1.0], [2.0, 2.0, 2.0]]
    for heads in ("mean", "sum", "max", "rms", "top_half"):
        visual = torch.tensor([[True, False, True]])
        found = meet(torch.tensor([ends]), heads, visual)[0].tolist()
        assert close(found, heads_together(ends, heads, [0, 2]))


@pytest.mark.parametrize("seed", range(5))
def test_heads_that_bring_the_same_up_to_rounding_are_equal(seed: int) -> None:
    """Where a window shows visual tokens only, every head brings 1: the first half is taken, whatever rounding says."""
    from autoprune.pruning.decoder_walk import meet

    ends = torch.randn(8, 6, 37, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(2)
    assert len(ends.sum(2).unique()) > 1
    found = meet(ends, "top_half", torch.ones(8, 37, dtype=torch.bool))
    assert torch.allclose(found, ends[:, :3].mean(1))
