"""Every part on every family, on runs of tiny models: refused with a reason at validation, or DESIGN's invariants hold.

The default run has each part once per family and each policy on LLaVA (test_pruning_catalog.py); marked `full` are all
parameters of all parts on all families, and all policies on all families.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import (
    FAMILIES,
    KINDS,
    PARTS,
    POLICIES,
    PROTECTED,
    Cell,
    batches,
    bound,
    cells,
    counts,
    deep,
    examined,
    first_cells,
    geometry,
    newlines,
    one_stage,
    page,
    published,
    refused_parts,
    separator_places,
    why_not,
)
from tiny_families import LAYERS, Batch, model

from autoprune.errors import BadInput
from autoprune.policy.budget import budget, lengths, separators
from autoprune.policy.canonical import from_json, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import Keep, Part, ResolvedPolicy
from autoprune.pruning import prefill
from autoprune.pruning.record import Run
from autoprune.pruning.session import Session
from autoprune.pruning.stage import Reduction, reduce

ONCE = [one for name in FAMILIES for one in first_cells(name)]
REST = [one for name in FAMILIES for one in cells(name) if one not in ONCE]
CELLS = [
    *(pytest.param(one, id=one.label) for one in ONCE),
    *(pytest.param(one, id=one.label, marks=pytest.mark.full) for one in REST),
]


@dataclass(frozen=True)
class Ran:
    """A prefill: its logits [B, 1, vocabulary], the record, and what each stage did."""

    logits: torch.Tensor
    run: Run
    reductions: list[tuple[Reduction, Any]]


def run(network: Any, resolved: ResolvedPolicy, batch: Batch) -> Ran:
    done: list[tuple[Reduction, Any]] = []

    def watched(planned: Any, view: Any, *rest: Any) -> Reduction:
        done.append((reduce(planned, view, *rest), view))
        return done[-1][0]

    with pytest.MonkeyPatch.context() as patch, Session(network, resolved) as session, torch.no_grad():
        patch.setattr(prefill, "reduce", watched)
        logits = network(**batch, use_cache=False, logits_to_keep=1).logits
        return Ran(logits, session.run, done)


@cache
def untouched(name: str) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(name)(**batches(name)[0], use_cache=False, logits_to_keep=1).logits
    return logits


@pytest.mark.parametrize("one", CELLS)
def test_a_part_in_a_family(one: Cell) -> None:
    if one.site is None:
        check_refusal(one)
        return
    network, resolved, (batch, singles) = model(one.family), one.policy(), batches(one.family)
    found = run(network, resolved, batch)
    check_counts(one, resolved, found.run)
    for reduction, view in found.reductions:
        check_rows(reduction, view)
    again = run(network, resolved, batch)
    assert torch.equal(found.logits, again.logits)
    for b, single in enumerate(singles):
        alone = run(network, resolved, single)
        for layer in range(LAYERS):
            assert alone.run.kept(layer, 0) == found.run.kept(layer, b)
        assert float((alone.logits[0] - found.logits[b]).abs().max()) <= 1e-4
    assert torch.equal(run(network, one.policy(Fraction(1)), batch).logits, untouched(one.family))


def check_refusal(one: Cell) -> None:
    """A session says no, too, and the reason names the part and what is missing."""
    reason = why_not(lambda: Session(model(one.family), one.policy()))
    assert reason
    assert one.part.name in one.reason
    assert len(one.reason.split(": ", 1)[1]) > 30


def check_counts(one: Cell, resolved: ResolvedPolicy, found: Run) -> None:
    """K by hand, where two positions and the family's separators stay; the budget is the arithmetic's."""
    layer = resolved.stages[0].layer
    assert len(set(found.n)) == 2
    expected = []
    for b, n in enumerate(found.n):
        held = newlines(one.family)[b] if geometry(one.family).protects_newlines else 0
        least = held + len(PROTECTED)
        k = max(int(n / 3 + 0.5), least)
        if one.kind == "count":  # decided by the sample, within bounds; a gate may let nothing through
            k = found.lengths[layer][b]
            assert k == 0 or least <= k <= max(int(n / 2 + 0.5), least)
        assert [found.lengths[x][b] for x in range(LAYERS)] == [n] * layer + [k] * (LAYERS - layer)
        kept = found.kept(layer, b)
        assert kept == sorted(set(kept))
        assert len(kept) == k
        assert set(PROTECTED) <= set(kept) or k == 0
        expected.append(lengths(resolved, n, separators(resolved, newlines(one.family)[b], held > 0), [k]))
    assert found.budget().mean == pytest.approx(budget(expected, found.n, LAYERS), abs=1e-12)


def check_rows(done: Reduction, view: Any) -> None:
    """Rows of W: weights that sum to 1, none on padding, some on the own token; protected rows are untouched."""
    kept = done.kept
    if done.matrix is None:
        return
    sums = done.matrix.sum(2)
    assert torch.allclose(sums[kept.valid], torch.ones_like(sums[kept.valid]), atol=1e-5)
    assert (done.matrix >= 0).all()
    assert (done.matrix.transpose(1, 2)[~view.valid] == 0).all()
    assert (done.matrix.gather(2, kept.index[..., None])[..., 0][kept.valid] > 0).all()
    shielded = kept.valid & ~view.candidates.gather(1, kept.index)
    before = view.hidden.gather(1, kept.index[..., None].expand(-1, -1, view.hidden.shape[2]))
    assert torch.equal(done.rows(view.hidden)[shielded], before[shielded])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_visual_token_stays_where_a_stage_protects_it(name: str) -> None:
    """As one of K, in its stage alone; a keep of 0 drops it, and what is gone by then is not brought back."""
    network, (batch, singles) = model(name), batches(name)
    protects = geometry(name).protects_newlines
    one, none = Keep("tokens", Fraction(1)), Keep("tokens", Fraction(0))
    held = replace(one_stage("selector", Part("stride"), "llm", 2).stages[0], keep=one, protect="last")
    other = replace(held, layer=3, protect=None)  # which would choose the one in the middle
    found, free = (run(network, ResolvedPolicy((stage,), LAYERS), batch).run for stage in (held, other))
    again = run(network, ResolvedPolicy((replace(other, layer=2), replace(held, layer=3)), LAYERS), batch).run
    emptied = run(network, ResolvedPolicy((replace(held, keep=none),), LAYERS), batch).run
    for b, n in enumerate(found.n):
        kept, apart = found.kept(2, b), separator_places(name)[b]
        pictures = set(range(n)) - set(apart)
        assert kept == sorted({*(apart if protects else ()), max(pictures)})
        assert max(pictures) not in free.kept(3, b)
        count = separators(ResolvedPolicy((held,), LAYERS), newlines(name)[b], protects)
        assert tuple(layer[b] for layer in found.lengths) == lengths(ResolvedPolicy((held,), LAYERS), n, count)
        assert emptied.kept(2, b) == []
        assert again.kept(3, b) == again.kept(2, b) == free.kept(3, b)
        alone = run(network, ResolvedPolicy((held,), LAYERS), singles[b]).run
        assert alone.kept(2, 0) == kept


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_itself_again_after_json(policy: str) -> None:
    """As a document, and in the canonical form of every family that can carry it out."""
    document = published(policy)
    assert Policy.parse(document.dump(), PARTS) == document
    carried = 0
    for name in FAMILIES:
        with contextlib.suppress(BadInput):
            resolved = bound(policy, name)
            assert from_json(to_json(resolved)) == resolved
            carried += 1
    assert carried


def grid() -> Iterator[Any]:
    for policy in POLICIES:
        for name in FAMILIES:
            yield pytest.param(policy, name, id=f"{policy}-{name}")


@pytest.mark.full
@pytest.mark.parametrize(("policy", "name"), grid())
def test_a_policy_in_a_family(policy: str, name: str) -> None:
    """At the papers' depth: refused with a reason, or the budget is the arithmetic's, alone and together."""
    reason = why_not(lambda: bound(policy, name))
    if reason:
        assert len(reason) > 30
        return
    resolved, (batch, singles) = bound(policy, name), batches(name)
    found = run(deep(name), resolved, batch).run
    protects = geometry(name).protects_newlines
    for b, n in enumerate(found.n):
        decided = [found.lengths[stage.layer][b] for stage in resolved.stages]  # of it only what rules decide is used
        expected = lengths(resolved, n, separators(resolved, newlines(name)[b], protects), decided)
        assert tuple(layer[b] for layer in found.lengths) == expected
        alone = run(deep(name), resolved, singles[b]).run
        for layer in (0, 3, 12, 31):
            assert alone.kept(layer, 0) == found.kept(layer, b)


def test_what_is_examined_can_be_counted() -> None:
    """No part and no family is left out."""
    once, every, policies = counts()
    assert (once.cells, every.cells) == (len(ONCE), len(ONCE) + len(REST))
    assert policies.cells == len(POLICIES) * len(FAMILIES)
    assert len(list(refused_parts())) == once.refused == sum(one.site is None for one in ONCE)
    for name in FAMILIES:
        assert {(one.kind, one.part.name) for one in ONCE if one.family == name} == {
            (kind, part) for kind in KINDS for part in examined(kind)
        }
    assert all(one.site is not None for one in ONCE if one.family == "llava")  # nothing is refused everywhere


def test_the_page_says_what_runs_where() -> None:
    """`python tests/pruning/conformance.py > docs/conformance.md` brings it up to date."""
    assert (Path(__file__).parents[2] / "docs" / "conformance.md").read_text() == page()
