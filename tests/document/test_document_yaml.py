from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.document.yaml import inline, parse, read, write
from autoprune.errors import BadInput

PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn", "Co")), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
TRAPS = st.sampled_from(
    ["on", "off", "yes", "1e-3", "1/6", "007", "12:30", "~", "", "null", ".5", "=", "<<", "0x1f", "y"]
)
TREES = st.recursive(
    SCALARS | PLAIN | TRAPS,
    lambda t: st.lists(t, max_size=4) | st.dictionaries(PLAIN | TRAPS, t, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_what_is_written_reads_back(tree: object) -> None:
    assert parse(write(tree)).data == tree
    assert parse(inline(tree)).data == tree
    assert len(inline(tree).splitlines()) == 1


def test_words_stay_words_and_numbers_numbers() -> None:
    data = parse("[on, off, yes, no, true, False, 1e-3, .33, 1/6, 007, 12:30, 2020-01-01, 1_000, -3, 0x1f]").data
    assert data == [
        "on",
        "off",
        "yes",
        "no",
        True,
        False,
        1e-3,
        0.33,
        "1/6",
        "007",
        "12:30",
        "2020-01-01",
        1000,
        -3,
        "0x1f",
    ]
    assert [type(v) for v in data[4:8]] == [bool, bool, float, float]


def test_every_key_and_value_has_a_position() -> None:
    source = parse("a: 1\nb:\n  - x\n  - {c: deep}\n")
    assert source.locate(("a",)) == (1, 4)
    assert source.locate(("a",), key=True) == (1, 1)
    assert source.locate(("b", 1, "c")) == (4, 9)
    assert source.locate(("b", 1, "c"), key=True) == (4, 6)
    assert source.locate(("b", 0, "missing", "deeper")) == (3, 5)
    assert source.locate(()) == (1, 1)


@pytest.mark.parametrize(
    ("text", "offset", "column"),
    [
        ("k: 0.97 * baseline", 7, 11),
        ("k: '0.97 * baseline'", 7, 12),
        ("k: 'it''s here'", 5, 11),
        ('k: "a\\tb\\u00e9c"', 4, 15),
        ("k: |\n  0.97 * baseline", 7, 4),
    ],
)
def test_offset_points_into_a_scalar(text: str, offset: int, column: int) -> None:
    assert parse(text).locate(("k",), offset=offset) == (1, column)


def test_a_document_inside_a_document_keeps_positions_and_key_paths() -> None:
    inner = parse("x: 1\nspace:\n  stages:\n    - 5\n").sub(("space",))
    assert inner.data == {"stages": [5]}
    assert str(inner.problem(("stages", 0), "conflict", "wrong")) == "<text>:4:7: space.stages[0]: wrong [conflict]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "<text>:3:1: a: the key 'a' is given twice (first in line 1)"),
        ("a: {1: x}", "<text>:1:5: a: a key must be text, not 1"),
        ("? [a]\n: b", "<text>:1:3: a key must be text, not a list or mapping"),
        ("a: !new 3", "<text>:1:4: a: unknown tag !new"),
        ("a: !!python/object:os.system {}", "<text>:1:4: a: unknown tag !!python/object:os.system"),
        ("a: .nan", "<text>:1:4: a: '.nan' is not a finite number"),
        ("a: 1e999", "<text>:1:4: a: '1e999' is not a finite number"),
        ("a: !!bool yes", "<text>:1:4: a: 'yes' is not a value of !!bool"),
        ("a: [1,\nb: 2", "<text>:2:5: while parsing a flow sequence"),
        ("a:\tb: 1", "<text>:1:3: while scanning for the next token"),
        ("a\n---\nb", "<text>:2:1: expected a single document"),
        ("a: &x [*x]", "<text>:1:4: a[0]: an anchor contains itself"),
        ("ok: \x07", "<text>:1:5: a character that no text contains"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_position(text: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert str(caught.value).startswith(expected)


def test_all_mistakes_at_once_in_order() -> None:
    with pytest.raises(BadInput) as caught:
        parse("b: .inf\na: 1\na: !x 2\n")
    assert [(p.line, p.column) for p in caught.value.problems] == [(1, 4), (3, 1)]


def test_anchors_work_but_cannot_explode() -> None:
    assert parse("a: &x {k: 1}\nb: *x").data == {"a": {"k": 1}, "b": {"k": 1}}
    lines = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(BadInput, match="more than 100000 values"):
        parse("\n".join(lines))
    with pytest.raises(BadInput, match="nested too deeply"):
        parse("[" * 5000)


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_bytes("\ufeffa: é\r\nb: 2\r\n".encode())
    assert read(good).data == {"a": "é", "b": 2}
    with pytest.raises(BadInput, match=r"missing.yaml: cannot be read: No such file"):
        read(tmp_path / "missing.yaml")
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(BadInput, match=r"latin.yaml:2:4: not UTF-8: byte 0xe9"):
        read(latin)
    (tmp_path / "empty.yaml").write_text("")
    assert read(tmp_path / "empty.yaml").data is None
