"""The composition root: everything a user can ask for. Nothing else wires rooms together."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api.answering import answer as answer
    from autoprune.api.comparing import Comparison as Comparison
    from autoprune.api.comparing import compare as compare
    from autoprune.api.doctoring import doctor as doctor
    from autoprune.api.methods import list_methods as list_methods
    from autoprune.api.mistakes import list_codes as list_codes
    from autoprune.api.objectives import list_objectives as list_objectives
    from autoprune.api.policies import diff_policies as diff_policies
    from autoprune.api.policies import export_policy as export_policy
    from autoprune.api.policies import list_policies as list_policies
    from autoprune.api.policies import load_policy as load_policy
    from autoprune.api.policies import policy_history as policy_history
    from autoprune.api.policies import promote as promote
    from autoprune.api.policies import rollback as rollback
    from autoprune.api.policies import show_policy as show_policy
    from autoprune.api.projecting import sync as sync
    from autoprune.api.reading import draw_front as draw_front
    from autoprune.api.reading import front as front
    from autoprune.api.reading import studies as studies
    from autoprune.api.searching import SearchResult as SearchResult
    from autoprune.api.searching import search as search
    from autoprune.api.state import lacking as lacking
    from autoprune.api.strategies import list_strategies as list_strategies
    from autoprune.api.timing import time_policy as time_policy
    from autoprune.api.vocabulary import list_parts as list_parts

# Opened on demand: loading a policy in production must not import what only a search needs. No name may be that of a
# module here, or importing the module would hide the function.
_HOMES = {
    "answer": "answering",
    "Comparison": "comparing",
    "compare": "comparing",
    "doctor": "doctoring",
    "list_methods": "methods",
    "list_codes": "mistakes",
    "list_objectives": "objectives",
    "diff_policies": "policies",
    "export_policy": "policies",
    "list_policies": "policies",
    "load_policy": "policies",
    "policy_history": "policies",
    "promote": "policies",
    "rollback": "policies",
    "show_policy": "policies",
    "sync": "projecting",
    "draw_front": "reading",
    "front": "reading",
    "studies": "reading",
    "SearchResult": "searching",
    "search": "searching",
    "list_strategies": "strategies",
    "time_policy": "timing",
    "list_parts": "vocabulary",
    "lacking": "state",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"autoprune.api.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autoprune.api' has no attribute {name!r}")
