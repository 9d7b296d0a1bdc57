"""A model whose tokens have no rows and columns: what needs a grid is refused where it is written, and only that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_support import PATCHES, Sample, inputs, model

from autoprune.errors import BadInput
from autoprune.models.family import geometry_of
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.pruning import parts, prefill
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.refusals import refusals
from autoprune.pruning.session import Session

PARTS = RegisteredParts()
PRUNING = Path(prefill.__file__).parent
KEYS = {"criterion": "score", "selector": "select", "merger": "merge", "group": "group"}


class GridRead(Exception):
    """A part has looked at rows or columns."""


def document(**stage: Any) -> Policy:
    every = {"at": "llm:1", "keep": "1/2", "score": "random", **stage}
    return Policy.parse({"schema": "autoprune/policy/1", "stages": [every]}, PARTS)


def refused(policy: Policy) -> list[tuple[str, str]]:
    geometry = replace(geometry_of(model().config.to_dict()), lacks={"grid": "no rows here"})
    return [(".".join(map(str, p.path[2:])), p.message) for p in refusals(policy, geometry)]


def registered(*kinds: Any) -> list[tuple[str, str]]:
    found = [(kind, name) for kind in kinds for name in parts.names(kind)]
    return [(kind, name) for kind, name in found if name not in ("relevance", "head")]  # diagnostics; scores by head


@pytest.mark.parametrize(("kind", "name"), registered(*KEYS))
def test_parts_that_need_a_grid_are_refused_and_no_others(kind: Any, name: str) -> None:
    info = parts.find(kind, name)
    assert info is not None
    try:
        policy = document(**{KEYS[kind]: name})
    except BadInput:
        policy = document(**{KEYS[kind]: name, "at": "projector"})
    expected = [(KEYS[kind], "no rows here")] if "grid" in info.needs else []
    assert [p for p in refused(policy) if p[1] == "no rows here"] == expected


def test_neighbours_and_overviews_need_a_grid() -> None:
    crossed = [{"share": "1/2", "score": "random", "dilate": "cross"}, {"score": "random"}]
    several = {"at": "llm:1", "keep": "1/2", "pick": crossed}
    policy = Policy.parse({"schema": "autoprune/policy/1", "stages": [several]}, PARTS)
    assert refused(policy) == [("pick.0", "no rows here")]
    assert refused(document(group={"tile": {"split": "overview"}})) == [("group", "no rows here")]
    assert refused(document(group={"tile": {"split": "size"}})) == []


@pytest.mark.parametrize(("kind", "name"), registered("criterion", "selector", "merger"))
def test_what_reads_the_grid_says_so(kind: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGrid:
        def __init__(self, image: torch.Tensor, segment: torch.Tensor, *rows: torch.Tensor) -> None:
            self.image, self.segment = image, segment

        def __getattr__(self, key: str) -> torch.Tensor:
            raise GridRead(key)

    info = parts.find(kind, name)
    assert info is not None
    made = model()
    geometry = geometry_of(made.config.to_dict())
    policy = document(**{KEYS[kind]: name}, **({} if "llm" in info.sites else {"at": "projector"}))
    monkeypatch.setattr(prefill, "Grid", NoGrid)
    try:
        with torch.no_grad(), Session(made, resolve(policy, geometry, PARTS, PATCHES)):
            made(**inputs(made, [Sample(7)]))
    except GridRead:
        assert "grid" in info.needs


@pytest.mark.parametrize("file", sorted(PRUNING.glob("groups/[a-z]*.py")), ids=lambda file: file.stem)
def test_groups_that_read_rows_say_so(file: Path) -> None:
    info = parts.find("group", file.stem)
    assert info is not None
    text = file.read_text()
    reads = ("layout.row[" in text) or ("layout.column" in text) or ("return layout.row" in text)
    assert reads == ("grid" in info.needs)
