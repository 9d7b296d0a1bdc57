"""A search space bound to a model: the sampler's parameters, and values to policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autoprune.document.numbers import exact, text
from autoprune.document.problems import Path, shown, suggest
from autoprune.errors import BadInput
from autoprune.policy.document import SCHEMA, Policy
from autoprune.policy.holes import REFERENCE, inline_kind
from autoprune.policy.holes import holes as holes_in
from autoprune.policy.parameters import Param, Parameter, snap, to_simplex
from autoprune.policy.placing import Slot, placed, slots
from autoprune.policy.sites import Layer, absolute

if TYPE_CHECKING:
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.space import Space

BUDGET = "budget"


@dataclass(frozen=True)
class BoundSpace:
    """See `Space.bind`."""

    space: Space
    geometry: Geometry

    @property
    def name(self) -> str:
        return self.space.name

    @property
    def warm_start(self) -> tuple[str, ...]:
        return self.space.warm_start

    @property
    def digest(self) -> str:
        return self.space.digest

    @property
    def budget(self) -> tuple[float, float] | None:
        """The lowest and highest budget, equal where it is fixed; None if nothing is solved."""
        budget = self.space.budget
        return None if budget is None else (float(budget[0]), float(budget[1]))

    @cached_property
    def sites(self) -> tuple[int, ...]:
        """The decoder layers before which stages are allowed, shallow ones first; 0 is before the language model."""
        from autoprune.policy.allowed import sites

        return sites(self)

    @cached_property
    def keeps(self) -> frozenset[str]:
        """The names of the parameters that say how much a stage keeps."""
        from autoprune.policy.allowed import keeps

        return keeps(self)

    @cached_property
    def slots(self) -> Mapping[str, Slot]:
        """The layers' ranges by name, shallow ones first."""
        layers = [p for p in self.space.params if p.kind == "layer"]
        return {s.name: s for s in slots(layers, self.space.order, self.geometry.depth)}

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """What a sampler is asked for, flattened: also the parameters of options that may not be chosen."""
        budget = self.space.budget
        own = [_number(BUDGET, "float", *budget)] if budget and budget[0] < budget[1] else []
        return (*own, *(parameter for param in self.space.params for parameter in self._of(param)))

    def _of(self, param: Param) -> Iterator[Parameter]:
        if param.kind == "weights":
            for i in range(len(param.names) - 1):
                yield Parameter(f"{param.name}[{i}]", "float", 0.0, 1.0)
        elif param.kind == "choice":
            yield Parameter(param.name, "choice", choices=param.labels)
        elif param.kind == "layer":
            yield self._layer(param)
        else:
            yield _number(param.name, param.kind, param.low, param.high, param.log)

    def _layer(self, param: Param) -> Parameter:
        """The first and the last layer, or a neighbour in the order, end a range for good."""
        slot, depth = self.slots[param.name], self.geometry.depth
        own = absolute(param.high, depth)
        high = f"layer {slot.high}" if slot.high == own and own < depth - 1 else None
        if slot.gap:  # its highest place begins at 1 - 1 / places at the latest
            near = 1 / (slot.high - slot.low + 1)
            return Parameter(param.name, "float", 0.0, 1.0, edges=(None, high), near=near)
        low = f"layer {slot.low}" if slot.low > 1 else None
        return Parameter(param.name, "int", slot.low, slot.high, edges=(low, high))

    def fill(self, values: Mapping[str, Any]) -> Policy:
        """The policy at these values. Floats are snapped to 1/1000, keeps that would rise are cut to what is there.

        Raises BadInput for values that are missing, unknown or out of range, and where the policy is wrong.
        """
        return Policy.parse(self.document(values), self.space.parts)

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The filled document, not yet checked."""
        _check_values(self.parameters, values)
        filler = _Filler(self, values)
        stages = [filler.fill(stage, ("stages", i)) for i, stage in enumerate(self.space.template["stages"])]
        criteria = filler.fill(self.space.template["criteria"], ("criteria",))
        document = {"schema": SCHEMA, "name": self.space.name or "sample", "criteria": criteria}
        return {**document, "stages": _cut(self.space.template["stages"], stages)}

    def express(self, policy: Policy) -> dict[str, Any] | None:
        """Values that fill to a policy of the same effect, or None if the space has none (or none was found)."""
        from autoprune.policy.express import express

        return express(self, policy)


def _number(name: str, kind: str, low: Layer, high: Layer, log: bool = False) -> Parameter:
    """A float or int. 0 ends every range for good, 1 that of a part of a whole."""
    whole = kind == "int"
    edges = (
        f"{float(low):g}" if low > (1 if whole else 0) else None,
        f"{float(high):g}" if whole or high != 1 else None,
    )
    if whole:
        return Parameter(name, "int", int(low), int(high), log, edges=edges)
    return Parameter(name, "float", float(low), float(high), log, edges=edges)


def _check_values(parameters: tuple[Parameter, ...], values: Mapping[str, Any]) -> None:
    names = [p.name for p in parameters]
    wrong = [f"unknown parameter {name!r}{suggest(name, names)}" for name in values if name not in names]
    wrong += [f"the parameter {name!r} is missing" for name in names if name not in values]
    for p in parameters:
        if p.name not in values:
            continue
        value = values[p.name]
        if p.kind == "choice":
            if value not in p.choices:
                wrong.append(f"{p.name} is one of {', '.join(map(str, p.choices))}, not {shown(value)}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not _inside(p, value):
            wrong.append(f"{p.name} lies between {p.low} and {p.high}, not {shown(value)}")
        elif p.kind == "int" and value != int(value):
            wrong.append(f"{p.name} is an integer, not {shown(value)}")
    if wrong:
        raise BadInput("\n".join(wrong), code="out-of-range")


def _inside(parameter: Parameter, value: float) -> bool:
    low, high = parameter.low, parameter.high
    return low is not None and high is not None and low <= value <= high


class _Filler:
    """Replaces holes by values, in a copy."""

    def __init__(self, bound: BoundSpace, values: Mapping[str, Any]) -> None:
        self.values = values
        self.params = {p.name: p for p in bound.space.params}
        self.by_path = {p.path: p for p in bound.space.params}
        self.layers = placed(tuple(bound.slots.values()), values)
        budget = bound.space.budget
        if budget is not None:
            low, high = budget
            self.budget = text(snap(values[BUDGET], low, high, False) if low < high else low)

    def fill(self, node: Any, path: Path) -> Any:
        if isinstance(node, str):
            if node == "solve" and ("keep" in path or "curve" in path):
                return {"to_budget": self.budget}
            found = REFERENCE.search(node)
            if found is None:
                return node
            value = self.value(self.params[found[1]])
            return value if found[0] == node else node.replace(found[0], str(value))
        if inline_kind(node) is not None:
            value = self.value(self.by_path[path])
            return {"weights": value} if self.by_path[path].kind == "weights" and path[-1] == "mix" else value
        if isinstance(node, Mapping):
            return {key: self.fill(inner, (*path, key)) for key, inner in node.items()}
        if isinstance(node, list | tuple):
            return [self.fill(inner, (*path, i)) for i, inner in enumerate(node)]
        return node

    def value(self, param: Param) -> Any:
        """What stands in the document for a parameter."""
        if param.kind == "layer":
            return self.layers[param.name]
        if param.kind == "weights":
            sticks = [float(self.values[f"{param.name}[{i}]"]) for i in range(len(param.names) - 1)]
            return {name: text(w) for name, w in zip(param.names, to_simplex(sticks), strict=True)}
        value = self.values[param.name]
        if param.kind == "choice":
            index = param.labels.index(value)
            return self.fill(param.options[index], (*param.path, "choice", index))
        if param.kind == "int":
            return int(value)
        return text(snap(value, param.low, param.high, param.log))


def _cut(template: list[Any], stages: list[Any]) -> list[Any]:
    """Fractions of N are cut to those before them, once one of them is a sampled one: such a stage keeps everything."""
    least, sampled = Fraction(1), False
    result = []
    for written, stage in zip(template, stages, strict=True):
        keep = stage.get("keep") if isinstance(stage, Mapping) else None
        if isinstance(stage, Mapping) and "restore" in stage:
            least = Fraction(1)
        if keep is not None and not isinstance(keep, Mapping | bool):
            sampled = sampled or any(True for _ in holes_in(written.get("keep"), ("keep",)))
            try:
                fraction = exact(keep)
            except ValueError:
                fraction = least
            if sampled and least < fraction <= 1:
                stage = {**stage, "keep": text(least)}
            least = min(least, fraction)
        result.append(stage)
    return result
