"""Bayesian optimisation alone, from the references."""

from __future__ import annotations

from autoprune.search.strategy import Options, Sample, Steps, Task, strategy


@strategy("bayesian", paper="Daulton et al., Parallel Bayesian Optimization of Multiple Noisy Objectives (2021)")
def bayesian(task: Task, options: Options) -> Steps:
    """A Gaussian process with constrained hypervolume improvement; beyond 15 dimensions or 200 trials, multivariate
    TPE.

    The first trials, a quarter of all but at least 8 and at most 10, are warm starts and random points.
    """
    yield Sample("bayesian", "bayesian")
