"""One look for every figure. Colours are Okabe and Ito's (2008), which stay apart for colour-blind readers; state is
always told by marker shape as well as by colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
MUTED = "#8A8A8A"
GRID = "#E3E3E3"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
)
SERIES = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":")


def canvas(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (7.2, 4.4)) -> tuple[Figure, list[Axes]]:
    """A figure of `size` inches with rows x columns axes, drawn by Agg: no display, no pyplot state, thread-safe."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def dress(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Labels, a light grid behind the data, no box."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    if title:
        axes.set_title(title, color=INK, fontsize=11, loc="left", fontweight="bold")
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)


def words(label: str) -> str:
    """A measure's label as an axis says it."""
    return label.replace("_", " ").replace("flops", "FLOPs").replace("kv ", "KV ")


def save(figure: Figure, path: Path | str) -> Path:
    """Write the figure (PNG, SVG or PDF by the suffix), making the folder; returns the path."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target)
    except OSError as error:
        raise AutoPruneError(f"the figure {target} cannot be written: {error.strerror}") from error
    return target
