"""Policies that begin alike: what two of them share up to a layer is the same run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import takewhile

from autoprune.policy.canonical import to_json
from autoprune.policy.resolved import ResolvedPolicy

PrefixKey = tuple[tuple[int, str], ...]


def prefix_key(canonical: str) -> PrefixKey:
    """Sorted by it, policies (canonical JSON) that share their first stages stand side by side, the longer the shared
    part the closer: layer and content of every stage in order."""
    stages = json.loads(canonical).get("stages", ())
    return tuple((int(s["layer"]), json.dumps(s, sort_keys=True)) for s in stages)


def shared(one: str | None, other: str | None) -> int:
    """How far two policies (canonical JSON; None: unpruned) are written alike: the farther, the more first stages they
    have in common. Nothing is parsed: an executor does not look into a policy."""
    pairs = zip(one or "", other or "", strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def prefix_digest(policy: ResolvedPolicy, layer: int) -> str:
    """SHA-256 of what decides a run up to the entry of `layer`: the stages at earlier layers; where one of those lets
    the sample decide its count, the whole policy, because such counts leave room for later stages; so it is where a
    guard may have changed one."""
    before = tuple(stage for stage in policy.stages if stage.layer < layer)
    decided = any(stage.keep.decided for stage in before) or (before and policy.guard)
    text = to_json(policy if decided else replace(policy, stages=before, guard=()))
    return hashlib.sha256(text.encode()).hexdigest()
