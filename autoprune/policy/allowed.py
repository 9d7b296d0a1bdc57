"""What a space leaves open: the decoder layers before which it allows stages, and which parameters are keeps.

Layers are fixed sites, what a hole may become, and the whole of a range of layers; 0 is before the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Path
from autoprune.policy.holes import REFERENCE, inline_kind
from autoprune.policy.parameters import Param
from autoprune.policy.sites import absolute, layer_of

if TYPE_CHECKING:
    from autoprune.policy.bound import BoundSpace


def sites(bound: BoundSpace) -> tuple[int, ...]:
    """Every such layer, shallow ones first."""
    return tuple(sorted(set().union(*(stage_layers(bound, i) for i in range(len(bound.space.template["stages"]))))))


def stage_layers(bound: BoundSpace, number: int) -> set[int]:
    """The layers before which one of the space's stages may stand."""
    stage = bound.space.template["stages"][number]
    if "along" in stage:
        first, last = (_layers(bound, stage["along"][end], ("stages", number, "along", end)) for end in (0, 1))
        return set(range(min(first), max(last) + 1))
    return _layers(bound, stage["at"], ("stages", number, "at"))


def _layers(bound: BoundSpace, node: Any, path: Path) -> set[int]:
    """The layers that a site, or the end of a range, may be at."""
    if isinstance(node, str):
        node = node.removeprefix("llm:").strip()
        if node in ("projector", "input"):
            return {0}
        if (found := REFERENCE.fullmatch(node)) is not None:
            return _of(bound, next(p for p in bound.space.params if p.name == found[1]))
    if isinstance(node, Mapping) and inline_kind(node) is not None:
        return _of(bound, next(p for p in bound.space.params if p.path == path))
    return {absolute(layer_of(node), bound.geometry.depth)}


def _of(bound: BoundSpace, param: Param) -> set[int]:
    if param.kind == "choice":
        options = enumerate(param.options)
        return set().union(*(_layers(bound, option, (*param.path, "choice", i)) for i, option in options))
    if param.kind == "layer":
        lowest: dict[str, int] = {}
        for name, slot in bound.slots.items():
            lowest[name] = slot.lowest(lowest)
        return set(range(lowest[param.name], bound.slots[param.name].high + 1))
    return set(range(int(param.low), int(param.high) + 1))


def keeps(bound: BoundSpace) -> frozenset[str]:
    """The names of the parameters that say how much a stage keeps."""
    listed = enumerate(bound.space.template["stages"])
    found = (
        _names(stage.get("keep"), ("stages", i, "keep"), bound) for i, stage in listed if isinstance(stage, Mapping)
    )
    return frozenset().union(*found)


def _names(node: Any, path: Path, bound: BoundSpace) -> set[str]:
    if isinstance(node, str):
        found = REFERENCE.search(node)
        return set() if found is None else {found[1]}
    if inline_kind(node) is not None:
        return {p.name for p in bound.space.params if p.path == path}
    if isinstance(node, Mapping):
        return set().union(*(_names(v, (*path, k), bound) for k, v in node.items()))
    return set()
