"""AutoPrune: declare a model, a calibration set and constraints; get back a measured, versioned pruning policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import load_policy as load_policy
    from autoprune.api import promote as promote

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy", "promote"]


def __getattr__(name: str) -> Any:
    """The front door opens lazily: importing autoprune costs nothing. A search is `autoprune.api.search`, because
    `autoprune.search` is the package of that name."""
    if name in ("load_policy", "promote"):
        from autoprune import api

        return getattr(api, name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
