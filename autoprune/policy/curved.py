"""From a space to one whose stages inside the language model are a curve, or so many steps at free places.

What stands before the language model stays, with the criteria; the stages inside give way to the parts of the first of
them, along all layers that any of them may stand at. One number follows from the budget. Documents to documents, pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.policy.allowed import stage_layers
from autoprune.policy.holes import REFERENCE

if TYPE_CHECKING:
    from autoprune.policy.bound import BoundSpace

BUDGET = {"float": [0.1, 0.9]}
FRONT = {"float": [0.05, 1.0]}
PLACED = ("at", "along", "keep", "curve")


def curved(document: Mapping[str, Any], bound: BoundSpace, curve: str) -> dict[str, Any]:
    """With `curve` along the layers, its shape left open; a space that has it already stays as it is. `bound`: the same
    space for the model. Raises BadInput where the space has no stages that a curve could stand for."""
    front, parts, layers = _taken(document, bound)
    if [curve] == [name for stage in document["stages"][len(front) :] for name in stage.get("curve", {"": None})]:
        return dict(document)
    first, last = layers[0], layers[-1]
    middle = (first + last) // 2
    shapes: dict[str, tuple[Any, Any]] = {
        "p_sigmoid": (first, {"low": _float(0, 0.3), "high": _float(0.5, 1), "mid": "solve", "slope": _slope(2, 60)}),
        "logistic": (first, {"scale": "solve", "mid": _float(0, 1), "slope": _float(0, 30), "most": _float(0.2, 1)}),
        "geometric": ({"layer": [first, middle]}, {"ratio": "solve", "every": {"int": [1, max(1, last - middle)]}}),
    }
    start, shape = shapes[curve]
    return _document(document, [*front, {"along": [start, last], "curve": {curve: shape}, **parts}], {}, [])


def stepped(document: Mapping[str, Any], bound: BoundSpace, steps: int) -> dict[str, Any]:
    """With so many stages, each at a free place and with a free keep, the last one's solved. Raises as `curved` does,
    and where there are fewer layers than steps."""
    front, parts, layers = _taken(document, bound)
    if layers[-1] - layers[0] + 1 < steps:
        raise BadInput(
            f"{steps} steps need as many layers; the space allows {layers[0]} to {layers[-1]}", code="strategy-misfit"
        )
    taken = document.get("params", {})
    names = [_unused(f"step{i + 1}", taken) for i in range(steps)]
    keeps: list[Any] = [*({"of_current": _float(0.05, 1)} for _ in range(steps - 1)), "solve"]
    stages = [{"at": f"llm:${name}", "keep": keep, **parts} for name, keep in zip(names, keeps, strict=True)]
    params = {name: {"layer": [layers[0], layers[-1]]} for name in names}
    return _document(document, [*front, *stages], params, [" < ".join(names)] if steps > 1 else [])


def _float(low: float, high: float) -> dict[str, Any]:
    return {"float": [low, high]}


def _slope(low: float, high: float) -> dict[str, Any]:
    return {"float": [low, high], "log": True}


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    return name if name not in taken else _unused(name + "_", taken)


def _taken(document: Mapping[str, Any], bound: BoundSpace) -> tuple[list[Any], dict[str, Any], list[int]]:
    """The stages before the language model, the parts of the first one inside, and the layers of all those."""
    front, inside, layers = [], [], set[int]()
    for i, stage in enumerate(document["stages"]):
        if isinstance(stage.get("keep"), Mapping) and "rule" in stage["keep"]:
            raise BadInput(
                f"a count rule decides how much stage {i + 1} keeps: no curve can stand beside it",
                code="strategy-misfit",
            )
        if "restore" in stage:
            raise BadInput(f"stage {i + 1} brings tokens back: no curve can stand in its place", code="strategy-misfit")
        here = stage_layers(bound, i)
        if max(here) == 0:
            front.append({**stage, "keep": FRONT} if stage.get("keep") == "solve" else stage)
        else:
            inside.append(stage)
            layers |= here - {0}
    if not inside:
        raise BadInput(
            "the space has no stage inside the language model that a curve could stand for", code="strategy-misfit"
        )
    if len(layers) < 2:
        raise BadInput(
            f"the space allows stages before layer {min(layers)} alone: a curve needs a range of layers",
            code="strategy-misfit",
        )
    parts = {key: value for key, value in inside[0].items() if key not in PLACED}
    return front, parts, sorted(layers)


def _document(
    document: Mapping[str, Any], stages: list[Any], params: Mapping[str, Any], order: list[str]
) -> dict[str, Any]:
    """The space with these stages: parameters that nothing uses any more are left out."""
    declared = {**document.get("params", {}), **params}
    todo, used = [*_references([stages, document.get("criteria", {})])], set[str]()
    while todo:
        name = todo.pop()
        if name not in used:
            used.add(name)
            todo += _references(declared[name])
    chains = ([n.strip() for n in entry.split("<")] for entry in document.get("order", []))
    left = [" < ".join(n for n in chain if n in used) for chain in chains]
    made = {
        **document,
        "budget": document.get("budget", BUDGET),
        "params": {name: hole for name, hole in declared.items() if name in used},
        "order": [*(chain for chain in left if "<" in chain), *order],
        "stages": stages,
    }
    return {key: value for key, value in made.items() if value not in ({}, [])}


def _references(node: Any) -> Iterator[str]:
    """The names of parameters that a tree uses."""
    if isinstance(node, str):
        found = REFERENCE.search(node)
        if found is not None:
            yield found[1]
    elif isinstance(node, Mapping):
        for inner in node.values():
            yield from _references(inner)
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from _references(inner)
