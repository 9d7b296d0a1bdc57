"""A strategy held against a study before anything is measured: the space it searches, and why it makes no sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, Located
from autoprune.policy.space import BoundSpace, Space
from autoprune.search import strategy
from autoprune.search.strategy import Declared, Options, StrategyInfo

if TYPE_CHECKING:
    from autoprune.spec.goals import Constraint, Objective
    from autoprune.spec.load import LoadedSpec
    from autoprune.spec.models import StrategySpec


def searched(asked: StrategySpec, document: Mapping[str, Any], bound: BoundSpace) -> BoundSpace:
    """The space that a strategy searches where `document`, bound to the model, was declared: that one, or another made
    of it. Raises BadInput where there is none."""
    info = strategy.find(asked.name)
    if info is None or info.derives is None:
        return bound
    made = info.derives(document, bound, _options(info, asked))
    return Space.parse(made, bound.space.parts, bound.geometry).bind(bound.geometry)


def misfit(
    loaded: LoadedSpec,
    asked: StrategySpec,
    bound: BoundSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> list[Located]:
    """Why the strategy, whose options are right, makes no sense for this study."""
    info = strategy.find(asked.name)
    if info is None:
        return []
    try:
        space = searched(asked, loaded.space_source.data, bound)
        why = info.refuse(Declared(space, tuple(objectives), tuple(constraints)), _options(info, asked))
    except BadInput as error:
        why = str(error)
    return (
        []
        if why is None
        else [loaded.source.problem(("search", "strategy"), "strategy-misfit", f"{asked.name}: {why}")]
    )


def _options(info: StrategyInfo, asked: StrategySpec) -> Options:
    return info.options.model_validate(asked.options)
