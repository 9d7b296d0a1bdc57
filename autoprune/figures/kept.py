"""Which patches of an image a policy keeps, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DIM = 0.18  # how much of a dropped patch's colour is left, the rest is white


def kept_tokens_figure(
    image: Any,
    grid: tuple[int, int],
    kept: Mapping[str, Sequence[bool]],
    *,
    title: str = "",
) -> Figure:
    """The image, then once per stage with its dropped patches dimmed.

    `image`: a PIL image or an array [height, width, 3] (uint8, or floats in 0..1). `grid`: (rows, columns) of patches.
    `kept`: stage name -> one truth value per patch in raster order (rows x columns of them). Raises
    ValueError for an empty grid or a mask of another size.
    """
    pixels = _pixels(image)
    panels = {name: _mask(name, values, grid) for name, values in kept.items()}
    count = len(panels) + 1
    columns = min(count, 4)
    rows = -(-count // columns)
    height, width = pixels.shape[:2]
    size = (2.4 * columns, 2.4 * rows * height / width + 0.45 * rows + (0.35 if title else 0.0))
    figure, axes = style.canvas(rows, columns, size=size)
    for spare in axes[count:]:
        spare.set_axis_off()
    _panel(axes[0], pixels, f"image\n{grid[0] * grid[1]} tokens")
    for panel, (name, mask) in zip(axes[1:], panels.items(), strict=False):
        share = mask.mean()
        _panel(panel, _dimmed(pixels, mask), f"{name}\n{int(mask.sum())} kept ({share:.0%})")
        _lines(panel, pixels.shape[:2], grid)
    if title:
        figure.suptitle(title, fontsize=11, color=style.INK, fontweight="bold")
    return figure


def _pixels(image: Any) -> Any:
    import numpy as np

    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image must be height x width x 3, not {array.shape}")
    return array / 255.0 if array.dtype == np.uint8 else array.astype(float)


def _mask(name: str, values: Sequence[bool], grid: tuple[int, int]) -> Any:
    import numpy as np

    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"a grid needs at least one row and one column, not {rows} x {columns}")
    flat = np.asarray(values, dtype=bool).reshape(-1)
    if flat.size != rows * columns:
        raise ValueError(f"the mask of {name!r} has {flat.size} entries for a grid of {rows} x {columns}")
    return flat.reshape(rows, columns)


def _cells(length: int, parts: int) -> Any:
    """For each pixel the patch it lies in (works where the side isn't a multiple of the grid)."""
    import numpy as np

    return np.minimum(np.arange(length) * parts // length, parts - 1)


def _dimmed(pixels: Any, mask: Any) -> Any:
    import numpy as np

    height, width = pixels.shape[:2]
    inside = mask[np.ix_(_cells(height, mask.shape[0]), _cells(width, mask.shape[1]))][..., None]
    grey = pixels.mean(axis=2, keepdims=True)
    return np.where(inside, pixels, 1.0 - _DIM * (1.0 - grey))


def _panel(axes: Axes, pixels: Any, title: str) -> None:
    axes.imshow(pixels, interpolation="nearest", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, color=style.INK)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(style.MUTED)


def _lines(axes: Axes, shape: tuple[int, int], grid: tuple[int, int]) -> None:
    """Patch borders, thin enough to stay behind the picture."""
    if max(grid) > 40:
        return
    (height, width), (rows, columns) = shape, grid
    for row in range(1, rows):
        axes.axhline(row * height / rows - 0.5, color=style.MUTED, linewidth=0.25, alpha=0.6)
    for column in range(1, columns):
        axes.axvline(column * width / columns - 0.5, color=style.MUTED, linewidth=0.25, alpha=0.6)
