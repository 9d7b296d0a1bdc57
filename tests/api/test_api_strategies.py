"""The reference of strategies says what the registry says; a spec is held against its strategy before anything runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoprune import check
from autoprune.api.strategies import list_strategies, markdown
from autoprune.api.study import Prepared
from autoprune.errors import BadInput
from autoprune.search import strategy

ROOT = Path(__file__).parents[2]
SPEC = f"""\
schema: autoprune/spec/1
name: case
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration: {{records: records.jsonl, images: images, search: 2, holdout: 2, seed: 1}}
search_space: two_stage_mixed
objectives: [maximize exact_match, minimize prefill_flops]
search: {{trials: 8, strategy: auto}}
"""


def test_the_page_is_the_registrys() -> None:
    """`autoprune strategies --markdown > docs/strategies.md` brings it up to date."""
    assert (ROOT / "docs" / "strategies.md").read_text() == markdown(list_strategies())


def test_every_strategy_is_listed_with_all_it_takes() -> None:
    listed = {one["name"]: one for one in list_strategies()}
    assert tuple(listed) == strategy.names()
    for name, one in listed.items():
        info = strategy.find(name)
        assert info is not None
        assert set(one["options"]) == set(info.options.model_fields)
        assert one["summary"]
        assert all(option["about"] for option in one["options"].values())


def test_an_unknown_strategy_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"no strategy is called 'gredy'; did you mean 'greedy'\?"):
        list_strategies("gredy")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "data" / "images", tmp_path / "images")
    shutil.copy(ROOT / "tests" / "data" / "records.jsonl", tmp_path / "records.jsonl")
    return tmp_path


def checked(case: Path, **changes: str) -> check.Checked:
    text = SPEC
    for old, new in changes.items():
        old, new = {"space": ("two_stage_mixed", new), "strategy": ("strategy: auto", f"strategy: {new}")}.get(
            old, (old, new)
        )
        text = text.replace(old, new)
    (case / "spec.yaml").write_text(text)
    return check.check(case / "spec.yaml")


def test_a_curve_strategy_searches_a_space_made_of_the_specs(case: Path) -> None:
    plain, curved = Prepared(checked(case)), Prepared(checked(case, strategy="p_sigmoid"))
    names = {p.name for p in curved.space.parameters}
    assert names == {
        *("budget", "front", "mix[0]", "mix[1]", "how"),
        *(f"stages[1].curve.p_sigmoid.{field}" for field in ("low", "high", "slope")),
    }
    assert curved.identity != plain.identity
    assert names <= set(dict(checked(case, strategy="p_sigmoid").summary())["space"].split(", "))
    assert [r.candidate.digest for r in curved.references] == [r.candidate.digest for r in plain.references]


REFUSED = [
    ({"space": "divprune", "strategy": "p_sigmoid"}, "p_sigmoid: the space has no stage inside the language model"),
    ({"space": "sparsity_meets_similarity", "strategy": "greedy"}, "greedy: sparsity_meets_similarity: the count rule"),
    ({"strategy": "{greedy: {measure: loyalty}}"}, "greedy: measure: 'loyalty' is no quality of this study"),
    ({"strategy": "bisection"}, "bisection: it looks for the smallest budget within the constraints"),
    ({"strategy": "{steps: {n: 9}}"}, "steps: 9 steps need as many layers; the space allows"),
    ({"maximize exact_match, ": "", "strategy": "greedy"}, "greedy: objectives and constraints are all costs"),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED, ids=[says.split(":")[0] for _, says in REFUSED])
def test_a_strategy_that_makes_no_sense_is_refused_at_its_place(case: Path, changes: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        checked(case, **changes)
    (problem,) = caught.value.problems
    assert problem.message.startswith(says)
    assert (problem.line, problem.column) == (7, SPEC.splitlines()[6].index("auto") + 1)


def test_code_from_the_models_repository_makes_another_study(case: Path) -> None:
    trusting = {"calibration:": "  trust_remote_code: true\ncalibration:", "model: {path: ": "model:\n  path: "}
    without = {"calibration:": "calibration:", "model: {path: ": "model:\n  path: ", "checkpoint}": "checkpoint"}
    plain = Prepared(checked(case, **without))
    remote = Prepared(checked(case, **{"checkpoint}": "checkpoint", **trusting}))
    assert plain.worker.trust_remote_code is False
    assert remote.worker.trust_remote_code is True
    assert plain.identity != remote.identity
