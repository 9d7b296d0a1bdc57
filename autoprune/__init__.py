"""AutoPrune: declare a model, a calibration set and constraints; get back a measured, versioned pruning policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import load_policy as load_policy
    from autoprune.api import promote as promote
    from autoprune.pruning.request import using as using
    from autoprune.serving.handle import PolicyHandle as PolicyHandle

__version__ = "0.1.0"
__all__ = ["PolicyHandle", "__version__", "load_policy", "promote", "using"]
_HOMES = {
    "load_policy": "api",
    "promote": "api",
    "using": "pruning.request",
    "PolicyHandle": "serving.handle",
}


def __getattr__(name: str) -> Any:
    """The front door opens lazily: importing autoprune costs nothing. A search is `autoprune.api.search`, because
    `autoprune.search` is the package of that name."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"autoprune.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
