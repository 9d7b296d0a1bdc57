"""Trial throughput: the lists are what they say, and all sides give the same numbers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from autoprune.models import read_geometry
from benchmarks.output import MODEL
from benchmarks.trial_lists import LADDER, before_the_model, canonical, from_a_quarter, greedy_probes
from benchmarks.trial_throughput import LISTS, SIDES, Bench, Design, figure, markdown, measured, summary

GEOMETRY = read_geometry(MODEL)


def layers(canonical: str) -> list[int]:
    return [stage["layer"] for stage in json.loads(canonical)["stages"]]


def test_lists_begin_where_they_say() -> None:
    assert [layers(c)[0] for c in before_the_model(GEOMETRY, 3, 1)] == [0, 0, 0]
    drawn = from_a_quarter(GEOMETRY, 6, 1)
    assert len(set(drawn)) == 6
    assert all(GEOMETRY.depth // 4 <= layers(c)[0] <= GEOMETRY.depth // 2 for c in drawn)
    assert drawn == from_a_quarter(GEOMETRY, 6, 1) != from_a_quarter(GEOMETRY, 6, 2)


def test_a_greedy_search_bisects_layer_by_layer_and_keeps_what_it_found() -> None:
    """The loss grows with every token that is gone: it may be twice that of a tenth of the tokens in all layers."""
    whole = GEOMETRY.tokens_per_image * GEOMETRY.depth

    def loss(canonical: str) -> float:
        stages = json.loads(canonical)["stages"] if canonical else []
        ends = [*(s["layer"] for s in stages[1:]), GEOMETRY.depth][: len(stages)]
        gone = sum((144 - int(s["keep"]["tokens"])) * (e - s["layer"]) for s, e in zip(stages, ends, strict=True))
        return 1 + gone / whole

    probes = greedy_probes(GEOMETRY, loss, 1.3)
    assert 8 <= len(probes) <= (len(LADDER).bit_length()) * GEOMETRY.depth
    first = [layers(c)[-1] for c in probes]
    assert first == sorted(first)
    assert all(len(layers(a)) <= len(layers(b)) for a, b in pairwise(probes))
    assert min(map(loss, probes)) < 1.3 < max(map(loss, probes))


def test_all_sides_agree_and_finished_repeats_are_kept(tmp_path: Path) -> None:
    design = Design(questions=3, batch_size=2, trials=1)
    bench = Bench(design, tmp_path)
    score = {"llm_attention": {"layer": 1, "from": "text"}}
    first, *second = (
        {"at": f"llm:{at}", "keep": keep, "score": score} for at, keep in ((3, "1/2"), (6, "1/4"), (6, "1/8"))
    )
    probes = [canonical(GEOMETRY, stages) for stages in ([first], *([first, one] for one in second))]
    drawn = [before_the_model(GEOMETRY, 1, 1), from_a_quarter(GEOMETRY, 1, 1), probes]
    (bench.work / "lists.json").write_text(json.dumps(dict(zip(LISTS, drawn, strict=True))))
    found = {name: [bench.repeat(name, 0)] for name in LISTS}
    again = Bench(design, tmp_path)
    assert [again.repeat(name, 0) for name in LISTS] == [found[name][0] for name in LISTS]
    assert "naive" not in again.__dict__, "nothing was run again"
    document = {
        "design": {"questions": 3, "batch_size": 2},
        "repeats": 1,
        "lists": {name: summary(name, found[name], len(bench.lists[name])) for name in LISTS},
    }
    for name, result in document["lists"].items():  # type: ignore[union-attr]
        assert result["largest_difference"] <= 1e-5
        assert list(result["sides"]) == list(SIDES)
        assert result["sides"]["whole model"]["faster"] == 1
        assert f"{result['trials']} {name}" in markdown(document)
    trie = found["greedy probes"][0]["caches"]
    assert trie["images"]["layers"] == 0 < trie["+ resume"]["layers"] < trie["+ trie"]["layers"]
    assert figure(document).axes
    assert measured(bench.naive, probes[0]).samples != measured(bench.naive, probes[1]).samples
