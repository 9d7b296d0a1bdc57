"""How many visual tokens enter each decoder layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def schedule_figure(
    lengths: Mapping[str, Sequence[float]] | Sequence[float],
    *,
    tokens: float | None = None,
    title: str = "Visual tokens per decoder layer",
) -> Figure:
    """`lengths`: policy name -> n_l for l = 0 … L-1 (or one such list). `tokens` is N, drawn as the unpruned line.

    The legend tells each policy's budget (mean n_l over N) where N is known. Raises ValueError without any layer.
    """
    series = dict(lengths) if isinstance(lengths, Mapping) else {"policy": lengths}
    if not series or not all(len(values) for values in series.values()):
        raise ValueError("a schedule figure needs at least one policy with at least one layer")
    figure, (axes,) = style.canvas(size=(6.8, 3.8))
    depth = max(len(values) for values in series.values())
    if tokens is not None:
        axes.axhline(
            tokens, color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label=f"unpruned (N = {tokens:g})"
        )
    for index, (name, values) in enumerate(series.items()):
        label = name if tokens is None else f"{name} (budget {sum(values) / len(values) / tokens:.2f})"
        edges = range(len(values) + 1)
        axes.stairs(
            list(values),
            list(edges),
            baseline=None,
            color=style.SERIES[index % len(style.SERIES)],
            linestyle=style.DASHES[(index // len(style.SERIES)) % len(style.DASHES)],
            linewidth=2,
            label=label,
        )
    style.dress(axes, x="decoder layer", y="visual tokens", title=title)
    step = max(1, -(-depth // 16))
    axes.set_xticks([layer + 0.5 for layer in range(0, depth, step)], [str(layer) for layer in range(0, depth, step)])
    axes.set_xlim(0, depth)
    axes.set_ylim(0, 1.08 * max([tokens or 0.0, *(max(values) for values in series.values())]))
    if len(series) > 1 or tokens is not None:
        axes.legend(fontsize=8.5, frameon=False, loc="upper right" if tokens is None else "best")
    return figure
