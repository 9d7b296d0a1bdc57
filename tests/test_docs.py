"""What the pages under docs/ show is what the tool takes: every document and every snippet is read and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from autoprune.calibration.records import FIELDS
from autoprune.document.problems import Problems
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput, Located
from autoprune.measures import registry as measures
from autoprune.policy import document, parity, read_keep, read_picks, reading, space_reading
from autoprune.policy.arms import arms
from autoprune.policy.curves import CURVES
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.holes import HOLE_KINDS
from autoprune.policy.model import Attend, Op, Positions, Restore, Rows
from autoprune.policy.parameters import Parameter, read_param
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts
from autoprune.spec.expressions import parse_constraint, parse_objective
from autoprune.spec.load import load
from autoprune.spec.models import ExecutorSpec, Spec, StrategySpec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
PARTS = RegisteredParts()
PICK_ONLY = ("share", "overlap", "dilate")
SCORE = "feature_norm"


def documents() -> Iterator[Any]:
    """Every YAML block that is a whole document, by page and line."""
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```yaml\n(schema: autoprune/.*?)^```$", text, re.S | re.M):
            line = text.count("\n", 0, block.start()) + 2
            yield pytest.param(block[1], id=f"{page.name}:{line}")


def rows(page: str) -> Iterator[Any]:
    """The first cell of every table row that is one piece of code, by its text."""
    for cell in re.findall(r"^\| `([^`]+)` \|", (DOCS / page).read_text(), re.M):
        yield pytest.param(cell, id=cell)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files of the repository, and headings of its pages."""
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), target
        assert not heading or heading in anchors(place), f"{target}#{heading}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_have_documents() -> None:
    pages = {str(param.id).split(":")[0] for param in documents()}
    assert {"README.md", "policy.md", "space.md", "spec.md"} <= pages


@pytest.mark.parametrize("text", documents())
def test_documents_are_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()  # a page's paths stay in its project
    path = tmp_path / "examples" / "mine" / "document.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    kind = str(yaml.safe_load(text)["schema"]).split("/")[1]
    assert mistakes(CHECKS[kind], path) == []


def mistakes(check: Callable[[Path], None], path: Path) -> list[str]:
    """What the tool refuses in a document, message by message."""
    try:
        check(path)
    except BadInput as error:
        return str(error).splitlines()
    return []


def a_policy(path: Path) -> None:
    Policy.from_source(read(path), PARTS)


def a_spec(path: Path) -> None:
    """Without the model and the records, which a page does not have."""
    loaded = load(path)
    named = [o.measure.name for o in loaded.objectives] + [c.measure.name for c in loaded.constraints]
    assert [name for name in named if measures.find(name) is None] == []
    a_space_in(loaded.space_source)


def a_space_in(source: Source) -> None:
    found: list[Located] = []
    for arm in arms(source, found).values():
        Space.from_source(arm, PARTS)
    assert found == []


def a_space(path: Path) -> None:
    a_space_in(read(path))


def some_objectives(path: Path) -> None:
    named = [parse_objective(value).measure.name for value in read(path).data["objectives"]]
    assert [name for name in named if measures.find(name) is None] == []


CHECKS = {"objectives": some_objectives, "policy": a_policy, "space": a_space, "spec": a_spec}


def as_policy(snippet: Mapping[str, Any]) -> dict[str, Any]:
    """A snippet of policy.md in the smallest policy it can stand in."""
    of_document = {key: value for key, value in snippet.items() if key in document.KEYS}
    own = {key: value for key, value in snippet.items() if key not in document.KEYS}
    rule = {key: own.pop(key) for key in ("when", "use") if key in own}
    stages: list[dict[str, Any]] = []
    if rule:
        of_document["guard"] = [{"when": {"tokens_below": 9}, "use": "none", **rule}]
        stages.append({"at": "llm:1/4", "keep": "3/4", "score": SCORE})
    if "restore" in own:
        stages.append({"at": "llm:1/4", "keep": "1/2", "score": SCORE, "merge": "park"})
    stage: dict[str, Any] = {"at": "llm:1/2", "keep": "1/2", "score": SCORE}
    if "along" in own:
        del stage["at"], stage["keep"]
    if "count" in own:
        del stage["score"]
        own = {"keep": {"rule": "elbow"}, "pick": [{"share": "1/2", "score": SCORE}, own]}
    elif any(key in own for key in PICK_ONLY):
        del stage["score"]
        own = {"pick": [own, {"score": SCORE}]}
    return {"schema": document.SCHEMA, **of_document, "stages": [*stages, {**stage, **own}]}


@pytest.mark.parametrize("cell", rows("policy.md"))
def test_snippets_of_policies_are_valid(cell: str) -> None:
    snippet = yaml.safe_load(cell)
    assert isinstance(snippet, dict)
    Policy.parse(as_policy(snippet), PARTS)


def test_a_wrong_snippet_would_be_found() -> None:
    with pytest.raises(BadInput, match="unknown key 'keeep'"):
        Policy.parse(as_policy({"keeep": "1/2"}), PARTS)


def test_every_key_of_a_policy_is_explained() -> None:
    """Keys and words stand in code on the page, so that whoever searches for one finds it."""
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|```.*?```", (DOCS / "policy.md").read_text(), re.S))))
    words = (
        *document.KEYS,
        *document.CONFIDENCES,
        *reading.STAGE_KEYS,
        *reading.CURVE_KEYS,
        *read_picks.PICK_KEYS,
        *read_picks.MIX_KEYS,
        *read_picks.NORMALISERS,
        *read_keep.KEEP_KINDS,
        *read_keep.RULE_KEYS,
        *read_picks.DILATIONS,
        *parity.KEYS,
        *CURVES,
        *(word for kind in (Attend, Op, Positions, Restore, Rows) for word in get_args(kind)),
        *("projector", "input", "llm", "newlines", "last", "index"),
    )
    assert [word for word in words if word not in code] == []


@pytest.mark.parametrize("cell", rows("space.md"))
def test_holes_are_valid(cell: str) -> None:
    found = Problems()
    assert read_param("hole", yaml.safe_load(cell), (), found) is not None, list(found)


def test_the_example_asks_the_sampler_for_what_the_page_says() -> None:
    text = (DOCS / "space.md").read_text()
    space, asked = re.findall(r"^```(?:yaml|text)\n(.*?)^```$", text, re.S | re.M)[:2]
    vision = VisionGeometry(24, 1, 1, 1, 1, 1)
    bound = Space.parse(yaml.safe_load(space), PARTS).bind(Geometry("any", 32, 1, 1, 1, 1, 1, 1, vision, None))
    assert [shown(parameter) for parameter in bound.parameters] == asked.splitlines()


def shown(parameter: Parameter) -> str:
    if parameter.kind == "choice":
        return f"{parameter.name}: {', '.join(parameter.choices)}"
    return f"{parameter.name}: {parameter.kind} {parameter.low:g} to {parameter.high:g}"


def test_every_key_of_a_space_is_explained() -> None:
    text = (DOCS / "space.md").read_text()
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.S))))
    assert [word for word in (*space_reading.KEYS, *HOLE_KINDS, "log", "solve") if word not in code] == []


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, cells without their marks of code."""
    section = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert lines, heading
    return [[cell.strip("`") for cell in line] for line in lines]


NAMED = {ExecutorSpec: "kind", StrategySpec: "name"}  # a bare name is short for these


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a spec that holds a value, with its default."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in NAMED:
            yield from leaves(inner, f"{key}.")
        else:
            default = field.get_default(call_default_factory=True)
            yield key, getattr(default, NAMED[inner]) if inner in NAMED else default


def test_every_key_of_a_spec_is_explained_with_its_default() -> None:
    rows = table("spec.md", "Keys")
    page = {key: default if default == "required" else yaml.safe_load(default) for key, default, _ in rows}
    assert page == {key: "required" if value is PydanticUndefined else value for key, value in leaves(Spec)}


def test_the_fields_of_a_record_are_explained() -> None:
    assert {field for field, _ in table("spec.md", "Records")} == set(FIELDS)


def test_goals_of_the_page_are_read() -> None:
    for text, _ in table("spec.md", "Objectives"):
        objective = parse_objective(yaml.safe_load(text))
        info = measures.find(objective.measure.name)
        assert info is not None
        info.config.model_validate(dict(objective.measure.options))
    for text, _ in table("spec.md", "Constraints"):
        assert measures.find(parse_constraint(text).measure.name) is not None


def test_every_measure_is_explained() -> None:
    page = {name: (better, text.endswith("A cost")) for name, better, text in table("spec.md", "Measures")}
    known = {name: measures.find(name) for name in measures.names()}
    assert page == {name: (info.direction, info.cost) for name, info in known.items() if info is not None}
