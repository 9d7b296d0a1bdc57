"""Figures for the registry, reports and the README. Matplotlib is imported when a figure is drawn, never before."""

from __future__ import annotations

from autoprune.figures.comparison import comparison_figure as comparison_figure
from autoprune.figures.front import front_figure as front_figure
from autoprune.figures.hypervolume import hypervolume_figure as hypervolume_figure
from autoprune.figures.kept import kept_tokens_figure as kept_tokens_figure
from autoprune.figures.schedule import schedule_figure as schedule_figure
from autoprune.figures.style import save as save

__all__ = ["comparison_figure", "front_figure", "hypervolume_figure", "kept_tokens_figure", "save", "schedule_figure"]
