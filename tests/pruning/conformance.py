"""Every registered part and every policy of the catalog against every family, generated from the registries.

`python tests/pruning/conformance.py > docs/conformance.md` writes down how many there are of what, and why a family
refuses what it cannot do.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, get_args

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch
from part_worlds import identifier, variants
from pruning_support import part as use
from tiny_families import LAYERS, TINY, Batch, Sample, model, together

from autoprune.document.yaml import read
from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout, families, family_of
from autoprune.policy import catalog
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.pruning import parts
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import make_plan

FAMILIES = tuple(family.name for family in families())
POLICIES = catalog.names("policies")
KINDS = get_args(parts.Kind)
PARTS = RegisteredParts()
KEEP, MOST, PROTECTED = Fraction(1, 3), Fraction(1, 2), (0, 5)
RANDOM = use(("random", {"seed": 1}))
BY_HEAD = use(("encoder_attention", {"from": "all", "heads": "each"}))
ALONG = {"logistic"}  # shares a budget among layers, not one stage's: test_pruning_along.py, policy autoprune_2025
SITES = (("llm", 3), ("llm", 0))
ONE, WIDE = (48, 48), (48, 96)


def samples(name: str) -> tuple[Sample, ...]:
    """One image; two images with text between them: different visual counts in every family."""
    if name.startswith("qwen"):
        return Sample(9, ((24, 40),)), Sample(14, ((16, 24), (32, 16)))
    return Sample(9, (ONE,)), Sample(14, (ONE, WIDE))


@cache
def batches(name: str) -> tuple[Batch, tuple[Batch, ...]]:
    """The samples together, left padded, and each alone; positions count without padding, as `generate` does."""
    rows = TINY[name].rows(samples(name))
    made = [together(rows), *(together([row]) for row in rows)]
    if not name.startswith("qwen"):  # which works its positions out by itself
        for batch in made:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return made[0], tuple(made[1:])


@cache
def geometry(name: str) -> Geometry:
    config = model(name).config.to_dict()
    return family_of(config).geometry(config, None)


@cache
def separator_places(name: str) -> tuple[tuple[int, ...], ...]:
    """The numbers of the visual tokens of each sample that are separators, as the family lays its images out."""
    found: list[ImageLayout] = []
    family = family_of(model(name).config.to_dict())
    undo = family.watch(family.places(model(name)), found.extend)
    places = []
    for alone in batches(name)[1]:
        found.clear()
        with torch.no_grad():
            model(name)(**alone, use_cache=False, logits_to_keep=1)
        source = torch.cat([layout.source for layout in found])
        places.append(tuple(int(i) for i in (source < 0).nonzero()[:, 0]))
    undo()
    return tuple(places)


def newlines(name: str) -> tuple[int, ...]:
    """Separators among the visual tokens of each sample."""
    return tuple(len(places) for places in separator_places(name))


def one_stage(kind: parts.Kind, part: Part, site: str, layer: int, keep: Fraction = KEEP) -> ResolvedPolicy:
    """The part in a stage that is otherwise the plainest, two positions of every sample protected. A count rule decides
    up to half of the tokens where not all are kept."""
    score = part if kind == "criterion" else BY_HEAD if part.name == "head" else RANDOM
    select = part if kind == "selector" else Part("top")
    merge = part if kind == "merger" else Part("drop")
    pick = ResolvedPick(score, select, group=part if kind == "group" else None)
    amount = Keep("fraction", keep)
    if kind == "count":
        least = Fraction(keep == 1)
        amount = Keep("rule", max(least, MOST), part, least)
    stage = ResolvedStage(site, layer, amount, (pick,), merge, protect=PROTECTED)  # type: ignore[arg-type]
    return ResolvedPolicy((stage,), LAYERS)


@dataclass(frozen=True)
class Cell:
    """A part in a family: where it runs, or why it cannot."""

    kind: parts.Kind
    part: Part
    family: str
    site: tuple[str, int] | None
    reason: str = ""

    @property
    def label(self) -> str:
        return f"{self.family}-{self.kind}-{identifier(self.part)}"

    def policy(self, keep: Fraction = KEEP) -> ResolvedPolicy:
        site, layer = self.site or SITES[0]
        return one_stage(self.kind, self.part, site, layer, keep)


def cell(kind: parts.Kind, part: Part, name: str) -> Cell:
    reason = ""
    for site, layer in SITES:
        try:
            make_plan(one_stage(kind, part, site, layer), geometry(name))
        except BadInput as error:
            reason = reason or str(error)
        else:
            return Cell(kind, part, name, (site, layer))
    return Cell(kind, part, name, None, reason)


@cache
def cells(name: str) -> tuple[Cell, ...]:
    """Every part with every value of its enumerated parameters in a family."""
    return tuple(cell(kind, part, name) for kind in KINDS for part in variants(kind))


def examined(kind: parts.Kind) -> set[str]:
    """Parts of single stages that policies can use: all but the oracles for diagnostics (T4)."""
    usable = {name for name in parts.names(kind) if (info := parts.find(kind, name)) is not None and info.tier != "T4"}
    return usable - ALONG if kind == "count" else usable


def first_cells(name: str) -> Iterator[Cell]:
    """Each part once: with the first parameters that run in the family, or refused with all."""
    known: dict[tuple[str, str], Cell] = {}
    for one in cells(name):
        key = (one.kind, one.part.name)
        if key not in known or (known[key].site is None and one.site is not None):
            known[key] = one
    yield from known.values()


@cache
def published(name: str) -> Policy:
    return Policy.from_source(read(catalog.find("policies", name)), PARTS)


def why_not(check: Callable[[], object]) -> str:
    """The message of a refusal, or ''."""
    try:
        check()
    except BadInput as error:
        return str(error)
    return ""


@cache
def deep_config(name: str) -> Any:
    """Of a tiny model as deep as LLaVA 1.5: 32 decoder layers, 24 encoder blocks."""
    config = copy.deepcopy(model(name).config)
    text, vision = config.text_config, config.vision_config
    if getattr(text, "layer_types", None):
        text.layer_types = (text.layer_types * 32)[:32]
    text.num_hidden_layers = 32
    setattr(vision, "depth" if hasattr(vision, "depth") else "num_hidden_layers", 24)
    return config


@cache
def deep(name: str) -> Any:
    """That model, with random weights."""
    torch.manual_seed(3)
    return type(model(name))._from_config(deep_config(name), attn_implementation="sdpa").eval()


@cache
def deep_geometry(name: str) -> Geometry:
    config = deep_config(name).to_dict()
    return family_of(config).geometry(config, None)


def bound(policy: str, name: str) -> ResolvedPolicy:
    """A published policy for the deep model of a family. Raises BadInput where the family cannot carry it out."""
    there = deep_geometry(name)
    resolved = resolve(published(policy), there, PARTS)
    make_plan(resolved, there)
    return resolved


@dataclass(frozen=True)
class Count:
    """Of so many combinations so many are refused; the others run."""

    what: str
    cells: int
    refused: int


def counts(names: Sequence[str] = FAMILIES) -> list[Count]:
    """What is examined: parts, parts with every value of their enumerated parameters, and policies, in every family."""
    once = [one for name in names for one in first_cells(name)]
    every = [one for name in names for one in cells(name)]
    return [
        Count("parts", len(once), sum(one.site is None for one in once)),
        Count("parts with every parameter", len(every), sum(one.site is None for one in every)),
        Count("policies", len(POLICIES) * len(names), sum(len(found) for *_, found in refused_policies(names))),
    ]


def refused_parts(names: Sequence[str] = FAMILIES) -> Iterator[tuple[str, str, str]]:
    """Family, part and reason."""
    for name in names:
        for one in first_cells(name):
            if one.site is None:
                yield name, f"{one.kind} `{one.part.name}`", one.reason.split(": ", 1)[1]


def refused_policies(names: Sequence[str] = FAMILIES) -> Iterator[tuple[str, str, list[str]]]:
    """Family, reason and the policies refused for it."""
    for name in names:
        whom: dict[str, list[str]] = {}
        for policy in POLICIES:
            if reason := why_not(functools.partial(bound, policy, name)):
                whom.setdefault(reason.split("\n")[0].split(": ", 1)[1], []).append(policy)
        for reason, policies in whom.items():
            yield name, reason, policies


PAGE = """# What runs on which model

<!-- made by `python tests/pruning/conformance.py > docs/conformance.md`; a test holds it to the registries -->

{parts} registered parts ({kinds}), {policies} policies of the
catalog, {families} families of models: {names}.
Every combination either runs (exact counts, the same alone and in a batch, the budget that the arithmetic says, and
more: `tests/pruning/test_pruning_conformance.py`) or is refused with a reason before anything runs. Left out are
criteria that policies cannot use, and `logistic`, which is no rule of a single stage. Policies are carried out as deep
as their papers count: 32 decoder layers, 24 blocks of the tower.

| in every family | combinations | run | refused |
|---|---|---|---|
{table}

## What a family cannot give

| family | what | why |
|---|---|---|
{refused}
"""


def page() -> str:
    """docs/conformance.md."""
    kinds = {kind: len(parts.names(kind)) for kind in KINDS}
    refused = [*refused_parts(), *((n, ", ".join(f"`{p}`" for p in whom), why) for n, why, whom in refused_policies())]
    return PAGE.format(
        parts=sum(kinds.values()),
        kinds=", ".join(f"{count} of kind {kind}" for kind, count in kinds.items()),
        policies=len(POLICIES),
        families=len(FAMILIES),
        names=", ".join(FAMILIES),
        table="\n".join(f"| {c.what} | {c.cells} | {c.cells - c.refused} | {c.refused} |" for c in counts()),
        refused="\n".join(f"| {family} | {what} | {why} |" for family, what, why in refused),
    )


if __name__ == "__main__":
    sys.stdout.write(page())
