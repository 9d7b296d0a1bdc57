"""One batch of a tiny family, passes over it with and without a cache, and how far they are apart."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tiny_families import LAYERS, TINY, model

from autoprune.calibration.batches import Batch, collate
from autoprune.calibration.encoding import Row
from autoprune.document.yaml import read
from autoprune.errors import AutoPruneError
from autoprune.measures.capture import State
from autoprune.measures.loading import Loaded
from autoprune.measures.passes import Trace, run
from autoprune.measures.prefix_cache import PrefixCache
from autoprune.measures.resuming import Parts, Resuming, Where
from autoprune.models.family import family_of, geometry_of
from autoprune.policy import catalog
from autoprune.policy.canonical import resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session

PARTS = RegisteredParts()
ALL: tuple[State, ...] = tuple((t, k) for t in ("last", "answer", "text") for k in range(1, LAYERS + 1))  # type: ignore[misc]
STATES = tuple(state for state in ALL if state != ("text", LAYERS))  # without it few rows of the last layer are read
WHERE = Where("search", "given", (0, 1, 2))
ROOM = 2**30
_NAIVE: dict[tuple[str, str, str], tuple[Trace, Any]] = {}


@functools.cache
def loaded(name: str) -> Loaded:
    made = model(name)
    config = made.config.to_dict()
    return Loaded(made, None, family_of(config), geometry_of(config), (2,), 0, torch.float32)


@functools.cache
def batch(name: str, kind: str = "odd") -> Batch:
    """Left padded; several images with text between them, a sample without an image; answers of different length."""
    tiny = TINY[name]
    rows = tiny.rows(tiny.odd if kind == "odd" else tiny.ragged)
    answers = [tuple(range(20 + i, 22 + 2 * i)) for i in range(len(rows))]
    made = [Row(str(i), r.tokens, r.vision, a, 0, 0) for i, (r, a) in enumerate(zip(rows, answers, strict=True))]
    if not rows[0].vision:
        made.reverse()
    filled = [r for r in made if r.vision]
    complete = [r if r.vision else Row(r.id, r.tokens, _none(filled[0]), r.answer, 0, 0) for r in made]
    return collate(complete, answers, range(len(rows)), 0)


def _none(like: Row) -> dict[str, torch.Tensor]:
    """The vision inputs of a row without an image: those of another, zero times."""
    return {name: value[:0] for name, value in like.vision.items()}


def naive(name: str, policy: ResolvedPolicy, kind: str = "odd") -> tuple[Trace, Any]:
    """Through the whole model; remembered."""
    there, key = loaded(name), (name, to_json(policy), kind)
    if key not in _NAIVE:
        with torch.inference_mode(), Session(there.model, policy) as session:
            _NAIVE[key] = run(there, batch(name, kind), ALL, session), session.run
    return _NAIVE[key]


def resuming(
    name: str, bound: int = ROOM, files: int = 0, parts: Parts | None = None, states: tuple[State, ...] = STATES
) -> Resuming:
    return Resuming(loaded(name), PrefixCache(bound, files), states, parts)


def cached(name: str, at: Resuming, policy: ResolvedPolicy, kind: str = "odd", every: int = 1) -> tuple[Trace, Any]:
    at.cache.begin()
    with torch.inference_mode(), Session(loaded(name).model, policy) as session:
        return at.run(batch(name, kind), WHERE, at._states, session, every), session.run


def apart(a: tuple[Trace, Any], b: tuple[Trace, Any]) -> float:
    """The largest difference of logits and states; infinite where other tokens were kept."""
    (left, one), (right, two) = a, b
    if one.lengths != two.lengths or one.counts != two.counts:
        return float("inf")
    for layer in range(LAYERS):
        for sample in range(len(one.n)):
            if one.kept(layer, sample) != two.kept(layer, sample):
                return float("inf")
    gaps = [(left.logits - right.logits).abs().max()]
    gaps += [(state - right.states[k]).abs().max() for k, state in left.states.items() if len(state)]
    return float(torch.stack(gaps).max())


def published(name: str) -> Iterator[tuple[str, ResolvedPolicy]]:
    """Every policy of the catalog that this family can carry out and whose budget a shallow model can meet."""
    for policy in catalog.names("policies"):
        document = Policy.from_source(read(catalog.find("policies", policy)), PARTS)
        try:
            resolved = resolve(document, loaded(name).geometry, PARTS)
            naive(name, resolved)
        except AutoPruneError:
            continue
        yield policy, resolved


def shuffled(policies: Sequence[Any], times: int, seed: int = 0) -> list[Any]:
    """Every policy `times` times, in any order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(policies) * times, generator=generator) % len(policies)
    return [policies[i] for i in order.tolist()]
