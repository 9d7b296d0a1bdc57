"""Good documents, spoilt at random: each is either fine or refused with codes and positions; nothing else happens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
from corpus_support import BASE, ROOT, Validated, make_case, validate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprune.codes import Code
from autoprune.document.yaml import MAX_NODES, parse, write
from autoprune.errors import BadInput

SEEDS: dict[str, list[Any]] = {kind: [parse(BASE[kind]).data] for kind in ("spec", "policy", "space")}
SEEDS["policy"] += [parse((ROOT / "policies" / f"{name}.yaml").read_text()).data for name in ("fastv", "pyramiddrop")]
SEEDS["space"] += [parse((ROOT / "search_spaces" / "two_stage_mixed.yaml").read_text()).data]
DEEP: Any = None
for _ in range(100):
    DEEP = [DEEP]
ODD = (  # what may stand anywhere, and hardly ever makes sense there
    *(None, True, False, 0, -1, 1, 0.5, 10**17, 1e300, 5e-324, "", ".", "..", "x", "\u2028", "\ufeff", "é" * 40, DEEP),
    *("solve", "$l1", "$x", "llm:2", "llm:999999", "llm:1/99999999", "1/3", "1/0", "1e30", "1e999", "9" * 5000),
    *([], {}, [[]], ["a"], {"float": [0, 1]}, {"float": [0.1, 0.9], "log": True}, {"int": [1, 10**17]}, {"choice": []}),
    *({"layer": [0, 900]}, {"weights": ["stride", "row"]}, {"to_budget": 0.3}, {"of_current": 0.5}, {"tokens": 10**17}),
    *(
        {"rule": "outlier"},
        {"mix": {"weights": {"stride": 1}}},
        {"steps": [[0, 1], [9, 0]]},
        {"ray": {"workers": 10**17}},
    ),
    *(
        {"p_sigmoid": {"low": 0, "high": 1, "mid": 2, "slope": 200}},
        {"linear": {"from": 1, "to": 0}},
        "~nobody/x",
        "a" * 300,
    ),
    *(
        "minimize budget",
        "exact_match >= 1e300 * baseline",
        "../../../x",
        {"minimize": {"information_flow": {"layers": [9]}}},
    ),
)
BITS = (
    "",
    "[",
    "{",
    '"',
    "'",
    "\n",
    "\t",
    ":",
    "&a ",
    "*a",
    "!!x ",
    "%",
    "\0",
    "\x85",
    "# ",
    "- ",
    "? ",
    "| ",
    "> ",
    "\ufeff",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key path in a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(p for key, inner in inside for p in places(inner, (*path, key)))]


KEYS = sorted(
    {step for seeds in SEEDS.values() for d in seeds for p in places(d) for step in p if isinstance(step, str)}
)


@st.composite
def spoilt_documents(draw: st.DrawFn) -> tuple[str, str]:
    """A kind, and the text of a document of that kind with one to three of its values, keys or entries spoilt."""
    kind = draw(st.sampled_from(sorted(SEEDS)))
    document = copy.deepcopy(draw(st.sampled_from(SEEDS[kind])))
    for _ in range(draw(st.integers(1, 3))):
        there = places(document)
        if not there:
            break
        *way, last = draw(st.sampled_from(there))
        here = document
        for step in way:
            here = here[step]
        change = draw(st.sampled_from(["value", "value", "value", "delete", "rename", "add"]))
        if change == "value":
            here[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif change == "delete":
            del here[last]
        elif isinstance(here, dict) and change == "rename":
            here[draw(st.sampled_from(KEYS))] = here.pop(last)
        elif isinstance(here, dict):
            here[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return kind, write(document)


@st.composite
def spoilt_texts(draw: st.DrawFn) -> tuple[str, bytes]:
    """A kind, and the bytes of a document of that kind: cut, with something put in, doubled, or in another encoding."""
    kind, text = draw(spoilt_documents()) if draw(st.booleans()) else draw(st.sampled_from(sorted(BASE.items())[1:]))
    at = draw(st.integers(0, len(text)))
    change = draw(st.sampled_from(["cut", "put", "double", "bytes", "utf16"]))
    if change == "cut":
        return kind, text[:at].encode()
    if change == "put":
        return kind, (text[:at] + draw(st.sampled_from(BITS)) + text[at + draw(st.integers(0, 5)) :]).encode()
    if change == "double":
        return kind, (text + text[at:]).encode()
    if change == "utf16":
        return kind, text.encode("utf-16")
    return kind, text[:at].encode() + draw(st.binary(min_size=1, max_size=4)) + text[at:].encode()


def check(done: Validated) -> None:
    """Fine, or refused as it should be: never a traceback, a code that nobody knows or a place that is none."""
    assert done.code in (0, 2), done.stderr
    assert done.stderr == ""
    assert (done.code == 2) == bool(done.errors)
    for error in done.errors:
        assert error["code"] in get_args(Code)
        assert error["message"]
        assert error["line"] >= 1
        assert error["column"] >= 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_case(tmp_path_factory.mktemp("fuzz"))


QUICK = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))


def write_and_check(folder: Path, kind: str, content: bytes, *, model: bool) -> None:
    path = folder / f"fuzzed_{kind}.yaml"
    path.write_bytes(content)
    check(validate(path, folder / "checkpoint" if model and kind != "spec" and b"objectives" not in content else None))


@QUICK
@given(spoilt=spoilt_documents(), model=st.booleans())
def test_spoilt_documents(folder: Path, spoilt: tuple[str, str], model: bool) -> None:
    write_and_check(folder, spoilt[0], spoilt[1].encode(), model=model)


@QUICK
@given(spoilt=spoilt_texts())
def test_spoilt_texts(folder: Path, spoilt: tuple[str, bytes]) -> None:
    write_and_check(folder, *spoilt, model=False)


@pytest.mark.full
@LONG
@given(spoilt=spoilt_documents(), model=st.booleans())
def test_many_spoilt_documents(folder: Path, spoilt: tuple[str, str], model: bool) -> None:
    write_and_check(folder, spoilt[0], spoilt[1].encode(), model=model)


@pytest.mark.full
@LONG
@given(spoilt=spoilt_texts())
def test_many_spoilt_texts(folder: Path, spoilt: tuple[str, bytes]) -> None:
    write_and_check(folder, *spoilt, model=False)


@pytest.mark.parametrize("levels", [5, 6, 9, 40])
@pytest.mark.parametrize("kind", ["list", "mapping"])
def test_anchors_that_multiply_stay_small(levels: int, kind: str) -> None:
    """Ten times ten times ten …: what would be 10^levels values is refused before it is built."""
    ten = "[{}]" if kind == "list" else "{{{}}}"
    inner = ", ".join("*a{0}" if kind == "list" else f"k{i}: *a{{0}}" for i in range(10))
    lines = ["a0: &a0 x", *(f"a{n}: &a{n} " + ten.format(inner.format(n - 1)) for n in range(1, levels + 1))]
    with pytest.raises(BadInput) as caught:
        parse("\n".join(lines))
    assert caught.value.code == "too-large"
    assert MAX_NODES <= 100_000
