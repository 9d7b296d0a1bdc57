"""Reading a search space's open values off a policy, stage by stage. Used by `express`, which checks the result."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from autoprune.document.numbers import exact
from autoprune.document.problems import Path
from autoprune.policy.budget import count_steps, steps_of
from autoprune.policy.canonical import Binder
from autoprune.policy.document import Policy
from autoprune.policy.holes import REFERENCE, holes, inline_kind
from autoprune.policy.model import AnyStage, CurveStage, Use
from autoprune.policy.parameters import SNAP, Param
from autoprune.policy.resolved import Mix, Part, ResolvedPolicy, ResolvedStage, Score
from autoprune.policy.sites import Layer, absolute

if TYPE_CHECKING:
    from autoprune.policy.bound import BoundSpace


def ends(stage: AnyStage) -> tuple[Layer, Layer] | None:
    """The first and the last layer of a stage that stands for several; of any other None."""
    if isinstance(stage, CurveStage):
        return stage.along
    return None if stage.until is None or stage.at.layer is None else (stage.at.layer, stage.until)


class Reader:
    """Reads values for one choice of options (`chosen`: name -> number of the option)."""

    def __init__(self, bound: BoundSpace, target: ResolvedPolicy, chosen: Mapping[str, int]) -> None:
        self.bound, self.target, self.chosen = bound, target, chosen
        self.by_name = {p.name: p for p in bound.space.params}
        self.by_path = {p.path: p for p in bound.space.params}
        self.criteria: Mapping[str, Any] = bound.space.template["criteria"]
        self.values: dict[str, Any] = {}

    # ---------------------------------------------------------------------------------------------- stages
    def stages(self, rows: tuple[int, ...]) -> dict[str, Any]:
        """Values when the policy's stages stand in these rows of the space."""
        self.values = {}
        template = self.bound.space.template["stages"]
        for number, row in enumerate(rows):
            if isinstance(template[row], Mapping):
                self.stage(template[row], ("stages", row), number)
        return self.values

    def stage(self, written: Mapping[str, Any], path: Path, number: int) -> None:
        """Where the policy's stage of this number stands, what it keeps and how it picks."""
        stage = self.target.stages[number]
        self.number(written.get("at"), (*path, "at"), stage.layer)
        self.keep(written.get("keep"), (*path, "keep"), number)
        self.picks(written, path, stage)

    def keep(self, node: Any, path: Path, number: int) -> None:
        share, of_current, count = self._kept(number)
        node, path = self.chased(node, path)
        if not isinstance(node, Mapping) or inline_kind(node) is not None:
            self.fraction(node, path, share)
        elif "rule" in node:
            rule = self.target.stages[number].keep.rule
            if rule is not None:
                self.part(node["rule"], (*path, "rule"), rule)
        elif len(node) == 1:
            kind, inner = next(iter(node.items()))
            value = {"of_current": of_current, "tokens": count}.get(kind)
            self.fraction(inner, (*path, kind), value)

    def _kept(self, number: int) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
        """What a stage keeps of N, of what was there, and in tokens, as far as that is known."""
        steps = steps_of(self.target)
        keep, tokens = steps[number][1], self.bound.geometry.tokens_per_image
        if tokens:
            counts = (tokens, *count_steps(steps, tokens, self.target.depth, [0] * len(steps)))
            now, before = counts[number + 1], counts[number]
            return Fraction(now, tokens), Fraction(now, before) if before else None, Fraction(now)
        if keep.kind == "of_current":
            return (keep.value if number == 0 else None), keep.value, None
        before_keep = steps[number - 1][1] if number else None
        known = before_keep is None or before_keep.kind == "fraction"
        if keep.kind != "fraction" or not known:
            return (keep.value if keep.kind == "fraction" else None), None, None
        return keep.value, keep.value / (before_keep.value if before_keep is not None else 1), None

    def picks(self, written: Mapping[str, Any], path: Path, stage: ResolvedStage) -> None:
        listed = written.get("pick")
        rows = [(written, path)] if listed is None else [(p, (*path, "pick", i)) for i, p in enumerate(listed)]
        for (row, inside), pick in zip(rows, stage.picks, strict=False):
            if not isinstance(row, Mapping):
                continue
            self.fraction(row.get("share"), (*inside, "share"), pick.share)
            self.score(row.get("score"), (*inside, "score"), pick.score, stage.layer)
            self.part(row.get("select", "top"), (*inside, "select"), pick.select)
            if pick.group is not None:
                self.part(row.get("group"), (*inside, "group"), pick.group)
            self.score(row.get("allocate"), (*inside, "allocate"), pick.allocate, stage.layer)
            if pick.count is not None:
                self.part(row.get("count"), (*inside, "count"), pick.count)
        self.part(written.get("merge", "drop"), (*path, "merge"), stage.merge)

    # ---------------------------------------------------------------------------------------------- parts
    def score(self, node: Any, path: Path, score: Score | None, layer: int) -> None:
        node, path = self.chased(node, path)
        if score is None:
            return
        if isinstance(node, str) and node in self.criteria:
            self.score(self.criteria[node], ("criteria", node), score, layer)
        elif isinstance(node, Mapping) and isinstance(node.get("mix"), Mapping):
            self.mix(node["mix"], (*path, "mix"), score, layer)
        elif isinstance(score, Part):
            self.part(node, path, score)

    def mix(self, node: Mapping[str, Any], path: Path, score: Score, layer: int) -> None:
        """Weights of the terms that are found among the mix's names."""
        hole = node if inline_kind(node) else node.get("weights")
        param = self.param(hole, path if hole is node else (*path, "weights"))
        if param is None or param.kind != "weights":
            return
        terms = dict.fromkeys(param.names, Fraction(0))
        for weight, part in score.terms if isinstance(score, Mix) else ((Fraction(1), score),):
            for name in param.names:
                if self.same(name, part, layer):
                    terms[name] = weight
                    break
                if not terms[name] and self.open(name, part):
                    terms[name] = weight
                    self.part(self.criteria[name], ("criteria", name), part)
                    break
        if any(terms.values()):
            self.values[param.name] = tuple(terms.values())

    def same(self, name: str, part: Part, layer: int) -> bool:
        """Whether a name in a mix stands for this part at this layer."""
        from pydantic import ValidationError

        node = self.criteria.get(name, name)
        use = Use(node) if isinstance(node, str) else Use(*next(iter(node.items())))
        policy, geometry, parts = Policy("", ()), self.bound.geometry, self.bound.space.parts
        if parts is None or use.name != part.name:
            return False
        try:
            return Binder(policy, geometry, parts).part("criterion", use, layer) == part
        except (ValidationError, ValueError):  # a hole in the named criterion's parameters
            return False

    def open(self, name: str, part: Part) -> bool:
        """Whether a name in a mix stands for such a part with parameters left open."""
        node = self.criteria.get(name)
        return isinstance(node, Mapping) and part.name in node and any(True for _ in holes(node, ("criteria", name)))

    def part(self, node: Any, path: Path, part: Part) -> None:
        """Parameters of a part that are holes."""
        node, path = self.chased(node, path)
        if isinstance(node, Mapping) and tuple(node) == (part.name,) and isinstance(node[part.name], Mapping):
            for key, inner in node[part.name].items():
                value = part.params.get(key)
                if isinstance(value, int | float | str):
                    self.number(inner, (*path, part.name, key), value)

    # ---------------------------------------------------------------------------------------------- curves
    def curves(self, policy: Policy) -> dict[str, Any]:
        """Values when the space and the policy have ranges of layers at the same places among their stages."""
        self.values = {}
        depth, layers, number = self.bound.geometry.depth, [s.layer for s in self.target.stages], 0
        for i, stage in enumerate(policy.stages):
            written, path = self.bound.space.template["stages"][i], ("stages", i)
            along = ends(stage)
            for end, layer in enumerate(along or ()):
                self.number(written["along"][end], (*path, "along", end), absolute(layer, depth))
            if isinstance(stage, CurveStage):
                self.tree(written["curve"], (*path, "curve"), {stage.curve.name: stage.curve.params})
            if number < len(layers):
                self.stage(written, path, number)
            number += 1
            while along and number < len(layers) and layers[number] <= absolute(along[1], depth):
                number += 1
        return self.values

    def tree(self, node: Any, path: Path, value: Any) -> None:
        """Numbers of a tree that are holes in its template."""
        node, path = self.chased(node, path)
        if self.param(node, path) is not None:
            self.number(node, path, value)
        elif isinstance(node, Mapping) and isinstance(value, Mapping):
            for key in node.keys() & value.keys():
                self.tree(node[key], (*path, key), value[key])
        elif isinstance(node, list) and isinstance(value, list) and len(node) == len(value):
            for i, inner in enumerate(node):
                self.tree(inner, (*path, i), value[i])

    # ---------------------------------------------------------------------------------------------- single values
    def param(self, node: Any, path: Path) -> Param | None:
        """The definition behind a hole, or None if there is no hole."""
        if isinstance(node, str):
            found = REFERENCE.search(node)
            return None if found is None else self.by_name.get(found[1])
        return self.by_path.get(path) if inline_kind(node) is not None else None

    def chased(self, node: Any, path: Path) -> tuple[Any, Path]:
        """The chosen option where the node is a choice."""
        param = self.param(node, path)
        if param is None or param.kind != "choice":
            return node, path
        index = self.chosen[param.name]
        return self.chased(param.options[index], (*param.path, "choice", index))

    def number(self, node: Any, path: Path, value: Any) -> None:
        param = self.param(node, path)
        if param is None or param.kind in ("choice", "weights") or isinstance(value, Mapping | list):
            return
        try:
            number = exact(value)
        except ValueError:
            return
        if param.kind == "layer":
            place = number if number.denominator > 1 else int(number)
            self.values[param.name] = absolute(place, self.bound.geometry.depth)
        else:
            self.values[param.name] = int(number) if param.kind == "int" else number

    def fraction(self, node: Any, path: Path, value: Fraction | None) -> None:
        """A keep or share, on the grid that sampled values have."""
        param = self.param(node, path)
        if param is not None and value is not None:
            self.number(node, path, Fraction(round(value * SNAP), SNAP) if param.kind == "float" else value)
