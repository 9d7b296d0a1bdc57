"""The default."""

from __future__ import annotations

from autoprune.search.strategy import Options, Sample, Steps, Task, strategy


@strategy("auto")
def auto(task: Task, options: Options) -> Steps:
    """References first, then Bayesian optimisation over the space."""
    yield Sample("bayesian", "bayesian")
