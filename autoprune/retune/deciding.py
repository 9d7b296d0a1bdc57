"""What is done with a policy whose model has changed: two small tables, from numbers to a step and its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from autoprune.retune.comparing import Comparison
    from autoprune.search.certify import State

Step = Literal["recertify", "search", "promote", "keep"]
BROKEN = 0.5
"""A model that surely answers less than this part of what it answered unpruned is taken for broken: nothing that is
found for it may be served."""


@dataclass(frozen=True)
class Decision:
    step: Step
    reason: str


def after_measuring(
    champion: State | None, old_self: Sequence[Comparison], model: Sequence[Comparison], why_not: str = ""
) -> Decision:
    """The champion measured on the new model: its standing on the holdout (None: it could not be measured, `why_not`),
    how it compares with its old self, and how the unpruned model does with its own."""
    broken = [one for one in model if one.upper < -BROKEN * one.old]
    if broken:
        one = broken[0]
        return Decision(
            "keep",
            f"the model itself is broken: unpruned, {one.label} fell from {one.old:.3f} to {one.new:.3f}; no policy "
            "mends that, so nothing is searched",
        )
    if champion is None:
        return Decision("search", f"the champion cannot be measured on this model ({why_not})")
    if champion != "certified":
        return Decision("search", f"the champion's constraints are {champion} on this model")
    worse = [one for one in old_self if one.state != "non-inferior"]
    if worse or not old_self:
        told = worse[0].text if worse else "no accuracy to compare"
        return Decision("search", f"the champion is certified, but not shown as good as it was: {told}")
    return Decision("recertify", f"the champion is certified and as good as it was: {old_self[0].text}")


def after_searching(found: str | None, against: Sequence[Comparison]) -> Decision:
    """The search's selected policy (None: none is certified), compared with the champion on the new model."""
    if found is None:
        return Decision("keep", "no policy is certified on this model")
    worse = [one for one in against if one.state != "non-inferior"]
    if worse or not against:
        told = worse[0].text if worse else "no accuracy to compare"
        return Decision("keep", f"{found} is certified, but not shown as good as the champion on this model: {told}")
    return Decision("promote", f"{found} is certified and as good as the champion on this model: {against[0].text}")
