"""Every measure by numbers worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from autoprune.errors import BadInput
from autoprune.measures import distances
from autoprune.measures.costs import SampleCost
from autoprune.measures.registry import find, is_accuracy, measure, names
from autoprune.measures.requests import parse, requested
from autoprune.measures.views import View
from autoprune.ports import MeasureRequest

ALL = (
    "answer_nll",
    "budget",
    "budget_max",
    "decode_bytes",
    "exact_match",
    "information_flow",
    "kv_bytes",
    "logit_kl",
    "loyalty",
    "prefill_flops",
    "prefill_latency",
    "selection_flops",
)


def run(view: View, name: str, **options: object) -> list[float]:
    one = parse(MeasureRequest(name, options))
    result: list[float] = one.info.run(view, one.config).tolist()
    return result


def view(logits: list[list[float]], targets: list[int], owners: list[int], **more: object) -> View:
    return View(
        size=max(owners) + 1,
        depth=4,
        logits=torch.tensor(logits),
        targets=torch.tensor(targets),
        owners=torch.tensor(owners),
        ends=torch.tensor([3, 4]),
        **more,  # type: ignore[arg-type]
    )


def one_hot(word: int) -> list[float]:
    return [5.0 if i == word else 0.0 for i in range(5)]


def test_exact_match_wants_every_position_and_the_end() -> None:
    seen = view(
        [*map(one_hot, (1, 2, 3)), *map(one_hot, (1, 2)), *map(one_hot, (0, 3)), *map(one_hot, (1, 4))],
        [1, 2, 3, 1, 3, 1, 3, 1, 3],
        [0, 0, 0, 1, 1, 2, 2, 3, 3],
    )
    # right; does not stop; first word wrong; stops with another end token
    assert run(seen, "exact_match") == [1, 0, 0, 1]
    assert run(seen, "loyalty") == [1, 0, 0, 1]


def test_an_end_token_does_not_excuse_a_wrong_word() -> None:
    assert run(view([one_hot(4), one_hot(3)], [1, 3], [0, 0]), "exact_match") == [0]


def test_answer_nll_is_the_mean_per_token() -> None:
    log = math.log
    seen = view(
        [[log(0.5), log(0.2), log(0.1), log(0.1), log(0.1)], [log(0.2)] * 5, [log(0.2)] * 5], [0, 3, 3], [0, 0, 1]
    )
    assert run(seen, "answer_nll") == pytest.approx([-(log(0.5) + log(0.2)) / 2, -log(0.2)])


def test_logit_kl_is_from_full_to_pruned() -> None:
    full, pruned = [0.7, 0.1, 0.1, 0.05, 0.05], [0.2, 0.2, 0.2, 0.2, 0.2]
    logs = [[math.log(p) + 3 for p in row] for row in (full, pruned)]
    seen = view([logs[1], logs[0]], [0, 3], [0, 0], reference=torch.tensor([logs[0], logs[0]]))
    expected = sum(p * math.log(p / q) for p, q in zip(full, pruned, strict=True)) / 2
    assert run(seen, "logit_kl") == pytest.approx([expected])


def test_information_flow_averages_distances_over_layers() -> None:
    seen = View(
        size=2,
        depth=4,
        logits=torch.zeros(0, 5),
        targets=torch.zeros(0, dtype=torch.long),
        owners=torch.zeros(0, dtype=torch.long),
        ends=torch.tensor([3]),
        states={
            ("last", 2): torch.tensor([[1.0, 0.0], [3.0, 4.0]]),
            ("last", 4): torch.tensor([[0.0, 2.0], [3.0, 4.0]]),
        },
        reference_states={
            ("last", 2): torch.tensor([[1.0, 1.0], [3.0, 4.0]]),
            ("last", 4): torch.tensor([[0.0, 1.0], [6.0, 8.0]]),
        },
        rows={"last": torch.tensor([0, 1])},
    )
    half = 1 - 1 / math.sqrt(2)
    assert run(seen, "information_flow") == pytest.approx([half / 2, 0], abs=1e-6)
    assert run(seen, "information_flow", layers=[2], distance="l2") == pytest.approx([1 / math.sqrt(2), 0], abs=1e-6)
    assert run(seen, "information_flow", layers=["1/2", -1], distance="l2") == pytest.approx(
        [(1 / math.sqrt(2) + 1) / 2, 0.25], abs=1e-6
    )
    assert run(seen, "information_flow", layers={"1/2": 1, "last": 3}, distance="l2") == pytest.approx(
        [(1 / math.sqrt(2) + 3) / 4, 0.375], abs=1e-6
    )


def test_layers_round_half_up_and_stay_inside_the_model() -> None:
    def layers(*given: object) -> tuple[int, ...]:
        states = parse(MeasureRequest("information_flow", {"layers": list(given)})).states(5)
        assert {tokens for tokens, _ in states} == {"last"}
        return tuple(layer for _, layer in states)

    assert layers("1/2", "1/10", 0.3, -1, 4) == (3, 1, 2, 5, 4)
    assert layers(-5) == (1,)
    for outside in (0, 6, -6):
        with pytest.raises(BadInput, match=f"layer {outside} is not among 1 to 5"):
            layers(outside)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("last", {4: 1}),
        ("every", {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}),
        ("weighted", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}),
        ({"1/2": 0.3, "last": 0.9}, {2: 0.25, 4: 0.75}),
        (["1/2", 2, -1], {2: 2 / 3, 4: 1 / 3}),
    ],
)
def test_layers_have_weights(layers: object, expected: dict[int, float]) -> None:
    config = parse(MeasureRequest("information_flow", {"layers": layers})).config
    assert config.weights(4) == pytest.approx(expected)
    again = parse(MeasureRequest("information_flow", config.model_dump(mode="json"))).config
    assert again == config


def test_options_that_came_later_do_not_show_where_they_are_not_used() -> None:
    """The version is part of what an evaluation is remembered under."""
    assert parse(MeasureRequest("information_flow")).version == '1:{"layers":["1/2",-1],"distance":"cosine"}'
    assert '"tokens":"text"' in parse(MeasureRequest("information_flow", {"tokens": "text"})).version


def test_only_answer_tokens_need_answers() -> None:
    for tokens, needs in (("last", {"states"}), ("text", {"states"}), ("answer", {"states", "answers"})):
        assert parse(MeasureRequest("information_flow", {"tokens": tokens})).needs == needs


def test_cka_forgives_rotations_but_not_new_relations() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(9, 3, generator=generator)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    assert distances.cka(2 * full @ turn + 1, full, [4, 5]).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert distances.cka(full.flip(0), full, [4, 5]).min() > 0.05
    assert distances.cka(full[:2], full[2:4], [2]).tolist() == pytest.approx([0], abs=1e-6)  # why two do not do


def test_budgets_pool_samples_and_find_the_worst() -> None:
    samples = [
        SampleCost(10, (10, 5), 3, 100, 7, 6),
        SampleCost(30, (30, 15), 4, 300, 9, 3),
        SampleCost(10, (10, 10), 3, 2, 2, 0),
    ]
    values = {n: parse(MeasureRequest(n)).info.run(samples, None) for n in ("budget", "budget_max")}
    assert values == {"budget": 80 / 100, "budget_max": 1.0}
    assert parse(MeasureRequest("prefill_flops")).info.run(samples, None) == 134
    assert parse(MeasureRequest("kv_bytes")).info.run(samples, None) == 6
    assert parse(MeasureRequest("selection_flops")).info.run(samples, None) == 3


def test_decoding_reads_the_cache_and_what_was_said() -> None:
    """Two layers of 8 + 3 and 4 + 3 positions, 5 bytes each; steps of an answer of 5 tokens read 1, 2, 3, 4 more."""
    one = parse(MeasureRequest("decode_bytes", {"tokens": 5}))
    expected = sum(5 * ((11 + j) + (7 + j)) for j in (1, 2, 3, 4)) / 4
    assert one.info.run([SampleCost(10, (8, 4), 3, 0, 5 * 18, 0)], one.config) == expected


# ------------------------------------------------------------------------------------------------------------- registry
def test_the_registry_knows_all_and_what_they_need() -> None:
    assert names() == ALL
    costs = {name for name in names() if getattr(find(name), "cost", False)}
    assert costs == {"budget", "budget_max", "decode_bytes", "kv_bytes", "prefill_flops", "selection_flops"}
    assert {name for name in names() if getattr(find(name), "timed", False)} == {"prefill_latency"}
    assert {name for name in names() if is_accuracy(name)} == {"exact_match", "loyalty"}
    needing = {name for name in names() if "answers" in getattr(find(name), "needs", ())}
    assert needing == {"answer_nll", "exact_match", "logit_kl"}
    assert all(getattr(find(name), "summary", "") for name in names())


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'budget' is registered twice"):
        measure("budget", direction="lower")(lambda samples, config: 0.0)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (MeasureRequest("exact_macth"), ["unknown measure 'exact_macth'; did you mean 'exact_match'?", "answer_nll, "]),
        (MeasureRequest("budget", {"layer": 1}), ["'budget': unknown option 'layer'; it has no options"]),
        (MeasureRequest("information_flow", {"layer": [1]}), ["did you mean 'layers'?", "allowed: distance, layers"]),
        (MeasureRequest("information_flow", {"layers": ["3/2"]}), ["'layers'", "between 0 and 1, not 3/2"]),
        (MeasureRequest("information_flow", {"layers": "all"}), ["'layers'", "`last`, `every`, `weighted`, a list"]),
        (MeasureRequest("information_flow", {"layers": {1: 0}}), ["'layers'", "a number above 0, not 0"]),
        (MeasureRequest("information_flow", {"layers": {-1: 1, "last": 2}}), ["'layers'", "has two weights"]),
        (MeasureRequest("information_flow", {"distance": "cka"}), ["'tokens'", "it needs `tokens: text` or `answer`"]),
        (MeasureRequest("information_flow", {"layers": []}), ["'layers'"]),
        (MeasureRequest("information_flow", {"distance": "l1"}), ["'distance'", "'cosine', 'l2', 'cka' or 'logit_kl'"]),
        (MeasureRequest("loyalty", {"max_new_tokens": 0}), ["'max_new_tokens'", "greater than or equal to 1"]),
    ],
)
def test_mistakes_in_requests_say_what_is_allowed(request_: MeasureRequest, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        parse(request_)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_requests_report_all_mistakes_and_clashing_labels() -> None:
    with pytest.raises(BadInput) as caught:
        requested(
            [
                MeasureRequest("a1"),
                MeasureRequest("a2"),
                MeasureRequest("budget", {}, "x"),
                MeasureRequest("kv_bytes", {}, "x"),
            ]
        )
    assert len(str(caught.value).splitlines()) == 3


def test_the_registry_needs_no_torch() -> None:
    code = (
        "import sys, autoprune.measures.registry as r, autoprune.measures.requests, autoprune.measures.costs, "
        "autoprune.measures.context; r.names(); "
        "print(sorted({'torch', 'transformers', 'optuna', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
