"""How often the host waits for the device in a prefill: once, and where a count depends on what a sample shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import Sample, inputs, model, policy, stage

from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.session import Session

SAMPLES = (Sample(9, ((16, 40),)), Sample(6, ((40, 16), (16, 16))))


def waits(family: str, resolved: ResolvedPolicy, monkeypatch: pytest.MonkeyPatch) -> int:
    """Calls of `tolist` in the engine's own files while a prefill runs, beyond those of the unpruned model."""
    made = model(family)
    batch = inputs(made, SAMPLES if family == "llava_next" else [Sample(9, (None,)), Sample(6, (None,))])
    counted = 0

    def counting(tensor: torch.Tensor) -> Any:
        nonlocal counted
        counted += 1
        return original(tensor)

    original = torch.Tensor.tolist
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", counting)
        made(**batch)
        before, counted = counted, 0
        with Session(made, resolved):
            made(**batch)
    return counted - before


@pytest.mark.parametrize("protect", [None, "last", "newlines", (0, 3)])
def test_protecting_waits_only_where_an_earlier_stage_may_have_dropped(
    protect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = policy(stage(1, "1/2", "random", protect=protect))
    later = policy(stage(1, "1/2", "random"), stage(3, "1/4", "random", protect=protect))
    assert waits("llava", one, monkeypatch) == 1
    assert waits("llava", later, monkeypatch) == (1 if protect is None else 2)


@pytest.mark.parametrize("protect", ["last", "newlines"])
def test_separators_that_every_stage_protects_are_known(protect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = waits("llava_next", policy(stage(1, "1/2", "random")), monkeypatch)
    assert waits("llava_next", policy(stage(1, "1/2", "random", protect=protect)), monkeypatch) == plain
    twice = policy(stage(1, "1/2", "random"), stage(3, "1/4", "random", protect=protect))
    assert waits("llava_next", twice, monkeypatch) == plain + 1


def test_what_is_known_is_what_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.pruning.prefill import Prefill

    known = Prefill._protected_counts
    seen = []

    def both(self: Prefill, planned: Any, shielded: torch.Tensor) -> list[int]:
        found = known(self, planned, shielded)
        seen.append((found, shielded.sum(1).tolist()))
        return found

    monkeypatch.setattr(Prefill, "_protected_counts", both)
    for family in ("llava", "llava_next"):
        for protect in (None, "last", "newlines", (0, 3, 7, 4000)):
            waits(family, policy(stage(1, "1/2", "random", protect=protect)), monkeypatch)
    assert len(seen) == 8
    assert all(found == counted for found, counted in seen)
