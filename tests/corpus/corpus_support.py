"""A good spec, policy, space and record set to spoil, and what `autoprune validate` says of the result."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from autoprune.cli.main import main
from autoprune.document.yaml import parse, write

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "reference_vlm" / "checkpoint"
BASE = {
    "spec": """\
schema: autoprune/spec/1
name: case
model: {path: checkpoint}
calibration:
  records: records.jsonl
  images: images
  search: 2
  holdout: 2
search_space: space.yaml
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.97 * baseline]
""",
    "space": """\
schema: autoprune/space/1
name: case
budget: {float: [0.1, 0.6]}
params:
  l1: {layer: [2, 1/3]}
stages:
  - {at: "llm:$l1", keep: solve, select: stride}
""",
    "policy": """\
schema: autoprune/policy/1
name: case
stages:
  - {at: llm:2, keep: 1/4, score: feature_norm}
""",
    "objectives": """\
schema: autoprune/objectives/1
name: case
objectives: [maximize exact_match, minimize prefill_flops]
""",
}


def make_case(folder: Path) -> Path:
    """The good documents in an empty folder."""
    shutil.copytree(ROOT / "tests" / "data" / "images", folder / "images")
    shutil.copy(ROOT / "tests" / "data" / "records.jsonl", folder / "records.jsonl")
    (folder / "checkpoint").mkdir()
    for name in ("config.json", "processor_config.json", "preprocessor_config.json"):
        if (CHECKPOINT / name).is_file():
            shutil.copy(CHECKPOINT / name, folder / "checkpoint" / name)
    for name, text in BASE.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@dataclass(frozen=True)
class Validated:
    """What `autoprune validate --json` made of a document."""

    code: int
    errors: tuple[Mapping[str, Any], ...]
    stderr: str

    @property
    def codes(self) -> set[str]:
        return {str(error["code"]) for error in self.errors}


def validate(path: Path, model: Path | None = None) -> Validated:
    """Run the command in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["validate", str(path), "--json", *(["--model", str(model)] if model else [])])
    return Validated(code, tuple(json.loads(out.getvalue())["errors"]), err.getvalue())


def replaced(kind: str, keys: str) -> str:
    """The good document of a kind with other values under some top-level keys; null takes one away."""
    data = dict(parse(BASE[kind]).data)
    data.update(parse(keys).data)
    return write({key: value for key, value in data.items() if value is not None})


def spoilt(folder: Path, of: str, bad: str) -> Validated:
    """What is said of an example of `codes.yaml`."""
    kind = of.removesuffix(" on a model")
    path = folder / f"{kind}.yaml"
    if kind == "records":
        (folder / "records.jsonl").write_text((bad + "\n") * 4 if bad else "")
        path = folder / "spec.yaml"
    elif kind == "text":
        path.write_text(bad, encoding="utf-8")
    else:
        path.write_text(replaced(kind, bad), encoding="utf-8")
    return validate(path, folder / "checkpoint" if of.endswith(" on a model") else None)


def corpus() -> list[dict[str, Any]]:
    """Every malformed document of `*.yaml` beside this file, with what is expected of it."""
    cases: list[dict[str, Any]] = []
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        cases += [{"file": path.stem, **case} for case in parse(path.read_text(), path.name).data]
    return cases


def lay_out(folder: Path, case: Mapping[str, Any]) -> tuple[Path, Path | None]:
    """Write a case's document; -> (the document to validate, the model to hold it against)."""
    kind = case["of"]
    name = {"records": "records.jsonl", "model": "checkpoint/config.json"}.get(kind, f"{kind}.yaml")
    text = case.get("text")
    if text is None and "stage" in case:
        text = BASE["policy"].partition("  - ")[0] + f"  - {case['stage']}\n"
    if text is None:
        text = (folder / name).read_text()
        for old, new in (case["change"],) if isinstance(case["change"][0], str) else case["change"]:
            assert old in text, f"{case['name']}: {old!r} is not in the {kind}"
            text = text.replace(old, new, 1)
    (folder / name).write_text(text, encoding="utf-8")
    if kind == "objectives":
        spec = folder / "spec.yaml"
        spec.write_text(re.sub("(?m)^objectives: .*$", "objectives: objectives.yaml", spec.read_text()))
    alone = kind in ("policy", "space")
    path = folder / (name if alone else "spec.yaml")
    return path, folder / "checkpoint" if alone and case.get("model", True) else None


def shown(error: Mapping[str, Any]) -> str:
    """An error as `expect` writes it: code, line:column, key path."""
    return f"{error['code']} {error['line']}:{error['column']} {error['path']}".strip()


def table() -> str:
    """`docs/error_corpus.md`: which codes the malformed documents are refused with, and how often."""
    cases = corpus()
    hit: dict[str, list[str]] = {}
    for case in cases:
        for code in dict.fromkeys(line.split()[0] for line in case["expect"]):
            hit.setdefault(code, []).append(case["name"])
    lines = [
        "# Malformed documents",
        "",
        f"{len(cases)} malformed specs, policies, search spaces, sets of objectives, records and model configurations",
        f"are validated by the tests (`tests/corpus/`), and refused with {len(hit)} of the [codes](errors.md), each at",
        "its place. What no document alone brings about, `test_corpus_elsewhere.py` does.",
        "`python tests/corpus/corpus_support.py` prints this page.",
        "",
        "| code | documents | for example |",
        "|---|---|---|",
        *(f"| `{code}` | {len(names)} | {names[0]} |" for code, names in sorted(hit.items())),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
