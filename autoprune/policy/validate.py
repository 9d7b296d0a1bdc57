"""What a policy's names and layers mean: parts that exist, with right parameters, at sites where they are legal.

`beside.problems` puts this together with the order of the stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autoprune.document.numbers import exact
from autoprune.document.problems import Path, Problem, from_pydantic, suggest
from autoprune.policy.model import SCORED_SPLITS, AnyStage, MixUse, Pick, ScoreUse, Stage, Use
from autoprune.policy.sites import absolute
from autoprune.policy.wrong import APART, PLACE, Wrong, wrong_in

if TYPE_CHECKING:
    from autoprune.policy.document import Policy
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.lookup import PartKind, PartLookup


def part_problems(
    policy: Policy,
    parts: PartLookup,
    geometry: Geometry | None,
    unread: frozenset[str] | None = frozenset(),
    wrong: Wrong = MappingProxyType({}),
) -> list[Problem]:
    """Every mistake that needs the registry of parts (and, with `geometry`, the model), whatever stands before and
    after a stage. `unread`: names that stand in `criteria`, but could not be read (None: any may); `wrong`: keys of
    stages that did not read well, of which nothing is said, nor of what depends on them."""
    check = _Check(policy, parts, geometry, unread)
    found = list(check.named())
    for stage in policy.stages:
        keys = wrong_in(stage, wrong)
        found += check.whole(stage) if keys <= APART else check.apiece(stage, None if keys & PLACE else stage)
        if "protect" not in keys:
            found += check.protected(stage)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Check:
    """`unread`: see `part_problems`. What uses such a name is not known, and no mistake."""

    policy: Policy
    parts: PartLookup
    geometry: Geometry | None
    unread: frozenset[str] | None = frozenset()

    def names(self) -> tuple[str, ...]:
        """The policy's own names for criteria, those that did not read well among them."""
        return (*self.policy.criteria, *sorted(self.unread or ()))

    def unclear(self, name: str) -> bool:
        """Whether a score's name stands, or may stand, for a criterion that did not read well."""
        known = name in self.policy.criteria or name in self.parts.names("criterion")
        return not known and (self.unread is None or name in self.unread)

    def named(self) -> Iterator[Problem]:
        """What is wrong with the policy's own names for criteria."""
        known = self.parts.names("criterion")
        for name, score in self.policy.criteria.items():
            if name in known:
                yield Problem(
                    ("criteria", name),
                    "name-taken",
                    f"{name!r} is the name of a criterion already; choose another",
                    key=True,
                )
            elif isinstance(score, MixUse):
                yield from self.mix(score, None)
            elif score.name in self.names() and score.name not in known:
                yield Problem(
                    score.path,
                    "nested-names",
                    f"{score.name!r} is a name itself; names stand for criteria and their mixes",
                )
            else:
                yield from self.use("criterion", score, None)

    def whole(self, stage: AnyStage) -> Iterator[Problem]:
        """What is wrong with the parts of a stage, and with how they go together."""
        for pick in stage.pick:
            yield from self.pick(stage, pick)
        yield from self.use("merger", stage.merge, stage)
        yield from self.counted(stage)

    def apiece(self, stage: AnyStage, place: AnyStage | None) -> Iterator[Problem]:
        """What is wrong with each part of a stage by itself; where it stands tells only with `place`."""
        yield from self.use("merger", stage.merge, place)
        if isinstance(stage, Stage) and stage.keep.rule is not None:
            yield from self.use("count", stage.keep.rule, place)
        for pick in stage.pick:
            yield from self.use("selector", pick.select, place)
            if pick.group is not None:
                yield from self.use("group", pick.group, place)
            if pick.count is not None:
                yield from self.use("count", pick.count, place)
            for score in (pick.score, pick.allocate):
                if score is not None:
                    yield from self.score(score, place)

    def pick(self, stage: AnyStage, pick: Pick) -> Iterator[Problem]:
        yield from self.use("selector", pick.select, stage)
        if pick.group is not None:
            yield from self.use("group", pick.group, stage)
            yield from self.allocated(pick, pick.group)
        yield from self.by_head(pick)
        if pick.allocate is not None:
            yield from self.score(pick.allocate, stage)
            if pick.group is None:
                path = pick.allocate.path
                yield Problem(
                    path, "needs-group", "allocate: says how groups share the count, and this pick has no `group`"
                )
        if pick.score is not None:
            yield from self.score(pick.score, stage)
        elif self._needs_score(pick.select):
            yield Problem(pick.path, "needs-score", f"select: {pick.select.name} needs a `score`")

    def counted(self, stage: AnyStage) -> Iterator[Problem]:
        """Count rules: they exist, and have scores where they read them."""
        rule = stage.keep.rule if isinstance(stage, Stage) else None
        for pick in stage.pick:
            if pick.group is not None and pick.group.params.get("split") == "rule" and rule is None:
                yield Problem(pick.group.path, "needs-count-rule", "group: split rule needs a `keep: {rule: …}`")
        yield from self.counted_apart(stage, rule)
        if rule is None:
            return
        yield from self.use("count", rule, stage)
        if rule.name not in self.parts.names("count"):
            return
        yield from self.among_layers(stage, rule)
        if self.parts.needs_score("count", rule.name) and stage.pick[0].score is None:
            yield Problem(
                stage.pick[0].path,
                "needs-score",
                f"keep: rule {rule.name} reads the scores of the first pick: it needs a `score`",
            )

    def counted_apart(self, stage: AnyStage, rule: Use | None) -> Iterator[Problem]:
        """Picks with counts of their own: all but the first, under a rule for that one; none may overlap or dilate."""
        there = [pick for pick in stage.pick if pick.count is not None]
        for pick in stage.pick if there else ():
            if pick.overlap or pick.dilate:
                yield Problem(
                    pick.path, "conflict", "picks that overlap or dilate share one count: they have no `count`"
                )
            if pick.count is None:
                if pick is not stage.pick[0]:
                    yield Problem(
                        pick.path, "needs-count-rule", "where one pick has a `count`, all but the first have one"
                    )
                continue
            yield from self.use("count", pick.count, stage)
            if pick is stage.pick[0] or rule is None:
                yield Problem(
                    pick.count.path,
                    "needs-count-rule",
                    "count: the first pick's is `keep: {rule: …}`, which later ones stand beside",
                )
            elif pick.count.name not in self.parts.names("count"):
                continue
            elif self.parts.shares_layers(pick.count.name):
                yield Problem(pick.count.path, "not-shared", f"count: {pick.count.name} shares a budget among layers")
            elif pick.score is None and self.parts.needs_score("count", pick.count.name):
                yield Problem(
                    pick.path, "needs-score", f"count: {pick.count.name} reads the pick's scores: it needs a `score`"
                )

    def among_layers(self, stage: AnyStage, rule: Use) -> Iterator[Problem]:
        """A rule that shares a budget among layers stands before a range of them, and there such a rule stands."""
        shared = isinstance(stage, Stage) and stage.until is not None and stage.keep.kind == "to_budget"
        able = self.parts.shares_layers(rule.name)
        if able and not shared:
            how = "write `along: [first, last]` and `keep: {rule: {" + rule.name + ": …}, fit: {to_budget: B}}`"
            yield Problem(rule.path, "not-shared", f"keep: rule {rule.name} shares a budget among layers: {how}")
        elif able and "along" in rule.params:
            path = (*rule.path, rule.name, "along")
            yield Problem(path, "conflict", "`along` stands on the stage: the rule's follows from it", key=True)
        elif shared and not able:
            those = ", ".join(name for name in self.parts.names("count") if self.parts.shares_layers(name))
            yield Problem(
                rule.path,
                "not-shared",
                f"keep: rule {rule.name} does not share a budget among layers; rules that do: {those}",
            )

    def by_head(self, pick: Pick) -> Iterator[Problem]:
        """Scores of single heads are for a group of heads, and such a group is for them."""
        if isinstance(pick.score, Use) and self.unclear(pick.score.name):
            return
        heads = pick.group is not None and pick.group.name == "head"
        apart = pick.score is not None and self.apart(pick.score)
        if heads and not apart and pick.group is not None:
            yield Problem(pick.group.path, "heads-apart", "group: head needs a score with `heads: each`")
        elif apart and not heads and pick.score is not None:
            yield Problem(pick.score.path, "heads-apart", "score: `heads: each` needs `group: head`")
        if pick.allocate is not None and self.apart(pick.allocate):
            yield Problem(
                pick.allocate.path, "heads-apart", "allocate: `heads: each` cannot say how groups share the count"
            )

    def apart(self, score: ScoreUse) -> bool:
        """Whether a score is one of single heads."""
        named = self.policy.criteria.get(score.name, score) if isinstance(score, Use) else score
        return isinstance(named, Use) and named.params.get("heads") == "each"

    def allocated(self, pick: Pick, group: Use) -> Iterator[Problem]:
        """The score that the groups' shares follow is there where the split reads one, and only there."""
        split = group.params.get("split", "equal")
        scored = split in SCORED_SPLITS
        known = pick.select.name in self.parts.names("selector")
        if scored and pick.score is None and pick.allocate is None:
            yield Problem(group.path, "needs-score", f"group: split {split} needs a `score`")
        elif split == "whole" and known and self.parts.reads_score("selector", pick.select.name) == "no":
            message = f"group: split whole needs a selector that reads scores; {pick.select.name} reads none"
            yield Problem(group.path, "conflict", message)
        if pick.allocate is not None and not scored:
            splits = ", ".join(SCORED_SPLITS)
            yield Problem(
                pick.allocate.path, "conflict", f"allocate: split {split} reads no score; those that do: {splits}"
            )

    def _needs_score(self, select: Use) -> bool:
        known = select.name in self.parts.names("selector")
        return known and self.parts.needs_score("selector", select.name)

    def score(self, score: ScoreUse, stage: AnyStage | None) -> Iterator[Problem]:
        if isinstance(score, MixUse):
            yield from self.mix(score, stage)
            return
        named = self.policy.criteria.get(score.name)
        if named is None or score.name in self.parts.names("criterion"):
            yield from self.use("criterion", score, stage)
            return
        if score.params:
            path = (*score.path, score.name)
            yield Problem(
                path, "conflict", f"{score.name!r} is a name from `criteria`; its parameters stand there", key=True
            )
        yield from self.here(score.name, named, stage, score.path)

    def here(
        self, name: str, named: ScoreUse, stage: AnyStage | None, path: Path, key: bool = False
    ) -> Iterator[Problem]:
        """What is wrong with using a named criterion here, said here; its own mistakes are said where it is defined."""
        if stage is None:
            return
        at_definition = set(self.mix(named, None) if isinstance(named, MixUse) else self.use("criterion", named, None))
        for p in self.mix(named, stage) if isinstance(named, MixUse) else self.use("criterion", named, stage):
            if p not in at_definition:
                yield Problem(path, p.code, f"{name}: {p.message}", key=key)

    def mix(self, mix: MixUse, stage: AnyStage | None) -> Iterator[Problem]:
        for name, _ in mix.weights:
            path = (*mix.path, "weights", name)
            named = self.policy.criteria.get(name)
            if isinstance(named, MixUse):
                yield Problem(
                    path, "nested-names", f"{name!r} is a mix itself; a mix of mixes is not supported", key=True
                )
            elif named is not None:
                yield from self.here(name, named, stage, path, key=True)
                if self.apart(named):
                    yield Problem(path, "heads-apart", f"{name}: `heads: each` cannot be part of a mix", key=True)
            else:
                for p in self.use("criterion", Use(name, {}, path), stage):
                    yield Problem(p.path, p.code, p.message, key=True)

    def use(self, kind: PartKind, use: Use, stage: AnyStage | None) -> Iterator[Problem]:
        """One part: it exists, its parameters are right, and it is legal where it stands."""
        known = self.parts.names(kind)
        if use.name not in known:
            if kind == "criterion" and self.unclear(use.name):
                return
            own = self.names() if kind == "criterion" else ()
            allowed = f"known: {', '.join((*known, *own))}{suggest(use.name, (*known, *own))}"
            if kind != "count" and use.name in self.parts.names("count"):
                allowed += "; it is a rule for how many stay: `keep: {rule: " + use.name + "}`"
            called = "count rule" if kind == "count" else kind
            path, at_key = ((*use.path, use.name), True) if use.params else (use.path, False)
            yield Problem(path, "unknown-part", f"unknown {called} {use.name!r}; {allowed}", key=at_key)
            return
        try:
            filled = self.parts.fill(kind, use.name, use.params)
        except ValidationError as error:
            prefix = (*use.path, use.name) if use.params else use.path
            yield from from_pydantic(error, prefix, allowed=self._keys(kind, use.name), data=use.params)
            return
        if stage is not None:
            yield from self.legal(kind, use, filled, stage)

    def _keys(self, kind: PartKind, name: str) -> tuple[str, ...]:
        try:
            return tuple(self.parts.fill(kind, name, {}))
        except ValidationError:
            return ()

    def legal(self, kind: PartKind, use: Use, filled: Mapping[str, Any], stage: AnyStage) -> Iterator[Problem]:
        sites = self.parts.sites(kind, use.name)
        site = stage.at.kind if isinstance(stage, Stage) else "llm"
        if not sites:
            yield Problem(
                use.path,
                "diagnostics-only",
                f"{kind} {use.name!r} is for diagnostics: a prefill cannot give it, no policy can use it",
            )
        elif site not in sites:
            yield Problem(use.path, "wrong-site", f"{kind} {use.name!r} is legal at {', '.join(sites)}, not at {site}")
        elif kind in ("criterion", "count"):
            for key, layer in _layers(filled):
                path = (*use.path, use.name, *key) if key[0] in use.params else use.path
                if "projector" in sites and (message := self.vision_layer(layer)):
                    yield Problem(path, "beyond-model", message)
                elif "projector" not in sites and (message := self.decoder_layer(layer, stage)):
                    yield Problem(path, "row-not-there", message)
        message = self.vision_layer(filled["key_layer"]) if filled.get("key_layer") is not None else ""
        if message:
            yield Problem((*use.path, use.name, "key_layer"), "beyond-model", message)

    def vision_layer(self, layer: Any) -> str:
        """What is wrong with an encoder block's number, or nothing."""
        if self.geometry is None:
            return ""
        depth = self.geometry.vision_depth
        index = layer if isinstance(layer, int) else absolute(exact(layer), depth)
        if -depth <= index < depth:
            return ""
        return f"encoder block {layer} is beyond the model: its {depth} blocks are 0 to {depth - 1}, or -{depth} to -1"

    def decoder_layer(self, layer: Any, stage: AnyStage) -> str:
        """What is wrong with the row a decoder criterion reads, or nothing."""
        written = stage.at.layer if isinstance(stage, Stage) else stage.along[0]
        if self.geometry is not None and written is not None:
            written = (
                absolute(written, self.geometry.depth)
                if not isinstance(stage, Stage)
                else stage.at.at(self.geometry.depth)
            )
        if layer == "prev":
            return "`layer: prev` at llm:0: there is no layer before; use `own`" if written == 0 else ""
        if layer == "own" or not isinstance(written, int):
            return ""
        number = layer if isinstance(layer, int) else exact(layer)
        if isinstance(number, int):
            index = number
        elif self.geometry is not None:
            index = absolute(number, self.geometry.depth)
        else:
            return ""
        depth = None if self.geometry is None else self.geometry.depth
        if 0 <= index <= written and (depth is None or index < depth):
            return ""
        # how deep the model is may be known only later
        allowed = "a layer from 0 to its own" if depth is None else f"0 to {min(written, depth - 1)}"
        return f"the row of layer {index} does not exist yet at llm:{written}; allowed: prev, own, {allowed}"

    def protected(self, stage: AnyStage) -> Iterator[Problem]:
        n = None if self.geometry is None else self.geometry.tokens_per_image
        if n is not None and isinstance(stage.protect, tuple) and stage.protect and stage.protect[-1] >= n:
            path = (*stage.path, "protect", "index")
            yield Problem(
                path,
                "beyond-model",
                f"position {stage.protect[-1]} is beyond an image's {n} visual tokens (0 to {n - 1})",
            )


def _layers(filled: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Every layer that a criterion's parameters name, and where: `layer`, or both ends of `layers`."""
    if filled.get("layer") is not None:
        yield ("layer",), filled["layer"]
    for i, end in enumerate(filled.get("layers") or ()):
        yield ("layers", i), end
