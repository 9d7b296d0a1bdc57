"""Every shipped set of objectives searched, and what the tool says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
from conftest_cli import cli
from PIL import Image

from autoprune.api.objectives import list_objectives, markdown
from autoprune.policy import catalog

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
SHIPPED = ("accuracy_flops", "accuracy_latency", "decode_heavy", "information_flow", "kv_memory", "loyalty")
UNANSWERED = ("information_flow", "loyalty")
SPEC = """\
schema: autoprune/spec/1
name: {name}
model: {{path: model}}
calibration: {{records: {records}.jsonl, search: 4, holdout: 4, stratify_by: null, seed: 1}}
search_space:
  schema: autoprune/space/1
  stages:
    - {{at: "llm:1/2", keep: {{float: [0.1, 0.9]}}, score: feature_norm}}
objectives: {objectives}
search: {{trials: 3, seed: 2, executor: {executor}}}
"""


@dataclass(frozen=True)
class Place:
    """A folder with a tiny model and records."""

    folder: Path

    def spec(self, objectives: str, records: str, executor: str = "inline") -> str:
        path = self.folder / f"{objectives}-{records}.yaml"
        path.write_text(SPEC.format(name=path.stem, objectives=objectives, records=records, executor=executor))
        return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("objectives")
    tiny_checkpoints.save("llava", folder / "model")
    lines: list[dict[str, Any]] = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append({"images": [f"{number}.png"], "prompt": f"w{number} ?", "answer": f"w{number} w2"})
    (folder / "answered.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bare = [{key: value for key, value in line.items() if key != "answer"} for line in lines]
    (folder / "bare.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bare))
    return Place(folder)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_search_with_them_ends_in_a_front(place: Place, name: str) -> None:
    """Those that need no answers on records without."""
    done = cli("search", place.spec(name, "bare" if name in UNANSWERED else "answered"), "--json")
    assert done.code == 0, done.out
    front = done.json
    assert front["trials"] == {"complete": 3, "failed": 0, "running": 0}
    (described,) = (one for one in list_objectives(()) if one["name"] == name)
    for member in front["members"]:
        assert set(described["measures"]) <= set(member["holdout"])
    if name == "accuracy_latency":
        assert front["baseline"]["holdout"]["prefill_latency"]["value"] == 1
    accuracy = "loyalty" if name in UNANSWERED else "exact_match"
    assert {one["accuracy"] for one in front["agreement"]} == {accuracy}, "whatever the search is for"
    assert 0 <= front["baseline"]["holdout"][accuracy]["value"] <= 1
    assert (accuracy in front["members"][0]["search"]) == (accuracy in described["measures"])
    assert {one["measure"] for one in front["agreement"]} == set(front["members"][0]["search"])
    assert all(one["n"] <= 3 and one["rho"] is None for one in front["agreement"])
    shown = cli("front", str(place.folder / f"{front['study'].rpartition('-')[0]}.yaml")).out
    assert "too few finalists" in shown


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in UNANSWERED])
def test_validate_says_what_needs_answers(place: Place, name: str) -> None:
    done = cli("validate", place.spec(name, "bare"), "--json")
    assert done.code == 2
    (error,) = done.json["errors"]
    first = "answer_nll" if name in ("decode_heavy", "kv_memory") else "exact_match"
    assert error["message"] == f"{first} needs answers; no record has one"


def test_answer_tokens_need_answers_and_text_tokens_do_not(place: Place) -> None:
    flow = "[{{minimize: {{information_flow: {{tokens: {}, layers: {{1/2: 0.3, last: 0.7}}}}}}}}]"
    path = place.folder / "flow.yaml"
    for tokens, code in (("answer", 2), ("text", 0)):
        text = SPEC.format(name="flow", objectives=flow.format(tokens), records="bare", executor="inline")
        path.write_text(text)
        done = cli("validate", str(path), "--json")
        assert done.code == code, done.out
    assert "information_flow" in cli("validate", str(path)).out


@pytest.mark.parametrize(
    ("executor", "says"),
    [
        ("{ray: {workers: 2}}", "workers that share the processor would corrupt"),
        ("{ray-tune: {workers: 2}}", "workers that share the processor would corrupt"),
        ("{ray: {workers: 1}}", ""),
        ("{ray-tune: {workers: 1}}", ""),
        ("auto", ""),
    ],
)
def test_workers_that_share_a_device_take_no_timings(place: Place, executor: str, says: str) -> None:
    done = cli("validate", place.spec("accuracy_latency", "answered", executor), "--json")
    assert done.code == (2 if says else 0), done.out
    if says:
        (error,) = done.json["errors"]
        assert says in error["message"]
        assert (error["line"], error["path"]) == (10, "search.executor")
    assert cli("validate", place.spec("accuracy_flops", "answered", "{ray: {workers: 2}}"), "--json").code == 0


@pytest.mark.parametrize(("share", "workers", "code"), [(0.5, 2, 2), (0.5, 1, 2), (1, 2, 0)])
def test_half_a_gpu_takes_no_timings(place: Place, share: float, workers: int, code: int) -> None:
    executor = f"{{ray: {{workers: {workers}, gpus_per_worker: {share}}}}}"
    spec = Path(place.spec("accuracy_latency", "answered", executor))
    spec.write_text(spec.read_text().replace("{path: model}", "{path: model, device: cuda}"))
    done = cli("validate", str(spec), "--json")
    assert done.code == code, done.out
    if code:
        assert "whoever shares a GPU with the worker would corrupt" in done.json["errors"][0]["message"]
        assert done.json["errors"][0]["path"] == "search.executor"


def test_the_page_is_what_the_tool_prints() -> None:
    """`autoprune objectives --markdown > docs/objectives.md` brings it up to date."""
    assert PAGE.read_text() == markdown(list_objectives(()))


def test_all_of_them_are_known_and_say_what_they_need() -> None:
    listed = {one["name"]: one for one in list_objectives(())}
    assert tuple(listed) == SHIPPED == catalog.names("objectives")
    assert {name for name, one in listed.items() if not one["needs_answers"]} == set(UNANSWERED)
    assert [name for name, one in listed.items() if one["needs_quiet_device"]] == ["accuracy_latency"]
    assert all(one["summary"] for one in listed.values())
