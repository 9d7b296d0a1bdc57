"""What is known of the first records is not run again, and what comes of both is one full evaluation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from torch.utils.hooks import RemovableHandle

from autoprune.calibration.batches import batches, halves, plan
from autoprune.measures.evaluator import ModelEvaluator
from autoprune.measures.prefix_cache import foretold
from autoprune.measures.registry import find, names
from autoprune.policy import canonical
from autoprune.policy.guard import Rule
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import EvalRequest, Measurement, MeasureRequest, Reporting

DEPTH, RECORDS = 4, 64
OPTIONS: dict[str, dict[str, Any]] = {"prefill_latency": {"records": 2, "rounds": 2}}
ALL = tuple(names())
NORM = ResolvedPick(Part("feature_norm", {"space": "hidden"}), Part("top"))
FIXED = ResolvedPolicy(
    (
        ResolvedStage("projector", 0, Keep("fraction", Fraction(2, 3)), (NORM,), Part("nearest")),
        ResolvedStage("llm", 2, Keep("fraction", Fraction(1, 4)), (NORM,), Part("drop")),
    ),
    DEPTH,
)
RULE = Keep("rule", Fraction(1), Part("threshold", {"above": 1.0, "of": "mean"}))
RULED = ResolvedPolicy((ResolvedStage("llm", 1, RULE, (NORM,), Part("drop")),), DEPTH)


@pytest.fixture(scope="module")
def evaluator(tiny: Any) -> ModelEvaluator:
    made: ModelEvaluator = tiny.build(*(MeasureRequest(name, OPTIONS.get(name, {})) for name in ALL), batch_size=8)
    return made


def ask(
    evaluator: ModelEvaluator,
    policy: ResolvedPolicy | None,
    limit: int | None = None,
    known: Measurement | None = None,
    labels: tuple[str, ...] = ALL,
) -> Measurement:
    text = None if policy is None else canonical.to_json(policy)
    return evaluator.evaluate(EvalRequest(text, "search", labels, limit, known=known))


class Rows:
    """How many records the decoder is given meanwhile."""

    def __init__(self, evaluator: ModelEvaluator) -> None:
        self._model, self.seen = evaluator.loaded.model.model.language_model, 0

    def __enter__(self) -> Rows:
        self._handle: RemovableHandle = self._model.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        self.seen += len(kwargs["inputs_embeds"])

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize("policy", [FIXED, RULED, None], ids=["fixed", "ruled", "unpruned"])
@pytest.mark.parametrize("limits", [(16,), (5, 31), (64,)], ids=str)
def test_joined_is_one_full_evaluation(
    evaluator: ModelEvaluator, policy: ResolvedPolicy | None, limits: tuple[int, ...]
) -> None:
    """Every measure there is: those of the pass, of a second one over own answers, costs, the corpus's, a timing."""
    whole = ask(evaluator, policy)
    found, before = None, 0
    for limit in (*limits, None):
        found = ask(evaluator, policy, limit, found)
        assert found.fresh == (limit or RECORDS) - before
        before = limit or RECORDS
    assert found is not None
    assert (found.records, found.images, found.counts) == (whole.records, whole.images, whole.counts)
    assert set(found.values) == set(ALL)
    for label in ALL:
        info = find(label)
        assert info is not None
        if info.timed:
            continue
        assert found.values[label] == pytest.approx(whole.values[label], rel=1e-5, abs=1e-5), label
        if info.by_record:
            assert found.samples[label] == pytest.approx(whole.samples[label], rel=1e-5, abs=1e-5), label


def test_only_the_missing_records_are_run(evaluator: ModelEvaluator) -> None:
    labels = ("exact_match", "answer_nll", "prefill_flops")
    look = ask(evaluator, FIXED, 16, labels=labels)
    with Rows(evaluator) as rows:
        ask(evaluator, FIXED, None, look, labels)
    assert rows.seen == RECORDS - 16
    with Rows(evaluator) as rows:  # less than is known
        part = ask(evaluator, FIXED, 10, look, labels)
    assert (rows.seen, part.fresh, len(part.records)) == (0, 0, 10)
    assert part.samples["answer_nll"] == look.samples["answer_nll"][:10]


def test_a_timing_is_not_taken_twice(evaluator: ModelEvaluator) -> None:
    look = ask(evaluator, FIXED, 4, labels=("answer_nll", "prefill_latency"))
    told = replace(look, values={**look.values, "prefill_latency": 0.123})
    assert ask(evaluator, FIXED, None, told).values["prefill_latency"] == 0.123


def test_what_a_look_left_out_is_measured_on_all_records(evaluator: ModelEvaluator) -> None:
    """A pass that the look made is joined, another one is made as a whole."""
    look = ask(evaluator, FIXED, 16, labels=("exact_match", "answer_nll"))
    labels = ("exact_match", "answer_nll", "loyalty", "budget_max")
    joined, whole = ask(evaluator, FIXED, None, look, labels), ask(evaluator, FIXED, None, None, labels)
    assert joined.fresh == RECORDS - 16
    assert joined.samples["loyalty"] == whole.samples["loyalty"]
    alone = ask(evaluator, FIXED, None, look, ("loyalty", "logit_kl"))
    assert (alone.fresh, len(alone.samples["logit_kl"])) == (RECORDS, RECORDS)


def test_numbers_of_other_records_are_refused(evaluator: ModelEvaluator) -> None:
    look = ask(evaluator, FIXED, 4, labels=("answer_nll",))
    with pytest.raises(ValueError, match="other records"):
        ask(evaluator, FIXED, None, replace(look, records=look.records[::-1]), ("answer_nll",))


def test_it_survives_being_written_down(evaluator: ModelEvaluator) -> None:
    look = ask(evaluator, RULED, 6, labels=("answer_nll", "budget"))
    assert len(look.counts) == look.fresh == 6
    assert Measurement.from_json(json.loads(json.dumps(look.to_json()))) == look


# ------------------------------------------------------------------------------------------------------- whose batches
def test_batches_of_a_part_are_batches_of_the_whole() -> None:
    lengths = [(7 * i) % 23 for i in range(200)]
    ends = halves(200, 8)
    assert ends == (13, 25, 50, 100)
    whole = {tuple(group) for group in plan(lengths, 8, ends)}
    for limit in ends:
        part = [tuple(group) for group in plan(lengths[:limit], 8, [end for end in ends if end < limit])]
        assert set(part) <= whole
        assert sorted(i for group in part for i in group) == list(range(limit))
    assert max(map(len, whole)) == 8
    assert len(whole) <= 200 / 8 + len(ends) + 1


def test_a_full_pass_goes_on_where_a_look_was(tiny: Any) -> None:
    made = tiny.build("answer_nll", batch_size=8)
    ask(made, FIXED, 16, labels=("answer_nll",))
    before = made.stats.hits
    ask(made, FIXED, None, labels=("answer_nll",))  # without being told: the prefixes of the first 16 are there
    assert made.stats.hits - before == 2
    assert len(list(batches(made._data["search"].rows(16), [()] * 16, 8, 0))) == 2


# ----------------------------------------------------------------------------------------------- the unpruned model's
def test_what_the_unpruned_model_does_is_kept_within_the_caches_bound(tiny: Any) -> None:
    """Where there is no room it is computed again, batch by batch, beside the policy that is measured."""
    labels = ("information_flow", "logit_kl")
    whole = ask(tiny.build(*labels, batch_size=8), FIXED, 20, labels=labels)
    for bound in (0, 1, 20_000):
        made = tiny.build(*labels, batch_size=8, cache=bound)
        for _ in range(2):
            found = ask(made, FIXED, 20, labels=labels)
            for label in labels:
                assert found.samples[label] == pytest.approx(whole.samples[label], rel=1e-5, abs=1e-5)
        beside = sum(data.references.beside for data in made._data.values())
        assert (beside > 0) == (bound == 0)
        assert made.stats is None or made.stats.bytes <= bound


def test_a_worker_says_what_it_kept(tiny: Any) -> None:
    made = tiny.build("logit_kl", batch_size=8)
    ask(made, FIXED, 8, labels=("logit_kl",))
    (line,) = made.report()
    assert isinstance(made, Reporting)
    pixels = sum(row.vision["pixel_values"].nbytes for row in {id(r.vision): r for r in rows(made)}.values())
    assert line == f"cache: {made.stats}; pixels and what else no cache bounds: {pixels / 2**20:.1f} MiB"
    (line,) = made.beside(None).report()
    assert line.startswith("no cache; ")


def rows(made: ModelEvaluator) -> list[Any]:
    return made._data["search"].rows(8)


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "trials share nothing"), (3 * 2**29, "at most 1.5 GiB of"), (2**20, "1.0 MiB of"), (None, "at most about ")],
)
def test_how_much_it_may_be_is_said_before(size: int | None, said: str) -> None:
    assert said in foretold(size)


def test_a_guard_is_measured_on_the_user_s_words_alone(evaluator: ModelEvaluator) -> None:
    """The chat template adds roles, which a service that gives the user's words to `using` does not see."""
    rows = evaluator._data["search"].rows(16)
    assert not any("assistant" in row.words for row in rows)
    for pattern in ("assistant|user", "^" + re.escape(rows[0].words) + "$"):
        guarded = replace(FIXED, guard=(Rule("prompt", pattern=pattern),))
        counts = ask(evaluator, guarded, 16, labels=("answer_nll",)).counts
        let_off = [counted == (row.visual, row.visual) for row, counted in zip(rows, counts, strict=True)]
        assert let_off == [re.search(pattern, row.words) is not None for row in rows]
        assert any(let_off) == (pattern != "assistant|user")
