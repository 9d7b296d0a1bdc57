"""Which keys of which stages did not read well: nothing is said of a stage that only follows from those."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.document.problems import Path
from autoprune.policy.model import AnyStage

Wrong = Mapping[Path, frozenset[str]]  # a stage's path -> its keys

PLACE = frozenset({"at", "along"})
AMOUNT = frozenset({"keep", "curve"})
APART = frozenset({"protect", "positions", "attend", "restore", "merge_on"})  # no part depends on these


def wrong_in(stage: AnyStage, wrong: Wrong) -> frozenset[str]:
    """The keys of a stage that did not read well."""
    return wrong.get(stage.path[:2], frozenset())
