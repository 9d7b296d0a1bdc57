"""The numbers of a model that policies, budgets and costs are computed from. Read from configs, never from weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoprune.errors import BadInput

PatchGrid = tuple[int, int]  # height and width of a picture in patches
Pictures = int | tuple[PatchGrid, ...]  # of a sample: how many, or of each its grid


@dataclass(frozen=True)
class VisionGeometry:
    """The vision tower: `depth` blocks, of which `executed` run (None: all), `width`, `heads`, `mlp` (three matrices
    with `gated_mlp`, else two). `image_size` is the side of a picture in pixels, 0 where pictures have any size.
    `channels`: values per pixel of a patch, over all frames that one patch takes in. In the `windowed`
    blocks a patch only sees its window of `window` x `window` patches. The outputs of the `deepstack` blocks enter the
    decoder too, through projectors of the same shape."""

    depth: int
    width: int
    heads: int
    mlp: int
    image_size: int
    patch_size: int
    channels: int = 3
    has_cls: bool = False
    executed: int | None = None
    gated_mlp: bool = False
    windowed: tuple[int, ...] = ()
    window: int = 0
    deepstack: tuple[int, ...] = ()

    def grids(self, pictures: Pictures) -> tuple[PatchGrid, ...]:
        """The patch grid of each picture. Raises BadInput where their size is unknown."""
        if not isinstance(pictures, int):
            return pictures
        if pictures and not self.image_size:
            raise BadInput(
                "this model's pictures have any size; say how many patches high and wide each is", code="bad-input"
            )
        side = self.image_size // self.patch_size
        return ((side, side),) * pictures


@dataclass(frozen=True)
class Geometry:
    """The whole model. `tokens_per_image` is N per image where the processor always makes the same number, else None.

    `protects_newlines`: whether separators between rows of visual tokens survive every stage unless a keep is 0.
    `vision_depth` counts the encoder blocks of the configuration, so that `layer: -2` means the same everywhere.
    `merge_unit` patches become one visual token. The projector maps rows of `projector_width` to the decoder's width in
    two layers with `projector_hidden` between them (None: the decoder's width), or in one (0). Before them stand
    `projector_norms` norms side by side, which share a row.

    `lacks` says why something cannot be had from this model: by the name of a part, `compact` (positions), `rope`
    (attention without it), `grid` (tokens in rows and columns), `encoder_rows` (merging before the projector) or
    `flash_attention`.
    """

    family: str
    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    vision: VisionGeometry
    tokens_per_image: int | None
    gated_mlp: bool = True
    projector_width: int = 0
    projector_hidden: int | None = None
    projector_norms: int = 0
    merge_unit: int = 1
    protects_newlines: bool = True
    lacks: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def projector_weights(self) -> int:
        """Entries of the projector's matrices: multiply-adds for each row."""
        hidden = self.width if self.projector_hidden is None else self.projector_hidden
        given = self.projector_width
        return given * hidden + hidden * self.width if hidden else given * self.width

    @property
    def vision_depth(self) -> int:
        return self.vision.depth
