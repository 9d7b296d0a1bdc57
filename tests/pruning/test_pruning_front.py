"""A policy with the front it was selected from: saved whole, chosen from by what fits, refused where it was touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from front_support import front, published

from autoprune.errors import BadInput
from autoprune.policy.front import Front
from autoprune.pruning.choosing import choose
from autoprune.pruning.loaded import LoadedPolicy


def test_the_front_is_saved_and_loaded_with_its_policy(tmp_path: Path) -> None:
    published().save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["front.json", "metadata.json", "policy.yaml"]
    again = LoadedPolicy.from_pretrained(tmp_path)
    assert again == published()
    assert [one.policy.name for one in again.front] == ["gentle", "middle", "strong", "harsh"]
    assert again.front[2].policy == again.policy
    assert [one.metadata["budget"] for one in again.front] == [0.75, 0.5, 0.25, 0.125]
    assert {one.metadata["study"] for one in again.front} == {"demo-0123"}
    assert again.front[0].front[3].policy.name == "harsh", "from every member one gets to every other"


def test_a_front_round_trips_and_names_its_schema() -> None:
    written = front().to_json()
    assert written["schema"] == "autoprune/front/1"
    assert Front.from_json(written) == front()


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"budget": 1.0}, "gentle"),
        ({"budget": 0.74}, "middle"),
        ({"budget": 0.25}, "strong"),
        ({"bounds": ["exact_match >= 0.9 * baseline"]}, "strong"),
        ({"bounds": ["exact_match >= 0.94 * baseline"]}, "middle"),
        ({"bounds": ["exact_match >= 0.97 * baseline", "kv_bytes <= 0.8 * baseline"]}, "gentle"),
        ({"bounds": ["kv_bytes <= 600"], "budget": 0.9}, "middle"),
        ({"bounds": ["exact_match >= baseline - 10 points"]}, "strong"),
        ({"max_prefill_ms": 30.0}, "middle"),
        ({"max_prefill_ms": 30.0, "budget": 0.3}, "strong"),
    ],
)
def test_the_certified_member_that_fits(asked: dict[str, Any], name: str) -> None:
    times = {f"{n:x<64}": ms for n, ms in {"gentle": 40.0, "middle": 30.0, "strong": 20.0, "harsh": 10.0}.items()}
    chosen = choose(published(), **asked, prefill_ms=times)
    assert chosen.policy.name == name
    assert chosen.metadata["digest"] == f"{name:x<64}"
    assert len(chosen.front) == 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"budget": 0.2},
            r"budget=0.2; certified are 'gentle' \(budget 0.750, 40.0 ms, exact_match >= 0.99 \* b",
        ),
        ({"max_prefill_ms": 10.0}, "no certified policy of the front fits max_prefill_ms=10.0"),
        ({"bounds": ["exact_match >= 0.995 * baseline"]}, "no certified policy"),
        ({"bounds": ["exact_match >= 0.95"]}, "no certified policy"),
        ({"budget": 0.0}, "a share of the visual tokens"),
        ({"budget": float("nan")}, "a share of the visual tokens"),
        ({"max_prefill_ms": -1}, "milliseconds above 0"),
        ({"bounds": ["loyalty >= 0.9"]}, "not measured by loyalty; it has exact_match, kv_bytes"),
        ({"bounds": ["exact_match > 0.9"]}, "use <= or >="),
    ],
)
def test_where_none_fits_it_says_what_there_is(asked: dict[str, Any], message: str) -> None:
    times = {f"{'gentle':x<64}": 40.0, f"{'strong':x<64}": 20.0}
    with pytest.raises(BadInput, match=message):
        choose(published(), **asked, prefill_ms=times)


def test_nothing_to_choose_from() -> None:
    alone = LoadedPolicy(published().policy)
    assert alone.front == ()
    with pytest.raises(BadInput, match="'strong' is alone"):
        choose(alone, budget=0.5)
    with pytest.raises(BadInput, match="'autoprune policy time' does"):
        choose(published(), max_prefill_ms=80)
    only = Front("s", {}, front().members[3:], {})
    with pytest.raises(BadInput, match="none of its 1 policies is certified"):
        choose(LoadedPolicy(published().policy, whole=only), budget=0.5)


def test_a_chosen_member_is_saved_as_the_selected_one(tmp_path: Path) -> None:
    choose(published(), budget=0.6).save_pretrained(tmp_path)
    again = LoadedPolicy.from_pretrained(tmp_path)
    assert again.policy.name == "middle"
    assert [member["selected"] for member in json.loads((tmp_path / "front.json").read_text())["members"]] == [
        False,
        True,
        False,
        False,
    ]


def _cheat(path: Path) -> None:
    content = json.loads(path.read_text())
    content["members"][3]["constraints"] = {"exact_match >= 0.9 * baseline": "certified"}
    path.write_text(json.dumps(content))


def _resign(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A front that was changed, with a digest made to match."""
    import hashlib

    content = json.loads((folder / "front.json").read_text())
    change(content)
    text = json.dumps(content)
    (folder / "front.json").write_text(text)
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["front_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "metadata.json").write_text(json.dumps(metadata))


def _member(content: dict[str, Any]) -> None:
    content["members"][0]["document"]["stages"][0]["keep"] = "lots"


def _nobody(content: dict[str, Any]) -> None:
    content["members"][2]["selected"] = False


def _schema(content: dict[str, Any]) -> None:
    content["schema"] = "autoprune/front/2"


def _shape(content: dict[str, Any]) -> None:
    content["members"] = 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _cheat(f / "front.json"), r"front\.json was changed after it was saved"),
        (lambda f: (f / "front.json").unlink(), r"front\.json is missing"),
        (lambda f: (f / "policy.yaml").unlink(), r"has no policy\.yaml"),
        (lambda f: (f / "metadata.json").unlink(), r"metadata\.json is missing"),
        (lambda f: _resign(f, _member), "the front's member 'gentle' is no policy: .*keep"),
        (lambda f: _resign(f, _nobody), "selected member is not the policy beside it"),
        (lambda f: _resign(f, _schema), r"is not a front \(autoprune/front/1\)"),
        (lambda f: _resign(f, _shape), r"front\.json: not a front document"),
    ],
)
def test_a_damaged_artifact_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    published().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadInput, match=message):
        LoadedPolicy.from_pretrained(tmp_path)


def test_a_front_put_beside_a_policy_that_has_none_is_refused(tmp_path: Path) -> None:
    LoadedPolicy(published().policy).save_pretrained(tmp_path)
    (tmp_path / "front.json").write_text(json.dumps(front().to_json()))
    with pytest.raises(BadInput, match="not part of this policy"):
        LoadedPolicy.from_pretrained(tmp_path)
