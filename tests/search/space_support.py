"""Shipped spaces bound to a made-up model, as a search is given them."""

from __future__ import annotations

from typing import Any

from autoprune.api.proposals import Proposals
from autoprune.document.yaml import read
from autoprune.policy import catalog
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts
from autoprune.search.fitting import searched
from autoprune.spec.models import StrategySpec


def proposals(name: str, depth: int = 32, tokens: int = 576) -> Proposals:
    vision = VisionGeometry(24, 32, 2, 64, 28, 7, has_cls=True)
    model = Geometry("llava", depth, 64, 4, 4, 16, 128, 100, vision, tokens)
    space = Space.from_source(read(catalog.find("search_spaces", name)), RegisteredParts(), model)
    return Proposals(space.bind(model), model, tokens)


def derived(name: str, strategy: str, depth: int = 32, tokens: int = 576, **options: Any) -> Proposals:
    """What a strategy searches in place of a shipped space."""
    given = proposals(name, depth, tokens)
    document = read(catalog.find("search_spaces", name)).data
    space = searched(StrategySpec(name=strategy, options=options), document, given.space)
    return Proposals(space, given.geometry, given.tokens)


def middle(space: Proposals) -> dict[str, Any]:
    return {p.name: p.choices[0] if p.kind == "choice" else p.middle for p in space.parameters}
