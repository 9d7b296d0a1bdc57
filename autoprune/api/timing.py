"""Measure a front's policies in milliseconds on the machine that will serve them: what `max_prefill_ms` goes by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoprune.api.policies import load_policy
from autoprune.api.speaking import picture, speaker
from autoprune.errors import BadInput

UNPRUNED = "unpruned"


def time_policy(
    policy: str,
    images: Sequence[str],
    prompt: str,
    *,
    model: str | None = None,
    device: str = "auto",
    rounds: int = 15,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Time the prefill of one request (`images` and `prompt`: a typical one) under every certified member of a
    registered version's or a saved folder's front, all in turn; the medians are kept with it for this device.

    -> `policy`, `device`, `prefill_ms` (digest -> median), `spread` (digest -> quartiles), `names`, `unpruned`, `at`.
    Raises BadInput for a policy without a front or a certified member.
    """
    from autoprune.measures.device import best_device, device_name
    from autoprune.measures.latency import prefill_seconds
    from autoprune.pruning.guarding import Texts
    from autoprune.registry import timings

    where, uri = _fixed(policy, tracking_uri)
    loaded = load_policy(where, tracking_uri=uri)
    whole = loaded.whole
    if whole is None or not any(member.certified for member in whole.members):
        raise BadInput(
            f"{policy} has no front with certified policies to time: only a registered version, or a folder saved from "
            "one, has",
            code="not-a-front",
        )
    pictures = [picture(path) for path in images]
    device = best_device() if device == "auto" else device
    ready = speaker(loaded, model, device, "--model")
    pairs = list(zip(whole.members, loaded.front, strict=True))
    certified = {member.digest: one for member, one in pairs if member.certified}
    plans = {UNPRUNED: None} | {digest: one.resolve(ready.network) for digest, one in certified.items()}
    taken = prefill_seconds(ready.network, ready.inputs(pictures, prompt), plans, rounds, texts=Texts(given=prompt))
    unpruned = taken.pop(UNPRUNED)
    timing: dict[str, Any] = {
        "device": device_name(device),
        "prefill_ms": {digest: round(1000 * spread.value, 3) for digest, spread in taken.items()},
        "unpruned": round(1000 * unpruned.value, 3),
        "rounds": rounds,
        "images": len(pictures),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    timings.keep(where, uri, timing)
    return {
        "policy": where,
        **timing,
        "names": {digest: one.policy.name for digest, one in certified.items()},
        "spread": {d: [round(1000 * s.low, 3), round(1000 * s.high, 3)] for d, s in taken.items()},
    }


def _fixed(policy: str, tracking_uri: str | None) -> tuple[str, str | None]:
    """What an alias names now, by number, and the registry's address; a folder stays what it is."""
    from autoprune.registry.locate import tracking_uri as locate
    from autoprune.registry.policies import resolve
    from autoprune.registry.reference import is_uri

    if is_uri(policy):
        uri = locate(tracking_uri)
        version = resolve(policy, uri)
        return f"models:/{version.name}/{version.version}", uri
    if not Path(policy).expanduser().is_dir():
        raise BadInput(f"{policy} is neither a registered version nor a saved folder", code="no-such-file")
    return policy, None
