"""A bound in memory, a bound in files, and whatever goes wrong is a value that is not there."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming_support import apart, cached, naive, resuming
from test_measures_resuming import CLOSE, LIST

from autoprune.executors.classify import attempt
from autoprune.measures import prefix_cache as module
from autoprune.measures.packed import pack, unpack
from autoprune.measures.prefix_cache import PrefixCache
from autoprune.policy.canonical import to_json
from autoprune.ports import EvalRequest, Failed, Measured

FOUR = 4 * 100  # bytes of a hundred floats


@dataclass(frozen=True)
class Thing:
    name: str
    rows: torch.Tensor
    again: list[Any]


def floats(value: float, count: int = 100) -> torch.Tensor:
    return torch.full((count,), value)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))


def test_a_value_is_taken_apart_and_put_together() -> None:
    whole = torch.arange(1000.0).bfloat16()
    piece = whole[10:20]
    value = {
        "a": Thing("x", piece, [piece, (1, piece)]),
        3: [torch.tensor([True]), None],
        "wide": floats(1.0, 1).expand(50),
    }
    packed = pack(value)
    assert packed.bytes == 10 * 2 + 1 + 4
    back = unpack(packed)
    assert back["a"].name == "x"
    assert back["a"].rows is back["a"].again[0] is back["a"].again[1][1]
    assert torch.equal(back["a"].rows, piece)
    assert back["a"].rows.untyped_storage().nbytes() == 20
    assert back[3][0].item() is True
    assert back["wide"].tolist() == [1.0] * 50
    back["a"].again.clear()
    assert len(unpack(packed)["a"].again) == 2


def test_the_least_recently_used_goes_but_never_for_what_is_in_use(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cache = PrefixCache(3 * FOUR)
    for key in "abc":
        cache.begin()
        cache.put(key, floats(1.0))
    cache.put("d", floats(2.0))  # b and c are of this and the last evaluation, a is not
    assert [cache.get(k) is not None for k in "abcd"] == [False, True, True, True]
    cache.put("e", floats(3.0))
    assert cache.get("e") is None
    assert cache.stats.bytes == 3 * FOUR
    assert cache.stats.forgotten == 2
    assert [record.message.count("full") for record in caplog.records] == [1], "said once"


def test_what_does_not_fit_lies_in_files_within_their_bound(tmp_path: Path) -> None:
    cache = PrefixCache(FOUR, 2 * FOUR)
    cache.begin()
    for number, key in enumerate("abcd"):
        cache.put(key, {"rows": floats(float(number))}, label=key)
    assert [cache.label(k) for k in "abcd"] == ["a", "b", "c", None]
    assert (cache.stats.bytes, cache.stats.spilled, cache.stats.written) == (FOUR, 2 * FOUR, 2 * FOUR)
    for number, key in enumerate("abc"):
        assert torch.equal(cache.get(key)["rows"], floats(float(number)))
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    for _ in range(2):
        cache.begin()
    assert torch.equal(cache.get("b")["rows"], floats(1.0))  # comes back to memory, a goes to a file, c goes
    assert (cache.stats.bytes, cache.stats.spilled) == (FOUR, FOUR)
    assert torch.equal(cache.get("a")["rows"], floats(0.0))
    assert cache.get("c") is None
    del cache
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["vanished", "empty", "noise", "folder gone"])
def test_a_file_that_cannot_be_read_is_a_miss(tmp_path: Path, damage: str) -> None:
    cache = PrefixCache(0, 10 * FOUR)
    cache.put("a", floats(1.0))
    (file,) = tmp_path.rglob("*.safetensors")
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "noise":
        file.write_bytes(bytes(range(256)) * 10)
    else:
        file.unlink()
    if damage == "folder gone":
        file.parent.rmdir()
    assert cache.get("a") is None
    assert cache.label("a") is None
    assert cache.stats.spilled == 0
    cache.put("b", floats(2.0))
    assert (cache.get("b") is None) == (damage == "folder gone")


def test_a_disk_that_takes_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*unused: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    cache = PrefixCache(FOUR, 10 * FOUR)
    for key in "ab":
        cache.put(key, floats(1.0))
    assert cache.get("a") is not None
    assert cache.get("b") is None
    assert cache.stats.forgotten == 1


def test_folders_of_killed_workers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    for name in (f"{module.PREFIX}999999999-x", f"{module.PREFIX}1-x", f"{module.PREFIX}x"):
        (tmp_path / name).mkdir()
    kept = PrefixCache(0, FOUR)
    kept.put("a", floats(1.0))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3
    assert not any("999999999" in name for name in left)


@pytest.mark.parametrize(("bound", "files"), [(600_000, 0), (300_000, 600_000), (0, 2**30), (1, 0)])
def test_numbers_do_not_depend_on_room(bound: int, files: int) -> None:
    """With a few batches' worth of memory, with files beside it, with files only, with nothing at all."""
    at = resuming("llava_next", max(bound, 1), files)
    for one in (*LIST, *LIST):
        assert apart(cached("llava_next", at, one), naive("llava_next", one)) <= CLOSE
        assert at.cache.stats.bytes <= bound
        assert at.cache.stats.spilled <= files
    assert (at.cache.stats.forgotten > 0) == (files < 2**20)
    assert (at.cache.stats.hits > 0) == (bound > 1 or files > 0)


def test_out_of_memory_leaves_an_empty_cache_behind(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.build("answer_nll", "information_flow")
    again = EvalRequest(pruned(made), "search", ("answer_nll", "information_flow"), limit=20)
    whole = made.evaluate(again)
    assert made.stats.bytes > 0
    layer = made.loaded.family.places(made.loaded.model).layers[-1]

    def full(*unused: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = layer.register_forward_hook(full)
    outcome = attempt(made, again)
    handle.remove()
    assert isinstance(outcome, Failed)
    assert outcome.kind == "oom"
    assert made.stats.bytes == made.stats.spilled == 0
    after = attempt(made, again)
    assert isinstance(after, Measured)
    assert after.measurement.samples == whole.samples


def pruned(made: Any) -> str:
    """One stage inside the model of an evaluator."""
    return to_json(replace(LIST[1], depth=made.geometry.depth))


def test_a_worker_says_what_it_saved_and_needs_no_cache(tiny: Any) -> None:
    measures = ("exact_match", "answer_nll", "logit_kl", "information_flow", "loyalty")
    without, there = tiny.build(*measures, cache=0), tiny.build(*measures, cache=2**26)
    assert without.stats is None
    policies = (None, pruned(there))
    for limit in (32, 16, 32):
        for one in policies:
            request = EvalRequest(one, "search", measures, limit=limit)
            expected, found = without.evaluate(request), there.evaluate(request)
            for label, numbers in expected.samples.items():
                assert found.samples[label] == pytest.approx(numbers, rel=1e-5, abs=1e-5)
    assert there.stats.hits > there.stats.misses
    assert "layers saved" in str(there.stats)


def test_its_place_and_size_follow_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"device": 8 * 2**30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["device"], 0))
    monkeypatch.setattr(module, "_free_memory", lambda: 10 * 2**30)
    on_cpu = module.prefix_cache(None, torch.device("cpu"))
    beside, fitting = (module.prefix_cache(size, torch.device("cuda:0")) for size in (3 * 2**30, 2**31))
    assert on_cpu is not None
    assert beside is not None
    assert fitting is not None
    assert (on_cpu.bound, on_cpu.device) == (10 * 2**28, None)
    assert (beside.device, fitting.device) == ("cpu", None)
    assert fitting.files <= 4 * fitting.bound
    assert module.prefix_cache(0, torch.device("cpu")) is None
    assert module.default_size(5) == 2**29
    monkeypatch.setattr(module, "_free_memory", lambda: 2**40)
    assert module.default_size() == module.LARGEST
    monkeypatch.undo()
    assert 0 < module._free_memory() < 2**50
