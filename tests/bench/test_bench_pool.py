"""The pool: which policies, in which order, and that parts say what the evaluator says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from autoprune.errors import BadInput
from autoprune.measures.evaluator import build
from autoprune.models import read_geometry
from autoprune.policy import catalog
from autoprune.ports import EvalRequest
from benchmarks.outcomes import BASELINE, COSTS, Part, Pool
from benchmarks.output import MODEL
from benchmarks.policies import by_prefix, catalog_entries, sampled_entries
from benchmarks.pool import (
    LABELS,
    Recipe,
    assemble,
    check_folder,
    main,
    make_images,
    measure_chunk,
    measured_by,
    missing_share,
    worker_spec,
)

GEOMETRY = read_geometry(MODEL)


def test_samples_are_seeded_distinct_and_spread_over_the_budgets() -> None:
    tokens = GEOMETRY.tokens_per_image
    made, again, other = (sampled_entries("two_stage_mixed", 4, GEOMETRY, tokens, seed) for seed in (1, 1, 2))
    assert [e.digest for e in made] == [e.digest for e in again]
    assert {e.digest for e in made} != {e.digest for e in other}
    quarters = sorted(int((e.values["budget"] - 0.08) / 0.52 * 4) for e in made)
    assert quarters == [0, 1, 2, 3]


def test_every_shipped_space_gives_samples() -> None:
    for name in catalog.names("search_spaces"):
        assert sampled_entries(name, 1, GEOMETRY, GEOMETRY.tokens_per_image, 1), name


def test_policies_that_begin_alike_follow_each_other() -> None:
    tokens = GEOMETRY.tokens_per_image
    made, impossible = catalog_entries(GEOMETRY, tokens, ("0.33", "0.05"))
    assert {one["target"] for one in impossible} == {"0.05"}, "two layers at full length are a quarter of eight"
    ordered = by_prefix([*made, *made])
    assert len(ordered) == len({e.digest for e in made})
    firsts = [json.dumps(json.loads(e.canonical)["stages"][0], sort_keys=True) for e in ordered]
    runs = 1 + sum(a != b for a, b in pairwise(firsts))
    assert runs == len(set(firsts))


def test_parts_hold_what_the_evaluator_finds(tmp_path: Path) -> None:
    recipe = Recipe(images=12, chunk=8, seed=90211)
    files = make_images(tmp_path, recipe)
    policies = by_prefix(sampled_entries("two_stage_mixed", 2, GEOMETRY, GEOMETRY.tokens_per_image, 1))
    wanted = [(BASELINE, None), *((e.digest, e.canonical) for e in policies)]
    done = [measure_chunk(file, tmp_path / "parts" / file.stem, wanted, 4) for file in files]
    assert done == [3, 3]
    assert measure_chunk(files[0], tmp_path / "parts" / files[0].stem, wanted, 4) == 0, "kept"
    assemble(tmp_path, recipe, files, policies, []).save(tmp_path)
    pool = Pool.load(tmp_path)
    assert pool.right.shape == (3, 12)
    kinds = [json.loads(line)["type"] for line in (tmp_path / "calib" / "records.jsonl").read_text().splitlines()]
    assert list(pool.types) == kinds
    evaluator = build(worker_spec(tmp_path / "calib" / "records.jsonl", 4))  # all twelve at once, in file order
    for row, entry in enumerate(policies, start=1):
        found = evaluator.evaluate(EvalRequest(entry.canonical, "search", LABELS))
        order = np.argsort([int(record) for record in found.records])
        assert np.asarray(found.samples["exact_match"])[order].tolist() == pool.right[row].tolist()
        assert np.asarray(found.samples["answer_nll"])[order] == pytest.approx(pool.nll[row], rel=2e-3, abs=1e-5)
        assert [found.values[label] for label in COSTS] == pytest.approx(pool.costs[row].tolist())


def test_a_policy_that_fails_is_listed_with_its_reason(tmp_path: Path) -> None:
    recipe, files = Recipe(images=2, chunk=2), [tmp_path / "records-0.jsonl"]
    files[0].write_text('{"type": "color"}\n{"type": "count"}\n')
    (entry,) = sampled_entries("two_stage_mixed", 1, GEOMETRY, GEOMETRY.tokens_per_image, 1)
    parts = tmp_path / "parts" / files[0].stem
    Part(np.ones(2), np.ones(2), np.ones(3)).save(parts / f"{BASELINE}.npz")
    Part.failed("OutOfMemoryError: all of it").save(parts / f"{entry.digest}.npz")
    pool = assemble(tmp_path, recipe, files, [entry], [])
    assert [p["name"] for p in pool.policies] == [BASELINE]
    assert pool.types == ("color", "count")
    assert pool.missing[0]["reason"] == "OutOfMemoryError: all of it"


def test_a_folder_keeps_its_recipe(tmp_path: Path) -> None:
    check_folder(tmp_path, Recipe(10, 5), [])
    check_folder(tmp_path, Recipe(10, 5), [])
    with pytest.raises(BadInput, match="another recipe"):
        check_folder(tmp_path, Recipe(20, 5), [])


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    """A worker that died, or a full memory, is no property of the policy."""
    recipe = Recipe(images=4, chunk=4, seed=90211)
    (file,) = make_images(tmp_path, recipe)
    parts = tmp_path / "parts" / file.stem
    Part.failed("worker died").save(parts / f"{BASELINE}.npz")
    assert missing_share(tmp_path, [file], []) == 1.0
    assert measure_chunk(file, parts, [(BASELINE, None)], 4) == 1
    assert Part.load(parts / f"{BASELINE}.npz").reason == ""
    assert missing_share(tmp_path, [file], []) == 0.0


def test_a_folder_keeps_the_code_that_measures_it(tmp_path: Path) -> None:
    check_folder(tmp_path, Recipe(10, 5), [])
    path = tmp_path / "recipe.json"
    known = json.loads(path.read_text())
    assert known["code"] == measured_by(tmp_path)
    path.write_text(json.dumps({**known, "code": "another"}))
    with pytest.raises(BadInput, match=r"other code \(another\)"):
        check_folder(tmp_path, Recipe(10, 5), [])
    path.write_text(json.dumps({key: known[key] for key in ("recipe", "policies")}))
    check_folder(tmp_path, Recipe(10, 5), [])
    assert measured_by(tmp_path) is None, "a folder of before codes were written down"


def test_the_command_says_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pool", "--out", str(tmp_path), "--images", "4", "--chunk", "4", "--policies", "2", "--workers", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    assert "2 policies on 4 images, 1 workers: 0% is there, the rest takes about" in capsys.readouterr().out
    assert Pool.load(tmp_path).recipe["code"] == measured_by(tmp_path)
    main()
    assert "100% is there, the rest takes about 0 s" in capsys.readouterr().out
