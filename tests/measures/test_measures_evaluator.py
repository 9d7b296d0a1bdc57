"""The evaluator on a tiny random model: numbers, order, equality with `generate`, outcomes that are not numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoprune.calibration.batches import Batch, batches, collate
from autoprune.errors import BadInput
from autoprune.measures.context import evaluation_context
from autoprune.measures.costs import costs
from autoprune.measures.device import device_name
from autoprune.measures.errors import NonFinite
from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.policy import canonical
from autoprune.policy.budget import Infeasible
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import EvalRequest, Measurement, MeasureRequest
from autoprune.pruning.session import Session

MODEL_MEASURES = ("exact_match", "answer_nll", "logit_kl", "information_flow", "loyalty")
COSTS = ("budget", "budget_max", "prefill_flops", "kv_bytes")
DEPTH = 4


def stage(layer: int, keep: Keep, criterion: Part, site: str = "llm") -> ResolvedStage:
    pick = ResolvedPick(criterion, Part("top"))
    return ResolvedStage("projector" if site == "projector" else "llm", layer, keep, (pick,), Part("drop"))


def fraction(text: str) -> Keep:
    return Keep("fraction", Fraction(text))


LAST_ROW = Part("llm_attention", {"layer": 1, "from": "last"})
NORM = Part("feature_norm", {"space": "hidden"})
GENTLE = ResolvedPolicy((stage(2, fraction("1/2"), LAST_ROW),), DEPTH)
HARSH = ResolvedPolicy(
    (
        stage(0, fraction("1/3"), Part("random", {"seed": 1}), "projector"),
        stage(3, Keep("of_current", Fraction(1, 2)), NORM),
    ),
    DEPTH,
)
LONG_KEYS = ResolvedPolicy(
    (stage(2, fraction("1/3"), Part("feature_norm", {"space": "keys", "order": "l1"})),), DEPTH
)  # the L1 norm of a rotated key depends on its position
EVERYTHING_GONE = ResolvedPolicy((stage(0, fraction("0"), Part("random"), "projector"),), DEPTH)


def measure(evaluator: ModelEvaluator, policy: ResolvedPolicy | None, *labels: str, **more: Any) -> Measurement:
    text = None if policy is None else canonical.to_json(policy)
    return evaluator.evaluate(EvalRequest(text, more.pop("split", "search"), labels, **more))


@pytest.fixture(scope="module")
def evaluator(tiny: Any) -> ModelEvaluator:
    made: ModelEvaluator = tiny.build(*MODEL_MEASURES, *COSTS)
    return made


def greedy(evaluator: ModelEvaluator, policy: ResolvedPolicy, split: str, steps: int) -> list[list[int]]:
    """What `generate` says for every record of a split, each on its own."""
    loaded, data = evaluator.loaded, evaluator._data[split]  # type: ignore[index]
    said = []
    with torch.inference_mode(), Session(loaded.model, policy):
        for row in data.rows(len(data.records)):
            batch = collate([row], [()], [0], loaded.pad)
            made = loaded.model.generate(**batch.inputs, max_new_tokens=steps, do_sample=False)
            said.append(made[0, row.length :].tolist())
    return said


@pytest.mark.parametrize("policy", [GENTLE, HARSH], ids=["gentle", "harsh"])
def test_exact_match_is_what_generate_says(evaluator: ModelEvaluator, policy: ResolvedPolicy) -> None:
    data = evaluator._data["search"]
    rows = data.rows(len(data.records))
    result = measure(evaluator, policy, "exact_match").samples["exact_match"]
    said = greedy(evaluator, policy, "search", max(len(row.answer) for row in rows))
    expected = [float(tuple(words[: len(row.answer)]) == row.answer) for words, row in zip(said, rows, strict=True)]
    assert len(rows) >= 64
    assert 0 < sum(expected) < len(expected)
    assert list(result) == expected


def test_the_unpruned_model_is_loyal_and_undisturbed(evaluator: ModelEvaluator) -> None:
    result = measure(evaluator, None, *MODEL_MEASURES, *COSTS)
    assert result.values["loyalty"] == 1
    assert result.values["logit_kl"] == pytest.approx(0, abs=1e-6)
    assert result.values["information_flow"] == pytest.approx(0, abs=1e-6)
    assert result.values["budget"] == result.values["budget_max"] == 1
    assert 0.2 < result.values["exact_match"] < 0.9


def test_loyalty_is_exact_match_with_the_models_own_answers(evaluator: ModelEvaluator) -> None:
    count = len(evaluator._data["search"].records)
    own = [words for words in evaluator._data["search"].own_answers(count, 16)]
    said = greedy(evaluator, HARSH, "search", 16)
    expected = [float(tuple(words[: len(answer)]) == answer) for words, answer in zip(said, own, strict=True)]
    assert list(measure(evaluator, HARSH, "loyalty").samples["loyalty"]) == expected
    assert 0 < sum(expected) < count


def test_pruning_shows_and_costs_are_no_samples(evaluator: ModelEvaluator) -> None:
    result = measure(evaluator, HARSH, *MODEL_MEASURES, *COSTS)
    assert result.values["logit_kl"] > 1e-3
    assert result.values["information_flow"] > 1e-3
    assert result.values["budget"] == pytest.approx((12 * 3 + 6) / (4 * 36), abs=1e-9)
    assert set(result.samples) == set(MODEL_MEASURES)
    assert len(result.images) == len(result.records) == 64
    for label, numbers in result.samples.items():
        assert result.values[label] == pytest.approx(sum(numbers) / 64)


@pytest.mark.parametrize("resolved", [HARSH, LONG_KEYS], ids=["harsh", "by rotated keys"])
def test_numbers_do_not_depend_on_batches(tiny: Any, evaluator: ModelEvaluator, resolved: ResolvedPolicy) -> None:
    many = measure(evaluator, resolved, *MODEL_MEASURES)
    single = measure(tiny.build(*MODEL_MEASURES, batch_size=1), resolved, *MODEL_MEASURES)
    for label in MODEL_MEASURES:
        assert single.samples[label] == pytest.approx(many.samples[label], rel=1e-4, abs=1e-5)


def references(made: ModelEvaluator) -> list[Any]:
    """What the unpruned model makes of batches, as far as it is kept."""
    cache = made._data["search"].references._cache
    assert cache is not None
    return [cache.get(key) for key in list(cache._entries) if cache.label(key) == "reference"]


def test_reference_logits_are_kept_only_where_a_measure_reads_them(tiny: Any) -> None:
    made = tiny.build("information_flow", "logit_kl")
    alone = measure(made, HARSH, "information_flow", limit=6)
    assert not any(found.logits is not None for found in references(made))
    both = measure(made, HARSH, "information_flow", "logit_kl", limit=6)
    (kept,) = references(made)
    assert kept.logits is not None
    assert len(kept.logits) == sum(len(r.answer) for r in made._data["search"].rows(6))
    assert both.samples["information_flow"] == pytest.approx(alone.samples["information_flow"], abs=1e-6)


def test_numbers_stand_in_record_order(evaluator: ModelEvaluator) -> None:
    data = evaluator._data["search"]
    result = measure(evaluator, HARSH, "answer_nll", "information_flow")
    assert result.records == tuple(record.id for record in data.records)
    assert result.images == data.images
    for place in (0, 17, 63):
        alone = {"search": dataclass_slice(data, place)}
        one = ModelEvaluator(evaluator.loaded, alone, evaluator._measures, 4)  # type: ignore[arg-type]
        again = measure(one, HARSH, "answer_nll", "information_flow")
        for label in ("answer_nll", "information_flow"):
            assert again.samples[label][0] == pytest.approx(result.samples[label][place], rel=1e-4, abs=1e-5)


def dataclass_slice(data: Any, place: int) -> Any:
    return type(data)(data._loaded, data._encoder, [data.records[place]], [data.images[place]], 4)


def test_a_limit_takes_the_first_records(evaluator: ModelEvaluator) -> None:
    whole = measure(evaluator, GENTLE, "answer_nll", "logit_kl")
    part = measure(evaluator, GENTLE, "answer_nll", "logit_kl", limit=10)
    assert part.records == whole.records[:10]
    assert part.samples["answer_nll"] == pytest.approx(whole.samples["answer_nll"][:10], rel=1e-4, abs=1e-5)
    assert len(measure(evaluator, GENTLE, "answer_nll", limit=10_000).records) == 64


def test_the_splits_share_no_image(evaluator: ModelEvaluator) -> None:
    search = measure(evaluator, GENTLE, "exact_match")
    holdout = measure(evaluator, GENTLE, "exact_match", split="holdout")
    assert len(holdout.records) == 24
    assert not set(search.images) & set(holdout.images)


# ------------------------------------------------------------------------------------------------------ costs and runs
@pytest.mark.parametrize("policy", [GENTLE, HARSH, EVERYTHING_GONE], ids=["gentle", "harsh", "nothing"])
def test_lengths_and_cache_bytes_are_those_of_a_run(evaluator: ModelEvaluator, policy: ResolvedPolicy) -> None:
    loaded, data = evaluator.loaded, evaluator._data["search"]
    expected = evaluator.sample_costs(policy, data, 12)
    assert len({s.unpruned for s in expected}) == 2  # one and two images
    for row, cost in zip(data.rows(12), expected, strict=True):
        batch = collate([row], [()], [0], loaded.pad)
        with torch.inference_mode(), Session(loaded.model, policy) as session:
            output = loaded.model(**batch.inputs, use_cache=True, logits_to_keep=1)
        assert session.run.n == [cost.unpruned]
        assert tuple(layer[0] for layer in session.run.lengths) == cost.visual
        stored = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        assert sum(t.untyped_storage().nbytes() for pair in stored for t in pair) == cost.kv_bytes


def test_decode_bytes_are_those_of_a_run(tiny: Any) -> None:
    """Every step of an answer of six tokens: what its layers hold when they attend."""
    made = tiny.build(MeasureRequest("decode_bytes", {"tokens": 6}))
    loaded, rows = made.loaded, made._data["search"].rows(3)
    seen = []
    for row in rows:
        batch = collate([row], [()], [0], loaded.pad)
        with torch.inference_mode(), Session(loaded.model, HARSH):
            output = loaded.model(**batch.inputs, use_cache=True, logits_to_keep=1)
            mask = batch.inputs["attention_mask"]
            for _ in range(5):
                mask = torch.cat([mask, mask[:, -1:]], 1)
                word = output.logits[:, -1:].argmax(-1)
                cache = output.past_key_values
                output = loaded.model(input_ids=word, attention_mask=mask, past_key_values=cache, use_cache=True)
                seen.append(sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values)))
    assert measure(made, HARSH, "decode_bytes", limit=3).values["decode_bytes"] == pytest.approx(sum(seen) / len(seen))


@pytest.mark.parametrize("labels", [("answer_nll",), ("loyalty",), ()], ids=["given", "own", "costs"])
def test_costs_of_counts_that_samples_decide_are_those_of_their_run(
    evaluator: ModelEvaluator, labels: tuple[str, ...]
) -> None:
    rule = Part("threshold", {"above": 1.0, "of": "mean"})
    policy = ResolvedPolicy((stage(1, Keep("rule", Fraction(1), rule), NORM),), DEPTH)
    loaded, rows = evaluator.loaded, evaluator._data["search"].rows(12)
    budgets, kept = [], []
    for row in rows:
        batch = collate([row], [()], [0], loaded.pad)
        with torch.inference_mode(), Session(loaded.model, policy) as session:
            loaded.model(**batch.inputs, use_cache=False, logits_to_keep=1)
        budgets.append((sum(layer[0] for layer in session.run.lengths), DEPTH * session.run.n[0]))
        kept.append(session.run.counts[0][0])
    assert len(set(kept)) > 2
    found = measure(evaluator, policy, *labels, "budget", "budget_max", "kv_bytes", limit=12)
    assert found.values["budget"] == pytest.approx(sum(a for a, _ in budgets) / sum(b for _, b in budgets))
    assert found.values["budget_max"] == pytest.approx(max(a / b for a, b in budgets))
    again = evaluator.evaluate(EvalRequest(canonical.to_json(policy), "search", ("kv_bytes",), 12))
    assert again.values["kv_bytes"] == found.values["kv_bytes"]


@pytest.mark.parametrize("policy", [None, GENTLE, HARSH], ids=["unpruned", "gentle", "harsh"])
def test_flops_are_those_of_a_run(tiny: Any, policy: ResolvedPolicy | None) -> None:
    """Eager attention, because the counter does not see the CPU's fused kernel. The formula leaves out the position
    tables (a tiny outer product) and the arithmetic of choosing tokens: 0.5 % of this tiny model at most."""
    evaluator = tiny.build("prefill_flops", attn_implementation="eager")
    loaded, data = evaluator.loaded, evaluator._data["search"]
    resolved = policy or ResolvedPolicy((), DEPTH)
    for row, cost in zip(data.rows(4), evaluator.sample_costs(resolved, data, 4), strict=True):
        batch = collate([row], [()], [0], loaded.pad)
        with torch.inference_mode(), Session(loaded.model, resolved), FlopCounterMode(display=False) as counter:
            loaded.model(**batch.inputs, use_cache=False, logits_to_keep=1)
        assert counter.get_total_flops() == pytest.approx(cost.prefill_flops, rel=5e-3)


def test_answers_stay_the_last_physical_columns(evaluator: ModelEvaluator) -> None:
    loaded, data = evaluator.loaded, evaluator._data["search"]
    rows = data.rows(8)
    batch: Batch = next(batches(rows, [row.answer for row in rows], 8, loaded.pad))
    with torch.inference_mode(), Session(loaded.model, HARSH) as session, session.teacher_forced(batch.answer_start):
        loaded.model(**batch.inputs, use_cache=False)
    index, _ = session.run.index(DEPTH - 1)
    width = batch.inputs["input_ids"].shape[1]
    assert index.shape[1] < width
    logical = index[batch.owners, batch.columns]
    assert torch.equal(logical, width + batch.columns)
    assert torch.equal(batch.inputs["input_ids"][batch.owners, logical + 1], batch.targets)
    last = index[torch.arange(8), batch.last_prompt]
    assert torch.equal(last, batch.answer_start - 1)


def test_costs_need_to_know_the_pictures(evaluator: ModelEvaluator) -> None:
    geometry = dataclasses.replace(evaluator.geometry, tokens_per_image=None)
    with pytest.raises(BadInput, match="how many pictures"):
        costs(GENTLE, geometry, [36], [5], 4)
    known = costs(GENTLE, geometry, [36], [5], 4, pictures=[1])
    assert known == costs(GENTLE, evaluator.geometry, [36], [5], 4)


def test_newlines_are_held(evaluator: ModelEvaluator) -> None:
    (cost,) = costs(HARSH, evaluator.geometry, [36], [5], 4, newlines=[20])
    assert cost.visual == (20, 20, 20, 20)


# ------------------------------------------------------------------------------------- outcomes that are not numbers
def test_a_nan_names_measure_and_record(tiny: Any) -> None:
    evaluator = tiny.build("answer_nll", "exact_match")
    with torch.no_grad():
        evaluator.loaded.model.lm_head.weight[7] = float("nan")
    with pytest.raises(NonFinite) as caught:
        measure(evaluator, None, "exact_match", "answer_nll")
    assert caught.value.measure == "answer_nll"
    assert caught.value.record == evaluator._data["search"].records[0].id


def test_running_out_of_memory_passes_through(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = tiny.build("exact_match")

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(evaluator.loaded.model.lm_head, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        measure(evaluator, GENTLE, "exact_match")
    monkeypatch.undo()
    assert len(measure(evaluator, GENTLE, "exact_match").records) == 64  # the policy was detached


def test_an_unreachable_budget_is_infeasible(evaluator: ModelEvaluator) -> None:
    late = ResolvedPolicy((stage(3, Keep("to_budget", Fraction(1, 10)), NORM),), DEPTH)
    for label in ("budget", "exact_match"):
        with pytest.raises(Infeasible):
            measure(evaluator, late, label)


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (("accuracy",), {}, "not among this worker's measures: accuracy"),
        (("exact_match",), {"limit": 0}, "at least one record"),
    ],
)
def test_bad_requests(evaluator: ModelEvaluator, labels: tuple[str, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        measure(evaluator, None, *labels, **more)


def lines_of(tiny: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(tiny.records).read_text().splitlines()]


Writer = Callable[[Path, list[dict[str, Any]]], str]


def test_measures_that_need_answers_say_so(tiny: Any, records_file: Writer) -> None:
    lines = [{k: v for k, v in line.items() if k != "answer"} for line in lines_of(tiny)]
    path = records_file(Path(tiny.records).parent / "unanswered.jsonl", lines)
    blank = dataclasses.replace(tiny, records=path)
    with pytest.raises(BadInput, match=r"exact_match, answer_nll compare with answers, which 88 records lack"):
        blank.build("exact_match", "answer_nll", "loyalty")
    result = measure(blank.build("information_flow", "loyalty"), HARSH, "information_flow", "loyalty")
    assert result.values["information_flow"] > 1e-3
    assert 0 < result.values["loyalty"] < 1


def test_a_changed_calibration_set_is_refused(tiny: Any) -> None:
    spec = tiny.spec("exact_match")
    stale = dataclasses.replace(spec, calibration=dataclasses.replace(spec.calibration, digest="0" * 64))
    with pytest.raises(BadInput, match="not the one this study was started with"):
        build(stale)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_path": "/nowhere/model"}, "no such model folder"),
        ({"dtype": "float64"}, "not one of float32"),
        ({"measures": (MeasureRequest("information_flow", {"layers": [9]}),)}, "layer 9 is not among 1 to 4"),
    ],
)
def test_what_cannot_be_built(tiny: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(dataclasses.replace(tiny.spec("exact_match"), **changes))


def test_pickled_weights_are_not_read(tiny: Any, tmp_path: Path) -> None:
    for file in Path(tiny.model).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="cannot be loaded"):
        build(dataclasses.replace(tiny.spec("exact_match"), model_path=str(tmp_path)))


# -------------------------------------------------------------------------------------------------------------- context
def test_the_context_is_about_content(tiny: Any) -> None:
    spec = tiny.spec("exact_match", "information_flow")
    context = evaluation_context(spec)
    assert set(context.libraries) == {"autoprune", "torch", "transformers", "tokenizers"}
    assert context.measure_versions["exact_match"] == "1:{}"
    assert evaluation_context(dataclasses.replace(spec, batch_size=3, threads=None)) == context
    assert context.device == ""
    timed = evaluation_context(tiny.spec("exact_match", "prefill_latency"))
    assert timed.device == device_name("cpu")
    assert timed.device.endswith("cores")
    calibration = dataclasses.replace(spec.calibration, seed=2)
    for changed in (
        dataclasses.replace(spec, dtype="bfloat16"),
        dataclasses.replace(spec, calibration=calibration),
        dataclasses.replace(spec, measures=(MeasureRequest("information_flow", {"layers": [1]}),)),
    ):
        assert evaluation_context(changed) != context
