from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from autoprune.calibration.digest import calibration_digest
from autoprune.calibration.records import check_records, load_records
from autoprune.errors import BadInput


def picture(path: Path, colour: int = 0) -> str:
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    return path.name


def write(path: Path, *lines: object) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


def test_jsonl_fields_and_paths(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    picture(folder / "a.png")
    source = write(
        tmp_path / "r.jsonl",
        {"images": ["a.png"], "prompt": "what ?", "answer": "red", "type": "colour", "writer": 3},
        "",
        {"id": "second", "images": ["a.png", "a.png"], "prompt_raw": "<image> hm", "answer": None},
    )
    one, two = load_records(source, str(folder))
    assert one.images == (str(folder / "a.png"),)
    assert (one.id, one.prompt, one.prompt_raw, one.answer, one.type) == ("1", "what ?", None, "red", "colour")
    assert (two.id, two.prompt, two.prompt_raw, two.answer, two.type) == ("second", None, "<image> hm", None, None)
    assert len(two.images) == 2


def test_images_default_to_the_records_folder(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    source = write(tmp_path / "r.jsonl", {"images": ["a.png"], "prompt": "?"})
    assert load_records(source)[0].images == (str(tmp_path / "a.png"),)


def test_every_mistake_at_once_with_its_line(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    source = write(
        tmp_path / "r.jsonl",
        {"images": ["a.png"], "prompt": "fine"},
        '{"images": ["a.png"], oops}',
        [1, 2],
        {"images": ["gone.png", 7], "prompt": "?"},
        {"images": ["a.png"], "prompt": 3, "answer": " "},
        {"images": ["a.png"]},
        {"images": ["a.png"], "prompt": "?", "prompt_raw": "?"},
        {"images": "a.png", "prompt": "?"},
        {"images": ["a.png"], "prompt": "?", "anwser": "red"},
        {"id": "1", "images": ["a.png"], "prompt": "?"},
    )
    with pytest.raises(BadInput) as caught:
        load_records(source)
    found = {(p.line, p.path): p.message for p in caught.value.problems}
    assert set(found) == {
        (2, ""),
        (3, ""),
        (4, "images[0]"),
        (4, "images[1]"),
        (5, "prompt"),
        (5, "answer"),
        (6, "prompt"),
        (7, "prompt"),
        (8, "images"),
        (9, "anwser"),
        (10, "id"),
    }
    assert next(p for p in caught.value.problems if p.line == 2).column == 23
    assert "did you mean 'answer'" in found[9, "anwser"]
    assert str(tmp_path / "gone.png") in found[4, "images[0]"]
    assert "line 1" in found[10, "id"]
    assert str(caught.value).startswith(f"{source}:2:23: ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.jsonl", "\n \n", "empty"),
        ("r.csv", "a,b", "must be a .jsonl file, a .parquet file or 'datasets:"),
        ("r.parquet", "no parquet", "not a readable parquet file"),
        ("", "", "no such file"),
    ],
)
def test_unusable_sources(tmp_path: Path, name: str, text: str, message: str) -> None:
    source = str(tmp_path / (name or "missing.jsonl"))
    if name:
        Path(source).write_text(text)
    with pytest.raises(BadInput, match=message):
        load_records(source)
    (problem,) = check_records(source)
    assert problem.file == source
    assert problem.line == 1


def test_check_asks_for_answers_only_when_needed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    source = write(tmp_path / "r.jsonl", {"images": ["a.png"], "prompt": "?"})
    assert check_records(source) == []
    (problem,) = check_records(source, None, need_answers=True)
    assert (problem.line, problem.path) == (1, "answer")


def test_parquet_with_paths_and_with_embedded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    picture(tmp_path / "a.png", 9)
    content = (tmp_path / "a.png").read_bytes()
    for images in (["a.png"], [{"bytes": content, "path": "elsewhere.png"}]):
        source = str(tmp_path / "r.parquet")
        parquet.write_table(
            arrow.table({"images": [images], "prompt": ["?"], "answer": ["red"], "type": [None]}), source
        )
        (record,) = load_records(source)
        assert Path(record.images[0]).read_bytes() == content
        assert record.answer == "red"
        assert record.type is None


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (str(tmp_path / "r.parquet"), "datasets:someone/something:train"):
        (problem,) = check_records(source)
        assert "autoprune[data]" in problem.message
        assert problem.file == source


def test_datasets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    picture(tmp_path / "a.png", 5)
    columns = {"images": [[str(tmp_path / "a.png")]], "prompt": ["?"], "answer": ["red"]}
    data = datasets.Dataset.from_dict(columns).cast_column("images", datasets.List(datasets.Image()))
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> object:
        asked.append((name, split))
        return data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (record,) = load_records("datasets:some/name:validation")
    assert asked == [("some/name", "validation")]
    assert Path(record.images[0]).read_bytes() == (tmp_path / "a.png").read_bytes()


def test_digest_is_about_content(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder / f"{folder}1.png", 1)
        picture(tmp_path / folder / f"{folder}2.png", 2)
    lines = {
        folder: [{"images": [f"{folder}{i}.png"], "prompt": "?", "answer": "red", "id": f"{folder}{i}"} for i in (1, 2)]
        for folder in ("x", "y")
    }
    x = load_records(write(tmp_path / "x" / "r.jsonl", *lines["x"]))
    y = load_records(write(tmp_path / "y" / "r.jsonl", *reversed(lines["y"])))
    assert calibration_digest(x) == calibration_digest(y)
    lines["y"][0]["answer"] = "blue"
    changed = load_records(write(tmp_path / "y" / "r.jsonl", *lines["y"]))
    assert calibration_digest(changed) != calibration_digest(x)
    picture(tmp_path / "x" / "x1.png", 200)
    assert calibration_digest(x) != calibration_digest(y)
