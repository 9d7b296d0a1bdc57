"""An evolutionary search, for thousands of cheap evaluations."""

from __future__ import annotations

from autoprune.search.strategy import Options, Sample, Steps, Task, strategy


@strategy("evolutionary", paper="Deb et al., NSGA-II (2002); Deb & Jain, NSGA-III (2014)")
def evolutionary(task: Task, options: Options) -> Steps:
    """NSGA-II with constrained domination (NSGA-III beyond two objectives)."""
    yield Sample("evolutionary", "evolutionary")
