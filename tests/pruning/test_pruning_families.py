"""What is special to Qwen-VL: packed towers, windows, merge units and positions of three axes."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_checks import seeded
from pruning_support import IMAGE, MaskedReference, Sample, difference, generate, policy, stage
from test_pruning_signals import scores
from tiny_families import SMALL, TINY, VIDEO, Batch, Row, model, together
from transformers import DynamicCache

from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout, family_of
from autoprune.pruning.session import Session
from autoprune.pruning.tap import Tap, attention

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SIZES = ((24, 40), (32, 24), (16, 16))  # 6 x 10, 8 x 6 and 4 x 4 patches
SAMPLES = (Sample(9, SIZES[:1]), Sample(12, ()), Sample(16, SIZES[1:]))
TOKENS = [high * wide // 64 for high, wide in SIZES]
INSIDE = policy(stage(1, "1/2", "random"), stage(3, "1/4", ("llm_attention", {"from": "text"})))


def batch_of(name: str) -> Batch:
    return together(TINY[name].rows(SAMPLES))


def aligned(found: torch.Tensor, values: torch.Tensor, tolerance: float = 2e-6) -> bool:
    """Whether scores [B, V] are these values of all tokens in order; the second of `SAMPLES` has no image."""
    first = TOKENS[0]
    parts = [found[0, :first], found[2, : sum(TOKENS) - first]]
    return float((torch.cat(parts) - values).abs().max()) <= tolerance


class Tower:
    """What a run of the tower shows from outside, and where each patch of `pixel_values` stands in it."""

    def __init__(self, name: str, batch: Batch) -> None:
        self.made = model(name)
        visual = self.made.model.visual
        seen: dict[str, Any] = {}
        handles = [visual.patch_embed.register_forward_hook(lambda m, a, o: seen.update(embedded=o))]
        handles.append(visual.merger.register_forward_hook(lambda m, a, o: seen.update(entered=a[0], merged=o)))
        for i, block in enumerate(visual.blocks):
            handles.append(block.attn.register_forward_pre_hook(self._keep(seen, i), with_kwargs=True))
        handles.append(visual.blocks[0].register_forward_pre_hook(lambda m, a: seen.update(first=a[0])))
        with torch.no_grad():
            output = self.made.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
        for handle in handles:
            handle.remove()
        self.features = output.pooler_output
        self.entered, self.merged, self.attended = seen["entered"], seen["merged"], seen
        # A patch is found again by its embedding, which the tower only moves; Qwen3 adds positions and moves nothing.
        self.place = torch.arange(len(seen["first"]))
        if name != "qwen3_vl":
            self.place = torch.cdist(seen["embedded"], seen["first"]).argmin(1)
            assert torch.equal(seen["first"][self.place], seen["embedded"])

    @staticmethod
    def _keep(seen: dict[str, Any], i: int) -> Any:
        return lambda m, a, k: seen.update({f"block {i}": (m, a[0], k)})

    def per_token(self, values: torch.Tensor) -> torch.Tensor:
        """Values per place in the tower -> per token the four of its patches, [tokens, 4]."""
        return values[self.place].view(-1, 4)

    def received(self, number: int, mean_query: bool, start: torch.Tensor | None = None) -> torch.Tensor:
        """By loops: how much attention each place receives in a block, as a share of its image's queries; `start`:
        what each query holds before, in any unit."""
        module, hidden, keywords = self.attended[f"block {number}"]
        cos, sin = (t[:, None] for t in keywords["position_embeddings"])
        states = module.qkv(hidden).view(len(hidden), 3, module.num_heads, -1)
        half = states.shape[-1] // 2
        query, key = (s * cos + torch.cat([-s[..., half:], s[..., :half]], -1) * sin for s in states.unbind(1)[:2])
        total = torch.zeros(len(hidden))
        ends = keywords["cu_seqlens"].tolist()
        held = torch.ones(len(hidden)) if start is None else start
        held = torch.cat([part / part.sum() for part in torch.split(held, [4 * n for n in TOKENS])])
        for begin, end in pairwise(ends):
            for head in range(module.num_heads):
                q, k = query[begin:end, head], key[begin:end, head]
                rows = q.mean(0, keepdim=True) if mean_query else q
                weights = (rows @ k.T * q.shape[1] ** -0.5).softmax(1)
                mass = held[begin:end].sum()[None] if mean_query else held[begin:end]
                total[begin:end] += mass @ weights / module.num_heads
        return total


@pytest.mark.parametrize("name", FAMILIES)
def test_layouts_say_which_row_of_the_merger_a_token_is(name: str) -> None:
    batch, made, found = batch_of(name), model(name), []
    family = family_of(made.config.to_dict())

    def report(layouts: list[ImageLayout]) -> None:
        found.extend(layouts)

    undo = family.watch(family.places(made), report)
    tower = Tower(name, batch)
    undo()
    moved = False
    for layout, features, (high, wide) in zip(found, tower.features, SIZES, strict=True):
        assert torch.equal(tower.merged[layout.source], features)
        cells = [(r, c) for r in range(high // 8) for c in range(wide // 8)]
        assert [(int(r), int(c)) for r, c in zip(layout.row, layout.column, strict=True)] == cells
        assert int(layout.segment.sum()) == layout.newlines == 0
        assert layout.tiles == 4 * len(features)
        moved |= bool((layout.source.diff() != 1).any())
    assert moved == (name == "qwen2_5_vl")
    Tower(name, batch)
    assert len(found) == len(SIZES)  # nothing is reported any more


@pytest.mark.parametrize("name", FAMILIES)
def test_encoder_features_of_a_token_are_its_four_patches(name: str) -> None:
    batch = batch_of(name)
    tower = Tower(name, batch)
    norms = tower.per_token(tower.entered.square().sum(1)).sum(1).sqrt()
    found = scores(tower.made, batch, ("feature_norm", {"space": "encoder"}), 1)
    assert aligned(found, norms, 1e-4)


@pytest.mark.parametrize("source", ["all", "query"])
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_within_images_and_windows_is_averaged_over_a_tokens_patches(
    name: str, layer: int, source: str
) -> None:
    batch = batch_of(name)
    tower = Tower(name, batch)
    with torch.no_grad():
        expected = tower.per_token(tower.received(layer % 3, source == "query")).mean(1)
    for part in torch.split(expected, TOKENS):
        assert float(part.sum()) == pytest.approx(1 / 4, abs=1e-5)  # an image's patches share one unit of mass
    found = scores(tower.made, batch, ("encoder_attention", {"layer": layer, "from": source}), 1)
    assert aligned(found, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_walk_from_norm_starts_on_patches_by_their_length(name: str) -> None:
    """Over a whole image, also where windows walk apart: one unit of mass, in proportion to what enters the block."""
    batch = batch_of(name)
    tower = Tower(name, batch)
    entering: dict[int, torch.Tensor] = {}
    block = tower.made.model.visual.blocks[1]
    handle = block.register_forward_pre_hook(lambda m, a: entering.update({1: a[0]}))
    with torch.no_grad():
        tower.made.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
        handle.remove()
        expected = tower.per_token(tower.received(1, False, entering[1].norm(dim=1))).mean(1)
    for part in torch.split(expected, TOKENS):
        assert float(part.sum()) == pytest.approx(1 / 4, abs=1e-5)
    assert aligned(scores(tower.made, batch, ("encoder_attention", {"layer": 1, "from": "norm"}), 1), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_several_blocks_are_put_together(name: str) -> None:
    batch = batch_of(name)
    one, two = (scores(model(name), batch, ("encoder_attention", {"layer": i, "from": "all"}), 1) for i in (0, 1))
    both = scores(model(name), batch, ("encoder_attention", {"layers": [0, 1], "from": "all"}), 1)
    assert float((both - one - two).abs().max()) <= 2e-6


def test_a_kernel_for_packed_sequences_is_listened_to_sequence_by_sequence() -> None:
    """FlashAttention gets all windows at once and their ends beside them."""
    seen: list[int] = []
    module: Any = torch.nn.Module()
    module.config = SimpleNamespace(_attn_implementation="sdpa")
    module.is_causal, module.num_key_value_groups = False, 1
    states = torch.randn(1, 2, 5, 8)
    ends = {"cu_seq_lens_q": torch.tensor([0, 3, 5], dtype=torch.int32)}
    for packed, expected in ((True, [3, 2]), (False, [5])):
        seen.clear()
        tap = Tap(module, lambda q, k, scaling, mask: seen.append(k.shape[2]), packed)
        attention(module, states, states, states, None, **ends)
        tap.remove()
        assert seen == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_tower_cannot_tell_is_refused_with_what_can_stand_in(name: str) -> None:
    made = model(name)
    with pytest.raises(BadInput, match=r"no class token; `without_cls: all` .*`without_cls: query`"):
        Session(made, policy(stage(2, "1/2", "encoder_attention")))
    with pytest.raises(BadInput, match="patch_entropy"):
        Session(made, policy(stage(0, "1/2", "patch_entropy")))


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_one_position_per_token_is_refused(name: str, written: bool) -> None:
    """Also where the configuration leaves the sections of the axes to the library's default."""
    made = model(name)
    rope = made.model.language_model.config.rope_parameters
    sections = rope["mrope_section"]
    try:
        if not written:
            del rope["mrope_section"]
        with pytest.raises(BadInput, match="multi-axis RoPE"):
            Session(made, policy(stage(2, "1/2", "random", positions="compact")))
    finally:
        rope["mrope_section"] = sections


@pytest.mark.parametrize("name", FAMILIES)
def test_images_of_one_size_are_told_apart(name: str) -> None:
    row, other = (TINY[name].rows([Sample(9, (SIZES[0],))], seed)[0] for seed in (1, 2))
    found = scores(model(name), together([row, other, row]), "random", 1)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_second_turn_continues_with_the_right_positions(name: str) -> None:
    made, batch = model(name), together(TINY[name].rows(TINY[name].ragged))

    def turns() -> Any:
        cache = DynamicCache()
        first = generate(made, batch, 4, past_key_values=cache).sequences
        more = torch.randint(10, 120, (len(first), 4), generator=torch.Generator().manual_seed(2))
        ids = torch.cat([first, more], 1)
        added = torch.ones(len(ids), ids.shape[1] - batch["input_ids"].shape[1], dtype=torch.long)
        both = {
            "input_ids": ids,
            "attention_mask": torch.cat([batch["attention_mask"], added], 1),
            "mm_token_type_ids": torch.cat([batch["mm_token_type_ids"], 0 * added], 1),
        }
        found = generate(made, both, 4, past_key_values=cache)
        return found, made.model.rope_deltas.clone()

    with Session(made, INSIDE) as session:
        pruned, deltas = turns()
        assert session.budget().mean < 0.6
    with MaskedReference(made, session.run):
        reference, unpruned = turns()
    assert torch.equal(deltas, unpruned)
    assert int(deltas.min()) < 0  # an image takes fewer positions than it has tokens
    assert torch.equal(pruned.sequences, reference.sequences)
    assert difference(pruned, reference) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_forward_without_generate_finds_its_own_positions(name: str) -> None:
    """As measured passes do: no position ids, no cache."""
    made, batch = model(name), batch_of(name)
    with Session(made, INSIDE) as session, torch.no_grad():
        pruned = made(**batch, use_cache=False, logits_to_keep=3).logits
        assert torch.equal(pruned, made(**batch, use_cache=False, logits_to_keep=3).logits)
    with MaskedReference(made, session.run), torch.no_grad():
        reference = made(**batch, use_cache=False, logits_to_keep=3).logits
    assert float((pruned - reference).abs().max()) <= 1e-5


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_videos_are_left_alone(name: str, with_image: bool) -> None:
    """They go through the same tower; nothing of them is dropped or taken for an image."""
    made = model(name)
    row: Row = TINY[name].rows([Sample(9, (SIZES[0],) if with_image else ())])[0]
    grid = torch.tensor([[1, 6, 8]])
    tokens = torch.cat([torch.full((12,), VIDEO), torch.tensor([14, 15])])
    ids = torch.cat([row.tokens["input_ids"], tokens])[None]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO),
        "pixel_values_videos": torch.randn(48, 6 * SMALL**2, generator=torch.Generator().manual_seed(4)),
        "video_grid_thw": grid,
        **row.vision,
    }
    with Session(made, policy(stage(1, "1/2", ("encoder_attention", {"from": "all"})))) as session:
        found = generate(made, batch, 3)
    assert session.run.n == [TOKENS[0] if with_image else 0]
    if not with_image:
        assert torch.equal(found.logits[-1], seeded(made, batch, steps=3).logits[-1])
        return
    assert set(range(ids.shape[1] - 14, ids.shape[1])) <= set(session.run.index(5)[0][0].tolist())
    with MaskedReference(made, session.run):
        assert difference(found, generate(made, batch, 3)) <= 1e-5
