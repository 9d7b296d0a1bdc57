"""A guard at work: sample by sample, in prefill and decoding, counted, and with no more waits than it says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from pruning_support import LAYERS, MaskedReference, Sample, difference, generate, inputs, model, policy, single, stage
from test_pruning_waits import waits

import autoprune
from autoprune.errors import BadInput
from autoprune.policy.document import Policy
from autoprune.policy.guard import Rule
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.guarding import Texts, evenness
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session

# llava_next: samples of different N; the counts as they are, without a guard
SAMPLES = [Sample(9, ((16, 40),)), Sample(12, ((96, 96),)), Sample(6, ((40, 16), (16, 16)))]
STAGES = (stage(1, "1/2", "random"), stage(3, "1/4", ("llm_attention", {"from": "text"})))
PLAIN = policy(*STAGES)


def guarded(*rules: Rule, stages: Any = STAGES) -> ResolvedPolicy:
    return ResolvedPolicy(tuple(stages), LAYERS, rules)


def below(n: int, use: Any = None) -> Rule:
    return Rule("tokens_below", Fraction(n), use=None if use is None else Fraction(use))


def counts(resolved: ResolvedPolicy, made: Any, batch: Any) -> Any:
    with Session(made, resolved) as session:
        return generate(made, batch, 4), session.run, session.stats


@pytest.mark.parametrize("merge", ["drop", ("nearest", {"space": "hidden"})], ids=["drop", "merge"])
def test_a_batch_is_its_samples_each_by_its_own_rule(merge: Any) -> None:
    made = model("llava_next")
    batch = inputs(made, SAMPLES)
    stages = (stage(1, "1/2", "random", merge=merge if merge == "drop" else "nearest"), STAGES[1])
    _, run, _ = counts(policy(*stages), made, batch)
    few, some, many = sorted(run.n)
    rules = guarded(below(few + 1), below(some + 1, "3/4"), stages=stages)
    together, run, stats = counts(rules, made, batch)
    assert run.budget().mean < 1
    by_n = dict(zip(run.n, zip(*run.counts, strict=True), strict=True))
    assert by_n[few] == (few, few)
    assert by_n[many] == (round(many / 2 + 0.01), round(many / 4 + 0.01))
    spent = [some, *[by_n[some][0]] * 2, *[by_n[some][1]] * 3]
    assert Fraction(sum(spent), LAYERS * some) <= Fraction(3, 4) < Fraction(sum(spent) + 3, LAYERS * some)
    assert stats.guarded == {rules.guard[0].label: 1, rules.guard[1].label: 1}
    for i in range(len(SAMPLES)):
        alone, one, _ = counts(rules, made, single(batch, SAMPLES, i))
        assert [c[0] for c in one.counts] == [c[i] for c in run.counts]
        assert torch.equal(alone.sequences[0, -4:], together.sequences[i, -4:])
        worst = max(float((p[0] - q[i]).abs().max()) for p, q in zip(alone.logits, together.logits, strict=True))
        assert worst <= 1e-5


def test_what_is_dropped_is_masked_and_what_is_let_off_is_whole() -> None:
    made = model("llava_next")
    batch = inputs(made, SAMPLES)
    _, run, _ = counts(PLAIN, made, batch)
    pruned, run, _ = counts(guarded(below(sorted(run.n)[1] + 1)), made, batch)
    with MaskedReference(made, run):
        assert difference(generate(made, batch, 4), pruned) <= 1e-5
    base = generate(made, batch, 4)
    off = [i for i, rule in enumerate(run.guarded) if rule]
    assert len(off) == 2
    for i in off:
        assert max(float((p[i] - q[i]).abs().max()) for p, q in zip(base.logits, pruned.logits, strict=True)) <= 1e-5


def test_a_rule_that_fires_for_no_one_changes_nothing() -> None:
    made = model()
    batch = inputs(made, [Sample(9), Sample(14)])
    plain, before, _ = counts(PLAIN, made, batch)
    found, run, stats = counts(guarded(below(36), Rule("entropy_above", Fraction(1), stage=1)), made, batch)
    assert run.counts == before.counts
    assert difference(found, plain) == 0.0
    assert stats.guarded == {}
    _, run, stats = counts(guarded(below(37)), made, batch)
    assert run.budget().mean == 1.0
    assert stats.budget == 1.0
    assert sum(stats.guarded.values()) == 2


def test_the_first_rule_that_fires_decides() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    _, run, _ = counts(guarded(below(100, "2/3"), below(100)), made, batch)
    assert run.budget().mean <= 2 / 3
    _, run, _ = counts(guarded(below(100), below(100, "2/3")), made, batch)
    assert run.budget().mean == 1


def test_a_budget_that_few_tokens_cannot_meet_is_no_failure_where_they_are_let_off() -> None:
    made = model()
    tight = (stage(3, "1/2", "random"), stage(4, "51/100", "random", kind="to_budget"))
    strict = (stage(5, "5/6", "random", kind="to_budget"),)
    batch = inputs(made, [Sample(9)])
    with pytest.raises(Exception, match="budget cannot be met"):
        counts(policy(*strict), made, batch)
    for use in (None, "9/10"):
        _, run, _ = counts(guarded(below(100, use), stages=strict), made, batch)
        assert run.budget().mean <= (1 if use is None else 0.9)
    _, run, _ = counts(guarded(below(100, "3/4"), stages=tight), made, batch)
    assert 0.7 < run.budget().mean <= 0.75


# --------------------------------------------------------------------------------------------------------- entropy
def test_entropy_is_of_the_candidates_scaled_to_one() -> None:
    scores = torch.tensor([[1.0, 1, 1, 9], [1, 0, 0, 9], [3, 1, 0, 9], [-1, -2, 0, 9], [1, 1, -5, 9]])
    among = torch.tensor([[True, True, True, False]] * 5)
    quarter = -(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log()) / torch.tensor(3.0).log()
    half = torch.tensor(2.0).log() / torch.tensor(3.0).log()
    assert torch.allclose(evenness(scores, among).float(), torch.stack([torch.ones(()), torch.zeros(()), quarter,
                                                                        torch.ones(()), half]))  # fmt: skip


@pytest.mark.parametrize("at", [0, 1])
def test_even_scores_let_a_sample_off_from_their_stage_on(at: int) -> None:
    made = model("llava_next")
    batch = inputs(made, SAMPLES)
    stages = (
        stage(1, "1/2", ("llm_attention", {"from": "last"})),
        stage(3, "1/4", ("llm_attention", {"from": "text"})),
    )
    seen: list[Any] = []

    def watch(scores: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
        seen.append(evenness(scores, among))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoprune.pruning.guarding.evenness", watch)
        counts(guarded(Rule("entropy_above", Fraction(1), stage=at), stages=stages), made, batch)
    found = seen[0].tolist()
    middle = sorted(found)[1]
    rule = Rule("entropy_above", Fraction(middle) - Fraction(1, 10**6), stage=at)
    _, before, _ = counts(policy(*stages), made, batch)
    together, run, stats = counts(guarded(rule, stages=stages), made, batch)
    fired = [entropy > float(rule.limit) for entropy in found]
    assert sum(fired) == 2
    assert stats.guarded == {rule.label: 2}
    assert run.counts[:at] == before.counts[:at]
    for i, off in enumerate(fired):
        there = before.counts[at - 1][i] if at else run.n[i]
        assert run.counts[-1][i] == (there if off else before.counts[-1][i])
    for i in range(len(SAMPLES)):
        alone, one, _ = counts(guarded(rule, stages=stages), made, single(batch, SAMPLES, i))
        assert [c[0] for c in one.counts] == [c[i] for c in run.counts]
        assert max(float((p[0] - q[i]).abs().max()) for p, q in zip(alone.logits, together.logits, strict=True)) <= 1e-5
    with MaskedReference(made, run):
        assert difference(generate(made, batch, 4), together) <= 1e-5


def test_a_count_rule_and_a_shared_budget_let_samples_off_too() -> None:
    made = model("llava_next")
    batch = inputs(made, SAMPLES)
    for one in (
        {"at": "llm:2", "keep": {"rule": "entropy", "most": "1/2"}, "score": {"llm_attention": {"from": "text"}}},
        {"along": [2, 4], "keep": {"rule": {"logistic": {"slope": 0.5}}, "fit": {"to_budget": 0.6}}, "score": "random"},
    ):
        document = {"schema": "autoprune/policy/1", "name": "p", "stages": [one]}
        with LoadedPolicy(Policy.parse(document, RegisteredParts())).attach(made) as session:
            generate(made, batch, 2)
            before = session.run
        limit = sorted(before.n)[1]
        rule = {"when": {"tokens_below": limit}, "use": "none"}
        with LoadedPolicy(Policy.parse({**document, "guard": [rule]}, RegisteredParts())).attach(made) as session:
            generate(made, batch, 2)
            run = session.run
        for i, n in enumerate(run.n):
            kept = [c[i] for c in run.counts]
            assert kept == ([n] * len(run.counts) if n < limit else [c[i] for c in before.counts])
        assert min(before.counts[-1]) < min(before.n)


# ----------------------------------------------------------------------------------------------------------- prompts
class Words:
    """The least of a tokenizer that a guard needs: a word is its number."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(f"w{i}" for i in ids)


def loaded(*rules: dict[str, Any]) -> LoadedPolicy:
    stages = [{"at": "llm:2", "keep": "1/2", "score": "random"}]
    document = {"schema": "autoprune/policy/1", "name": "p", "stages": stages, "guard": list(rules)}
    return LoadedPolicy(Policy.parse(document, RegisteredParts()))


READ = {"when": {"prompt": "(?i)read"}, "use": "none"}


def test_a_tokenizer_reads_the_prompts_and_no_image() -> None:
    made = model()
    batch = inputs(made, [Sample(9), Sample(14)])
    word = int(batch["input_ids"][1, -2])
    assert word not in batch["input_ids"][0]
    rule = {"when": {"prompt": rf"\bw{word}\b"}, "use": "none"}
    with loaded(rule).attach(made, tokenizer=Words()) as session:
        generate(made, batch, 3)
        assert session.run.counts == [[18, 36]]
        generate(made, batch, 3, num_beams=2)
        assert session.run.counts == [[18, 18, 36, 36]]
    with loaded({"when": {"prompt": r"\bw5\b"}, "use": "none"}).attach(made, tokenizer=Words()) as session:
        generate(made, batch, 3)
        assert session.run.counts == [[18, 18]]


def test_an_answer_is_not_part_of_the_prompt() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    word = int(batch["input_ids"][0, -1])
    resolved = guarded(Rule("prompt", pattern=f"w{word}$"), stages=STAGES[:1])
    with Session(made, resolved, Texts(Words())) as session, torch.no_grad():
        made(**batch, use_cache=False)
        assert session.run.counts == [[36]]
        with session.teacher_forced(torch.tensor([batch["input_ids"].shape[1] - 1])):
            made(**batch, use_cache=False)
        assert session.run.counts == [[18]]


def test_prompts_may_be_given_with_the_request() -> None:
    made = model()
    batch = inputs(made, [Sample(9), Sample(14)])
    with loaded(READ).attach(made, prompt="") as session:
        for prompt, expected in (
            (None, [18, 18]),
            ("Read the sign", [36, 36]),
            (["what is this", "READ it"], [18, 36]),
        ):
            with autoprune.using(prompt=prompt) as used:
                generate(made, batch, 3)
            assert used.run.counts == [expected]
        assert sum(session.stats.guarded.values()) == 3
        with autoprune.using(prompt=["one", "two", "three"]), pytest.raises(BadInput, match=r"3 prompts .* 2 rows"):
            generate(made, batch, 3)
        with autoprune.using(prompt=["a", "read"]) as used:
            generate(made, batch, 3, num_beams=2)
        assert used.run.counts[0][0] == 18
        assert used.run.counts[0][-1] == 36


def test_without_words_a_rule_about_them_is_refused() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    with pytest.raises(BadInput, match="rule about prompts: attach it with tokenizer"):
        loaded(READ).attach(made)
    with loaded().attach(made):
        with autoprune.using(loaded(READ)), pytest.raises(BadInput, match="rule about prompts"):
            generate(made, batch, 3)
        with autoprune.using(loaded(READ), prompt="read") as used:
            generate(made, batch, 3)
        assert used.run.counts == [[36]]


# ------------------------------------------------------------------------------------------------------------- waits
@pytest.mark.parametrize(
    ("rule", "more"),
    [
        (below(20), 0),
        (Rule("entropy_above", Fraction(1), stage=1), 1),
        (Rule("entropy_above", Fraction(0), stage=0), 1),
    ],
    ids=["tokens", "entropy", "entropy that lets all off"],
)
def test_only_entropy_waits_for_the_device(rule: Rule, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits("llava", PLAIN, monkeypatch) == 1
    assert waits("llava", guarded(rule), monkeypatch) == 1 + more
