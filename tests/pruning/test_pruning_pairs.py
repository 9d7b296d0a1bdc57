"""Every selector with every merger: the whole matrix of test_pruning_parts.py."""

from __future__ import annotations

import pytest
from test_pruning_parts import check_the_equation, check_the_identity, pairs

from autoprune.policy.resolved import Part

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("select", "merge"), pairs(plain=False))
def test_the_equation_holds(select: Part, merge: Part) -> None:
    check_the_equation(select, merge)


@pytest.mark.parametrize(("select", "merge"), pairs(plain=False))
def test_keeping_all_is_the_identity(select: Part, merge: Part) -> None:
    check_the_identity(select, merge)
