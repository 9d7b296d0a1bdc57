"""The family of a model: one file per family says where its parts are and how its visual tokens are laid out."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.errors import BadInput
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Places:
    """Where the parts of a loaded model are. `base` is the multimodal model without its head (it owns
    `get_image_features`); `blocks` are the vision tower's encoder blocks, `attention` names the attention module in
    one, `layers` are the decoder's. `unit` x `unit` patches of the tower become one row of the projector's output.
    `packed`: the tower takes all images as one sequence [patches, D], and the patches of a projector row follow each
    other in it."""

    base: nn.Module
    tower: nn.Module
    blocks: Sequence[nn.Module]
    projector: nn.Module
    language_model: nn.Module
    layers: Sequence[nn.Module]
    attention: str = "self_attn"
    unit: int = 1
    packed: bool = False


@dataclass(frozen=True)
class ImageLayout:
    """How one image's language-model positions came out of the projector's rows.

    `source` [n] (on the CPU): row of the projector's output, flattened over (tile, patch) for all images of the
    call, or -1 for a newline. `row` and `column` [n] place the token in its segment; `segment` is 0 for the overview
    (or the only one) and 1 for the high-resolution tiles. `tiles` is the number of tower inputs of this image, of
    a packed tower its patches: rows of `pixel_values`.
    Where the model shrinks the picture, a token is a mean of several rows: `members` [n, m] with `weights` [n, m] that
    sum to 1 (0 for a newline); `source` is then the one that weighs most.
    """

    source: Tensor
    segment: Tensor
    row: Tensor
    column: Tensor
    tiles: int
    members: Tensor | None = None
    weights: Tensor | None = None

    @property
    def newlines(self) -> int:
        return int((self.source < 0).sum())


Undo = Callable[[], None]


class Family(Protocol):
    """What a family's file provides. Stateless; torch is imported only inside functions."""

    name: str
    model_types: tuple[str, ...]
    protects_newlines: bool

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        """Numbers of the model from its config.json and processor settings (either may leave out defaults)."""
        ...

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The effective settings that decide N; part of the architecture fingerprint."""
        ...

    def image_token(self, config: Mapping[str, Any]) -> int:
        """The placeholder id that stands for one visual token in input_ids."""
        ...

    def places(self, model: nn.Module) -> Places: ...

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        """Call `report` with the layout of every image whenever the model computes image features."""
        ...


@functools.cache
def families() -> tuple[Family, ...]:
    """Every family: the `FAMILY` of each file of this room that has one, in the files' order."""
    from autoprune import models

    files = [
        importlib.import_module(f"{models.__name__}.{found.name}") for found in pkgutil.iter_modules(models.__path__)
    ]
    return tuple(file.FAMILY for file in files if hasattr(file, "FAMILY"))


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises BadInput naming what is supported."""
    known = {t: f for f in families() for t in f.model_types}
    name = config.get("model_type")
    if isinstance(name, str) and name in known:
        return known[name]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise BadInput(
        f"model family {name!r} is not supported{hint}; supported: {', '.join(sorted(known))}", code="unsupported-model"
    )


def geometry_of(config: Mapping[str, Any], processor: Mapping[str, Any] | None = None) -> Geometry:
    """The geometry of a model from config.json (and processor settings where N depends on them). Torch-free."""
    return family_of(config).geometry(config, processor)
