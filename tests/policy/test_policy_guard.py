"""The key `guard`: what it may say, where mistakes are, what becomes of it in the canonical form, and its counts."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.models.family import geometry_of
from autoprune.policy import canonical
from autoprune.policy.budget import Counting, count_steps, counts
from autoprune.policy.diff import diff
from autoprune.policy.document import Policy
from autoprune.policy.gentler import gentler, to_come
from autoprune.policy.guard import Rule
from autoprune.policy.patterns import LONGEST, matches, why_not
from autoprune.policy.resolved import Keep
from autoprune.policy.without import without_stages
from autoprune.pruning.lookup import RegisteredParts

PARTS = RegisteredParts()
STAGES = [
    {"at": "projector", "keep": "1/2", "score": "feature_norm"},
    {"at": "llm:2", "keep": {"of_current": "1/2"}, "score": {"llm_attention": {"from": "text"}}},
]
RULES: list[Any] = [
    {"when": {"tokens_below": 200}, "use": "none"},
    {"when": {"prompt": "(?i)read|transcribe"}, "use": {"budget": "1/2"}},
    {"when": {"entropy_above": {"stage": 1, "value": 0.95}}, "use": "none"},
]


def document(guard: Any = RULES, stages: Any = STAGES) -> dict[str, Any]:
    return {"schema": "autoprune/policy/1", "name": "p", "stages": stages, "guard": guard}


def test_a_guard_is_read_and_written() -> None:
    policy = Policy.parse(document(), PARTS)
    assert policy.guard == (
        Rule("tokens_below", Fraction(200)),
        Rule("prompt", pattern="(?i)read|transcribe", use=Fraction(1, 2)),
        Rule("entropy_above", Fraction(19, 20), stage=1),
    )
    assert Policy.parse(policy.dump(), PARTS) == policy
    assert Policy.from_source(parse(policy.to_yaml(), "p.yaml"), PARTS) == policy
    short = Policy.parse(document([{"when": {"entropy_above": 0.5}, "use": "none"}]), PARTS)
    assert short.guard[0].stage == 0
    assert short.dump()["guard"] == [{"when": {"entropy_above": 0.5}, "use": "none"}]
    assert next(c.path for c in diff(policy, short)) == "guard[0].when.tokens_below"
    assert "guard" not in Policy.parse({**document(), "guard": []}, PARTS).dump()


ADAPTIVE = [{"at": "llm:2", "keep": {"rule": "outlier"}, "score": "feature_norm"}]
RANKS = [{"at": "llm:2", "keep": "1/2", "score": {"mix": {"weights": {"feature_norm": 1, "random": 1}}}}]
BLIND = [{"at": "llm:2", "keep": "1/2", "select": "stride"}]


@pytest.mark.parametrize(
    ("guard", "path", "message", "stages"),
    [
        ("none", "guard", "a list of rules", STAGES),
        ([7], "guard[0]", "must be a mapping with the keys when, use", STAGES),
        ([{"when": {"tokens_below": 4}}], "guard[0].use", "missing", STAGES),
        ([{"when": {"tokens": 4}, "use": "none"}], "guard[0].when.tokens", "did you mean", STAGES),
        ([{"when": {"tokens_below": 4, "prompt": "a"}, "use": "none"}], "guard[0].when", "one condition", STAGES),
        ([{"when": {"tokens_below": 0}, "use": "none"}], "guard[0].when.tokens_below", "at least 1", STAGES),
        ([{"when": {"tokens_below": 1.5}, "use": "none"}], "guard[0].when.tokens_below", "whole number", STAGES),
        ([{"when": {"prompt": "(a"}, "use": "none"}], "guard[0].when.prompt", "not a regular expression", STAGES),
        ([{"when": {"prompt": 3}, "use": "none"}], "guard[0].when.prompt", "is a regular expression, not 3", STAGES),
        ([{"when": {"entropy_above": 2}, "use": "none"}], "guard[0].when.entropy_above", "between 0 and 1", STAGES),
        (
            [{"when": {"entropy_above": {"stage": "x", "value": 1}}, "use": "none"}],
            "guard[0].when.entropy_above.stage",
            "number of a stage",
            STAGES,
        ),
        (
            [{"when": {"entropy_above": {"stage": 2, "value": 1}}, "use": "none"}],
            "guard[0].when.entropy_above",
            "no stage 2: the policy has 2",
            STAGES,
        ),
        ([{"when": {"tokens_below": 4}, "use": "non"}], "guard[0].use", "none or {budget: B}", STAGES),
        ([{"when": {"tokens_below": 4}, "use": {"budget": 0}}], "guard[0].use.budget", "above 0", STAGES),
        ([{"when": {"tokens_below": 4}, "use": {"budget": 2}}], "guard[0].use.budget", "between 0 and 1", STAGES),
        ([{"when": {"tokens_below": 4}, "use": {"budget": 0.5}}], "guard[0].use", "no budget holds", ADAPTIVE),
        ([{"when": {"entropy_above": 0.9}, "use": "none"}], "guard[0].when.entropy_above", "by ranks", RANKS),
        ([{"when": {"entropy_above": 0.9}, "use": "none"}], "guard[0].when.entropy_above", "no score", BLIND),
    ],
)
def test_mistakes_are_said_where_they_are(guard: Any, path: str, message: str, stages: Any) -> None:
    with pytest.raises(BadInput) as caught:
        Policy.parse(document(guard, stages), PARTS)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def test_all_mistakes_are_said_at_once_with_their_positions() -> None:
    text = (
        "schema: autoprune/policy/1\nname: p\nstages: [{at: llm:2, keep: 1/2, score: random}]\nguard:\n"
        "  - {when: {tokens_below: many}, use: none}\n  - {when: {prompt: '(a*)*'}, use: {budget: 3}}\n"
    )
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(text, "p.yaml"), PARTS)
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (5, "guard[0].when.tokens_below"),
        (6, "guard[1].when.prompt"),
        (6, "guard[1].use.budget"),
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        "(a*)*b",
        "(a|a)*b",
        "(a+)+",
        "a*a*b",
        r"(a)\1",
        "(?=a)b",
        "(?<!a)b",
        "a?" * 30,
        "(?:ab|c){40}",
        "(?i).{0,400}x.*y",
        "a{0,900}a*b",
        "a*a{1000}b",
        "(a|a|a|a){1,8}b",
        "(){1000000}",
        "a{0,4000000000}a*",
        "a" * (LONGEST + 1),
    ],
)
def test_patterns_that_could_run_for_ever_are_refused(pattern: str) -> None:
    assert why_not(pattern) is not None


@pytest.mark.parametrize(
    "pattern", ["(?i)read|transcribe", r"\bwhat does .* say\b", "^how many", "colou?r", "[0-9]{1,3} ?%", "a|b.*c|d.*e"]
)
def test_plain_patterns_are_taken(pattern: str) -> None:
    assert why_not(pattern) is None


@pytest.mark.parametrize("pattern", ["(?i)a*" + "a" * 90 + "b", "a{0,40}a*b", "(?i)[ab]*[ab]{90}c", "(a?){11}b"])
def test_the_worst_patterns_that_are_taken_come_to_an_end(pattern: str) -> None:
    assert why_not(pattern) is None
    assert not matches(pattern, "a" * 100_000)
    began = time.perf_counter()
    sum(1 for _ in range(10_000_000))  # about as many steps of this interpreter as the pattern may take of `re`'s
    least = time.perf_counter() - began
    began = time.perf_counter()
    matches(pattern, "a" * 100_000)
    assert time.perf_counter() - began < 60 * least


def test_only_the_beginning_of_a_prompt_is_looked_at() -> None:
    assert matches("(?i)READ", "please read this")
    assert not matches("read", "a" * 1024 + "read")


def geometry() -> Any:
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 4, "image_size": 48}
    text = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    return geometry_of(
        {
            "model_type": "llava",
            "vision_config": {**vision, "patch_size": 8, "num_attention_heads": 4, "intermediate_size": 64},
            "text_config": {**text, "intermediate_size": 128, "vocab_size": 128},
        }
    )


def test_the_canonical_form_has_the_guard_and_gives_it_back() -> None:
    policy = Policy.parse(document(), PARTS)
    resolved = canonical.resolve(policy, geometry(), PARTS)
    assert resolved.adaptive
    assert canonical.from_json(canonical.to_json(resolved)) == resolved
    bare = canonical.resolve(Policy.parse(document([]), PARTS), geometry(), PARTS)
    assert "guard" not in canonical.to_json(bare)
    assert canonical.digest(bare) != canonical.digest(resolved)
    assert not bare.adaptive


def test_a_rule_about_a_stage_finds_it_where_others_do_nothing() -> None:
    stages = [{"at": "projector", "keep": 1, "score": "random"}, *STAGES[1:]]
    resolved = canonical.resolve(Policy.parse(document(stages=stages), PARTS), geometry(), PARTS)
    assert [(r.when, r.stage) for r in resolved.guard] == [("tokens_below", 0), ("prompt", 0), ("entropy_above", 0)]
    idle = [{"when": {"entropy_above": 0.5}, "use": "none"}]
    assert not canonical.resolve(Policy.parse(document(idle, stages), PARTS), geometry(), PARTS).guard


def test_watched_scores_are_kept_where_only_their_order_counted() -> None:
    stages = [{"at": "llm:2", "keep": "1/2", "score": {"mix": {"weights": {"feature_norm": 1}, "normalise": "sum"}}}]
    rule = [{"when": {"entropy_above": 0.5}, "use": "none"}]
    plain, watched = (
        canonical.resolve(Policy.parse(document(guard, stages), PARTS), geometry(), PARTS) for guard in ([], rule)
    )
    assert type(plain.stages[0].picks[0].score).__name__ == "Part"
    assert type(watched.stages[0].picks[0].score).__name__ == "Mix"


def test_without_a_stage_rules_follow_theirs() -> None:
    policy = Policy.parse(document(), PARTS)
    first, second = without_stages(policy, 6, None)
    assert [(r.when, r.stage) for r in first.guard] == [("tokens_below", 0), ("prompt", 0), ("entropy_above", 0)]
    assert [r.when for r in second.guard] == ["tokens_below", "prompt"]


STEPS = [(0, Keep("fraction", Fraction(1, 2))), (2, Keep("of_current", Fraction(1, 2)))]


def spent(made: list[int], n: int) -> Fraction:
    return Fraction(made[0] * 2 + made[1] * 4, 6 * n)


@pytest.mark.parametrize("n", [1, 2, 36, 37, 576])
@pytest.mark.parametrize("budget", [Fraction(1, 2), Fraction(2, 3), Fraction(9, 10), Fraction(1)])
def test_a_sample_is_held_at_the_budget_as_near_as_tokens_allow(n: int, budget: Fraction) -> None:
    own = list(count_steps(STEPS, n, 6, [0, 0]))
    made = to_come(gentler(Counting(STEPS, n, 6, [0, 0]), budget))
    if spent(own, n) >= budget:
        assert made == own
        return
    assert own[0] <= made[0] <= n
    assert own[1] <= made[1] <= made[0]
    assert spent(made, n) <= budget
    more = [made[0], made[1] + 1]
    assert more[1] > more[0] or spent(more, n) > budget


def test_none_keeps_what_is_there() -> None:
    own = Counting(STEPS, 36, 6, [0, 0])
    assert to_come(gentler(own, None)) == [36, 36]
    own.next()
    assert to_come(gentler(own, None)) == [18]
    assert to_come(gentler(own, Fraction(1, 2))) == [18]
    assert to_come(gentler(own, Fraction(2, 5))) == [12]  # (2 · 18 + 4 · k) / (6 · 36) <= 2/5


def test_counts_of_a_run_are_taken_as_they_are() -> None:
    resolved = canonical.resolve(Policy.parse(document(), PARTS), geometry(), PARTS)
    assert counts(resolved, 36) == (18, 9)
    assert counts(resolved, 36, 0, (36, 36)) == (36, 36)
