"""The canonical form: what a policy does to one model geometry, with one spelling for equal effects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from autoprune.document.numbers import exact
from autoprune.document.problems import Problems
from autoprune.errors import BadInput
from autoprune.policy import guard as guards
from autoprune.policy.beside import problems
from autoprune.policy.budget import PARK, Counting, count_steps, fractional_budget
from autoprune.policy.expand import Placed, expand
from autoprune.policy.guard import bound
from autoprune.policy.model import SCORED_SPLITS, AnyStage, MixUse, Pick, Rows, ScoreUse, Stage, Use
from autoprune.policy.resolved import (
    Keep,
    KeepKind,
    Mix,
    Part,
    ResolvedPick,
    ResolvedPolicy,
    ResolvedStage,
    Score,
    named,
)
from autoprune.policy.sites import absolute

if TYPE_CHECKING:
    from autoprune.document.yaml import Source
    from autoprune.policy.document import Policy
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.lookup import PartLookup

SCHEMA = "autoprune/canonical/1"


def resolve(
    policy: Policy,
    geometry: Geometry,
    parts: PartLookup,
    tokens: int | None = None,
    *,
    parity: bool = False,
    source: Source | None = None,
) -> ResolvedPolicy:
    """Bind a policy to a geometry.

    Curves expanded, layers absolute, parameters filled in, criteria inlined, weights summing to 1, stages without an
    effect left out, scores that no part reads left out, `projector` written as llm:0, where it takes effect. `tokens`
    is N where it is the same for all samples: keeps are then counts (up to the first stage that protects separators,
    whose number is the sample's). A curve's number is solved for images of `tokens_per_image` wherever that is known,
    so that a policy is the same with and without `tokens`. `parity`: as the policy's release does it.
    `source`: the document, in which mistakes then have their positions.

    Raises BadInput with every mistake of the policy for this model, `Infeasible` if its budget cannot be met.
    """
    Problems(problems(policy, parts, geometry)).raise_for(source)
    if parity:
        policy = replace(policy, stages=policy.parity.applied(policy.stages))
    placed = expand(policy, geometry.depth, geometry.tokens_per_image or tokens)
    _feasible(placed, geometry.depth, geometry.tokens_per_image or tokens)
    placed = tuple(replace(p, stage=_protecting(p.stage, geometry)) for p in placed)
    bind = Binder(policy, geometry, parts, policy.parity.rows if parity else None)
    kept = _Kept(placed, geometry, tokens).stages()
    guard = bound(policy.guard, [p.origin if p.stage.pick else -1 for p in kept])
    watched = {rule.stage for rule in guard if rule.when == "entropy_above"}
    return ResolvedPolicy(tuple(bind.stage(p, i in watched) for i, p in enumerate(kept)), geometry.depth, guard)


def _feasible(placed: tuple[Placed, ...], depth: int, tokens: int | None) -> None:
    """Raises `Infeasible` where a budget is out of reach that layers share on the run, however they do it."""
    if any(p.keep.kind == "shared" for p in placed):
        steps = [(p.layer, p.keep) for p in placed]
        if tokens:
            count_steps(steps, tokens, depth, [0] * len(steps))
        else:
            fractional_budget(steps, depth)


def _protecting(stage: AnyStage, geometry: Geometry) -> AnyStage:
    """`protect: newlines` says nothing where there are no separators, or where the family protects them anyway."""
    default = geometry.tokens_per_image is not None or geometry.protects_newlines
    return replace(stage, protect=None) if stage.protect == "newlines" and default else stage


class _Kept:
    """The stages that do something, with counts for keeps where N is known.

    A stage that drops nothing is left out, unless it numbers positions anew that an earlier one left with gaps, is the
    first to attend by mass after one that has merged, or brings parked tokens back: then that alone stays. `attend` is
    said once, where it begins to tell; to park what nobody restores is to drop it.
    """

    def __init__(self, placed: tuple[Placed, ...], geometry: Geometry, tokens: int | None) -> None:
        self.placed, self.depth, self.tokens = placed, geometry.depth, tokens
        self.counted = 0 if tokens is None else _countable(placed, geometry)
        self.gaps = self.merged = self.asked = self.attends = self.parked = False
        self.last = max((i for i, p in enumerate(placed) if p.keep.restores), default=-1)
        self.number = 0
        self.result: list[Placed] = []

    def stages(self) -> list[Placed]:
        self._counts(self.placed[: self.counted])
        self._fractions(self.placed[self.counted :])
        return self.result

    def _counts(self, placed: tuple[Placed, ...]) -> None:
        current = self.tokens or 0
        held = [sum(position < current for position in named(p.stage.protect)) for p in placed]
        steps = [(p.layer, p.keep) for p in placed]
        counting = Counting(steps, current, self.depth, held)
        for place in placed:
            keep = replace(place.keep, kind="tokens", value=Fraction(counting.next()))
            self._add(replace(place, keep=keep), keep.value < counting.entering)

    def _fractions(self, placed: tuple[Placed, ...]) -> None:
        least, guarded = (Fraction(1), frozenset[int]()) if self.tokens is None else (None, frozenset[int]())
        for place in placed:
            keep, listed = place.keep, frozenset(named(place.stage.protect))
            least = None if keep.restores else least
            below = least is None or keep.value < least or not listed >= guarded
            drops = keep.kind in ("tokens", "rule", "shared") or (keep.value < 1 and (keep.kind != "fraction" or below))
            self._add(place, drops)
            if drops and keep.kind == "fraction" and least is not None:
                least, guarded = keep.value, listed
            elif drops:
                least = None

    def _add(self, place: Placed, drops: bool) -> None:
        stage, compact = place.stage, place.stage.positions == "compact"
        returns, parks = place.keep.restores and self.parked, stage.merge.name == PARK and self.number < self.last
        if stage.merge.name == PARK and not parks:
            stage = replace(stage, merge=Use("drop", path=stage.merge.path))  # nobody restores it
        if isinstance(stage, Stage):
            stage = replace(stage, restore=stage.restore if returns else None)
        self.parked = (self.parked and not returns) or (drops and parks)
        self.number += 1
        self.merged |= drops and stage.merge.name not in ("drop", PARK)
        self.asked |= stage.attend is not None
        begins = self.asked and self.merged and not self.attends
        stage = replace(stage, attend="mass" if begins else None)
        if drops:
            self.result.append(replace(place, stage=stage))
            self.gaps = not compact
        elif (compact and self.gaps) or begins or returns:
            bare = replace(stage, pick=(), merge=Use("drop"), protect=None)
            self.result.append(replace(place, keep=Keep("of_current", Fraction(1)), stage=bare))
            self.gaps &= not compact
        self.attends |= begins


def _countable(placed: tuple[Placed, ...], geometry: Geometry) -> int:
    """How many stages come before the first whose count, or number of protected positions, differs between samples."""
    if geometry.tokens_per_image is None and geometry.protects_newlines:
        return 0
    for i, place in enumerate(placed):
        if place.stage.protect == "newlines" or place.keep.decided:
            return i
    return len(placed)


class Binder:
    """Resolves parts for one policy and one geometry."""

    def __init__(self, policy: Policy, geometry: Geometry, parts: PartLookup, rows: Rows | None = None) -> None:
        self.policy, self.geometry, self.parts, self.rows = policy, geometry, parts, rows

    def stage(self, placed: Placed, watched: bool = False) -> ResolvedStage:
        """`watched`: a guard looks at the scores of its first pick."""
        stage = placed.stage
        merge = self.part("merger", stage.merge, placed.layer)
        last = len(stage.pick) - 1
        rule = self.rule(placed)
        counts = rule is not None and placed.keep.decided
        picks = tuple(
            self.pick(
                p,
                placed.layer,
                stage.merge.name,
                i == last,
                counts and (i == 0 or p.count is not None),
                watched and i == 0,
            )
            for i, p in enumerate(stage.pick)
        )
        if any(pick.count is not None for pick in picks):
            picks = tuple(replace(pick, share=None) for pick in picks)
        picks = (*(replace(p, overlap=False) for p in picks[:1]), *picks[1:])  # nothing comes before the first
        keep = replace(placed.keep, rule=rule, parks=False, restores=False)
        rows: Rows = "mean" if self.rows is None or merge.name == "drop" else self.rows
        how = (stage.protect, stage.positions, rows, stage.attend)
        restore = stage.restore if isinstance(stage, Stage) else None
        mixes = merge.name not in ("drop", PARK)
        on: Any = stage.merge_on if mixes and isinstance(stage, Stage) else "projected"
        if on == "earliest":
            on = "projected" if "encoder_rows" in self.geometry.lacks else "encoder"
        return ResolvedStage("llm", placed.layer, keep, picks, merge, *how, restore, on)

    def rule(self, placed: Placed) -> Part | None:
        """A stage's count rule, where it has an effect: it decides the count, or the shares of some pick's groups."""
        stage = placed.stage
        use = stage.keep.rule if isinstance(stage, Stage) else None
        shared = any(p.group is not None and p.group.params.get("split") == "rule" for p in stage.pick)
        if use is None or not (placed.keep.decided or shared):
            return None
        part = self.part("count", use, placed.layer)
        if placed.keep.kind != "shared" or not isinstance(stage, Stage) or stage.until is None:
            return part
        ends = [stage.at.at(self.geometry.depth), absolute(stage.until, self.geometry.depth)]
        return Part(part.name, {**part.params, "along": ends})

    def pick(
        self, pick: Pick, layer: int, merge: str, last: bool, counted: bool = False, watched: bool = False
    ) -> ResolvedPick:
        by_select = self.parts.reads_score("selector", pick.select.name)
        by_merge = self.parts.reads_score("merger", merge) if last else "no"  # mergers see the last pick's scores
        group = None if pick.group is None else self.part("group", pick.group, layer)
        split = None if group is None else group.params.get("split")
        group = None if split == "pooled" else group  # all tokens together, as without one
        own = split in SCORED_SPLITS and pick.allocate is None
        by_group = "no" if not own else "order" if split == "overview" else "value"
        by_trim = "order" if pick.overlap or pick.dilate else "no"
        needed = (by_select, by_merge, by_group, by_trim, "value" if counted or watched else "no")
        reads = "value" if "value" in needed else "order" if "order" in needed else "no"
        score = (
            None if reads == "no" or pick.score is None else self.score(pick.score, layer, only_order=reads == "order")
        )
        select = self.part("selector", pick.select, layer)
        resolved = ResolvedPick(score, select, None if last else pick.share, group)
        allocate = None
        if pick.allocate is not None and split in SCORED_SPLITS:
            allocate = self.score(pick.allocate, layer, only_order=split == "overview")
        count = self.part("count", pick.count, layer) if counted and pick.count is not None else None
        return replace(resolved, allocate=allocate, overlap=pick.overlap, dilate=pick.dilate, count=count)

    def score(self, score: ScoreUse, layer: int, only_order: bool) -> Score:
        named = self.policy.criteria.get(score.name, score) if isinstance(score, Use) else score
        return self.mix(named, layer, only_order) if isinstance(named, MixUse) else self.part("criterion", named, layer)

    def mix(self, mix: MixUse, layer: int, only_order: bool) -> Score:
        """Weights that are zero left out; what reads only the order needs no mix of one."""
        total = sum((weight for _, weight in mix.weights), Fraction(0))
        terms = []
        for name, weight in mix.weights:
            use = self.policy.criteria.get(name, Use(name))
            if weight and isinstance(use, Use):
                terms.append((weight / total, self.part("criterion", use, layer)))
        if len(terms) == 1 and only_order and mix.normalise != "softmax":  # softmax may make small scores equal
            return terms[0][1]
        terms.sort(key=lambda term: (term[1].name, json.dumps(dict(term[1].params), sort_keys=True), term[0]))
        return Mix(tuple(terms), mix.normalise, mix.op)

    def part(self, kind: Any, use: Use, layer: int) -> Part:
        params = dict(self.parts.fill(kind, use.name, use.params))
        if kind in ("criterion", "count"):
            vision = "projector" in self.parts.sites(kind, use.name)
            for key, value in params.items():
                if key in ("layer", "layers") and value is not None:
                    params[key] = self.layers(value, layer, vision)
        if params.get("key_layer") is not None:
            params["key_layer"] = self.vision_layer(params["key_layer"])
        if params.get("without_cls") is not None:  # what it stands for on this model, in one spelling
            start = params["from"] if self.geometry.vision.has_cls else params["without_cls"]
            params = {**params, "from": start, "without_cls": None}
        return Part(use.name, params)

    def layers(self, layer: Any, stage: int, vision: bool) -> Any:
        """A layer as a number, of a range `[a, b]` both ends."""
        if isinstance(layer, list | tuple):
            ends = [self.layers(end, stage, vision) for end in layer]
            if not vision and isinstance(layer[0], str) and layer[1] == "prev":  # a fraction, in a shallow model
                ends[0] = min(ends)
            return ends
        return self.vision_layer(layer) if vision else self.decoder_layer(layer, stage)

    def vision_layer(self, layer: Any) -> int:
        depth = self.geometry.vision_depth
        index = int(layer) if isinstance(layer, int) else absolute(exact(layer), depth)
        return index + depth if index < 0 else index

    def decoder_layer(self, layer: Any, stage: int) -> int:
        """`prev` is the layer before the stage, `own` the stage's own layer (computed for the score alone)."""
        if layer in ("prev", "own"):
            return stage - 1 if layer == "prev" else stage
        return int(layer) if isinstance(layer, int) else absolute(exact(layer), self.geometry.depth)


def to_json(resolved: ResolvedPolicy) -> str:
    """Sorted, compact JSON; equal policies give equal text."""
    content = {"schema": SCHEMA, "depth": resolved.depth, "stages": [_stage(s) for s in resolved.stages]}
    if resolved.guard:
        content["guard"] = guards.to_json(resolved.guard)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(resolved: ResolvedPolicy) -> str:
    """SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(to_json(resolved).encode()).hexdigest()


def _stage(stage: ResolvedStage) -> dict[str, Any]:
    return {
        "site": stage.site,
        "layer": stage.layer,
        "keep": _keep(stage.keep),
        "picks": [
            {
                "score": None if pick.score is None else _score(pick.score),
                "select": _part(pick.select),
                "share": None if pick.share is None else str(pick.share),
                **({} if pick.group is None else {"group": _part(pick.group)}),
                **({} if pick.allocate is None else {"allocate": _score(pick.allocate)}),
                **({"overlap": True} if pick.overlap else {}),
                **({} if pick.dilate is None else {"dilate": pick.dilate}),
                **({} if pick.count is None else {"count": _part(pick.count)}),
            }
            for pick in stage.picks
        ],
        "merge": _part(stage.merge),
        "protect": list(stage.protect) if isinstance(stage.protect, tuple) else stage.protect,
        "positions": stage.positions,
        **({} if stage.rows == "mean" else {"rows": stage.rows}),
        **({} if stage.attend is None else {"attend": stage.attend}),
        **({} if stage.restore is None else {"restore": stage.restore}),
        **({} if stage.merge_on == "projected" else {"merge_on": stage.merge_on}),
    }


def _keep(keep: Keep) -> dict[str, Any]:
    made: dict[str, Any] = {keep.kind: str(keep.value)}
    if keep.rule is not None:
        made["by"] = _part(keep.rule)
    if keep.kind == "rule":
        made["least"] = str(keep.least)
    return made


def _read_keep(data: Mapping[str, Any]) -> Keep:
    (kind,) = (key for key in data if key not in ("by", "least"))
    rule = _read_part(data["by"]) if "by" in data else None
    return Keep(cast(KeepKind, kind), Fraction(data[kind]), rule, Fraction(data.get("least", 0)))


def _part(part: Part) -> dict[str, Any]:
    return {part.name: dict(part.params)}


def _score(score: Score) -> dict[str, Any]:
    if isinstance(score, Part):
        return _part(score)
    terms = [[str(weight), _part(part)] for weight, part in score.terms]
    return {"mix": {"terms": terms, "normalise": score.normalise, "op": score.op}}


def from_json(text: str) -> ResolvedPolicy:
    """What `to_json` wrote. Raises BadInput for anything else."""
    try:
        content = json.loads(text)
        if content["schema"] != SCHEMA:
            raise BadInput(f"not a canonical policy: schema {content['schema']!r}, not {SCHEMA}", code="not-a-policy")
        guard = guards.from_json(content.get("guard", ()))
        return ResolvedPolicy(tuple(_read_stage(s) for s in content["stages"]), int(content["depth"]), guard)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"not a canonical policy: {type(error).__name__}: {error}", code="not-a-policy") from error


def _read_stage(data: Mapping[str, Any]) -> ResolvedStage:
    protect = data["protect"]
    picks = tuple(
        ResolvedPick(
            None if p["score"] is None else _read_score(p["score"]),
            _read_part(p["select"]),
            None if p["share"] is None else Fraction(p["share"]),
            _read_part(p["group"]) if "group" in p else None,
            _read_score(p["allocate"]) if "allocate" in p else None,
            bool(p.get("overlap", False)),
            p.get("dilate"),
            _read_part(p["count"]) if "count" in p else None,
        )
        for p in data["picks"]
    )
    return ResolvedStage(
        site=data["site"],
        layer=int(data["layer"]),
        keep=_read_keep(data["keep"]),
        picks=picks,
        merge=_read_part(data["merge"]),
        protect=tuple(protect) if isinstance(protect, list) else protect,
        positions=data["positions"],
        rows=data.get("rows", "mean"),
        attend=data.get("attend"),
        restore=data.get("restore"),
        merge_on=data.get("merge_on", "projected"),
    )


def _read_part(data: Mapping[str, Any]) -> Part:
    ((name, params),) = data.items()
    return Part(name, dict(params))


def _read_score(data: Mapping[str, Any]) -> Score:
    if "mix" not in data:
        return _read_part(data)
    mix = data["mix"]
    terms = tuple((Fraction(weight), _read_part(part)) for weight, part in mix["terms"])
    return Mix(terms, mix["normalise"], mix["op"])
