"""From a `Policy` to plain data. Defaults are left out, so that documents stay as short as people write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.document.numbers import text
from autoprune.policy.model import AnyStage, KeepSpec, MixUse, Pick, ScoreUse, Stage, Use
from autoprune.policy.read_curve import plain_curve
from autoprune.policy.sites import layer_text

if TYPE_CHECKING:
    from autoprune.policy.document import Policy


def dump(policy: Policy) -> dict[str, Any]:
    """See `Policy.dump`."""
    data: dict[str, Any] = {"schema": "autoprune/policy/1", "name": policy.name, "paper": policy.paper}
    data |= {"claims": dict(policy.claims), "literal": dict(policy.literal)}
    data["parity"] = policy.parity.dump()
    if policy.confidence != "high":
        data |= {"confidence": policy.confidence, "assumed": policy.assumed}
    data["criteria"] = {name: dump_score(score) for name, score in policy.criteria.items()}
    kept = {key: value for key, value in data.items() if value not in ("", {})}
    guard = {"guard": [rule.dump() for rule in policy.guard]} if policy.guard else {}
    return {**kept, "stages": [dump_stage(stage) for stage in policy.stages], **guard}


def dump_stage(stage: AnyStage) -> dict[str, Any]:
    if isinstance(stage, Stage):
        until = stage.until
        place = {"at": stage.at.text} if until is None else {"along": [*map(layer_text, (stage.at.layer or 0, until))]}
        data: dict[str, Any] = {**place, "keep": dump_keep(stage.keep)}
    else:
        data = {"along": [layer_text(end) for end in stage.along], "curve": plain_curve(stage.curve)}
    if len(stage.pick) == 1 and stage.pick[0].share is None:
        data |= dump_pick(stage.pick[0])
    else:
        data["pick"] = [dump_pick(pick) for pick in stage.pick]
    if stage.merge != Use("drop"):
        data["merge"] = dump_use(stage.merge)
    if stage.protect is not None:
        data["protect"] = stage.protect if isinstance(stage.protect, str) else {"index": list(stage.protect)}
    if stage.positions != "keep":
        data["positions"] = stage.positions
    if stage.attend is not None:
        data["attend"] = stage.attend
    if isinstance(stage, Stage) and stage.restore is not None:
        data["restore"] = stage.restore
    if isinstance(stage, Stage) and stage.merge_on != "projected":
        data["merge_on"] = stage.merge_on
    return data


def dump_keep(keep: KeepSpec) -> Any:
    if keep.kind == "rule" and keep.rule is not None:
        bounds = {"most": text(keep.value)} if keep.value != 1 else {}
        return {"rule": dump_use(keep.rule), **bounds, **({"least": text(keep.least)} if keep.least else {})}
    plain = text(keep.value) if keep.kind == "fraction" else {keep.kind: text(keep.value)}
    return plain if keep.rule is None else {"rule": dump_use(keep.rule), "fit": plain}


def dump_pick(pick: Pick) -> dict[str, Any]:
    data: dict[str, Any] = {} if pick.share is None else {"share": text(pick.share)}
    if pick.score is not None:
        data["score"] = dump_score(pick.score)
    if pick.select != Use("top"):
        data["select"] = dump_use(pick.select)
    if pick.group is not None:
        data["group"] = dump_use(pick.group)
    if pick.allocate is not None:
        data["allocate"] = dump_score(pick.allocate)
    if pick.overlap:
        data["overlap"] = True
    if pick.dilate is not None:
        data["dilate"] = pick.dilate
    if pick.count is not None:
        data["count"] = dump_use(pick.count)
    return data


def dump_use(use: Use) -> Any:
    return {use.name: dict(use.params)} if use.params else use.name


def dump_score(score: ScoreUse) -> Any:
    if isinstance(score, Use):
        return dump_use(score)
    mix: MixUse = score
    return {"mix": {"weights": {n: text(w) for n, w in mix.weights}, "normalise": mix.normalise, "op": mix.op}}
