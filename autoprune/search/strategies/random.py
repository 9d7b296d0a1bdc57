"""Uniformly random points of the space: what every other strategy has to beat."""

from __future__ import annotations

from autoprune.search.strategy import Options, Sample, Steps, Task, strategy


@strategy("random")
def random(task: Task, options: Options) -> Steps:
    """Random points of the space, uniform in every parameter."""
    yield Sample("random", "random")
