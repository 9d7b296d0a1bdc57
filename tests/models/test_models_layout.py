"""How projector rows become visual positions, against a hand-made unpadding."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

from autoprune.models import family_of
from autoprune.models.family import ImageLayout

SIDE = 3  # patches along a tile of 24 pixels


@pytest.fixture(scope="module")
def made() -> LlavaNextForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    pinpoints = [[24, 24], [24, 48], [48, 24], [48, 48]]
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=5, image_grid_pinpoints=pinpoints
    )
    return LlavaNextForConditionalGeneration(config).eval()


def layouts(made: LlavaNextForConditionalGeneration, sizes: list[tuple[int, int]], tiles: int) -> list[ImageLayout]:
    family, found = family_of(made.config.to_dict()), []
    undo = family.watch(family.places(made), found.append)
    try:
        with torch.no_grad():
            made.model.get_image_features(torch.randn(len(sizes), tiles, 3, 24, 24), torch.tensor(sizes))
    finally:
        undo()
    assert "pack_image_features" not in vars(made.model)
    return list(found[-1])


@pytest.mark.parametrize(
    ("size", "grid", "crop"),
    [
        ((48, 48), (2, 2), (slice(0, 6), slice(0, 6))),
        ((24, 40), (1, 2), (slice(0, 3), slice(0, 6))),  # half a column of padding is not a whole one
        ((24, 32), (1, 2), (slice(0, 3), slice(1, 5))),  # a column of padding on each side is cut off
        ((36, 48), (2, 2), (slice(1, 5), slice(0, 6))),
    ],
)
def test_rows_line_up(
    made: LlavaNextForConditionalGeneration, size: tuple[int, int], grid: tuple[int, int], crop: tuple[slice, slice]
) -> None:
    tiles = 1 + grid[0] * grid[1]
    layout = layouts(made, [size], 5)[0]
    numbers = torch.arange(SIDE * SIDE * tiles)
    overview, rest = numbers[: SIDE * SIDE], numbers[SIDE * SIDE :]
    picture = rest.view(*grid, SIDE, SIDE).permute(0, 2, 1, 3).reshape(grid[0] * SIDE, grid[1] * SIDE)[crop]
    lines = torch.nn.functional.pad(picture, (0, 1), value=-1)
    assert layout.tiles == tiles
    assert layout.newlines == len(picture)
    assert torch.equal(layout.source, torch.cat([overview, lines.flatten()]))
    assert layout.segment.tolist() == [0] * 9 + [1] * lines.numel()
    rows = [i // 3 for i in range(9)] + [r for r in range(lines.shape[0]) for _ in range(lines.shape[1])]
    columns = [i % 3 for i in range(9)] + list(range(lines.shape[1])) * lines.shape[0]
    assert layout.row.tolist() == rows
    assert layout.column.tolist() == columns


def test_several_images_count_on(made: LlavaNextForConditionalGeneration) -> None:
    one, two = layouts(made, [(24, 40), (48, 48)], 5)
    assert int(one.source.max()) + 1 == 27
    assert int(two.source[0]) == 27
    assert int(two.source.max()) + 1 == 27 + 45
