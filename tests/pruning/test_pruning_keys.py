"""Keys as feature rows: those of the tower's blocks and of decoder layers, where the models themselves have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import inputs, model, policy, stage
from test_pruning_families import FAMILIES, SIZES, TOKENS, Tower
from test_pruning_families import batch_of as qwen_batch
from test_pruning_family_signals import batch_of, blocks
from tiny_families import IMAGE, LAYERS, Sample
from tiny_families import model as family_model
from vision_support import SAMPLES, per_sample, pictures, projections, siglip

from autoprune.errors import BadInput
from autoprune.models.family import geometry_of
from autoprune.pruning import parts, prefill
from autoprune.pruning.parts import Sizes
from autoprune.pruning.selecting import decoder_keys
from autoprune.pruning.session import Session
from autoprune.pruning.signals import Site
from autoprune.pruning.view import StageView

Rows = list[torch.Tensor]


def seen(made: Any, batch: dict[str, torch.Tensor], *before: Any, layer: int = 2, **space: Any) -> tuple[Any, Any]:
    """Feature rows of a space at a stage of a real run [B, V, w], and the stage's view."""
    found: list[tuple[torch.Tensor, StageView]] = []
    module: Any = prefill
    original = module.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        config = planned.picks[0].select.config
        if hasattr(config, "space"):
            found.append((config.features(view), view))
        return original(planned, view, *rest)

    module.reduce = spy
    try:
        with Session(made, policy(*before, stage(layer, "1/6", None, ("far", space)))), torch.no_grad():
            made(**batch, use_cache=False)
    finally:
        module.reduce = original
    return found[0]


def close(found: torch.Tensor, expected: Rows, tolerance: float = 1e-5) -> bool:
    assert found.shape[:2] == (len(expected), max(map(len, expected)))
    return all(torch.allclose(found[b, : len(e)], e, atol=tolerance) for b, e in enumerate(expected))


def side_by_side(keys: torch.Tensor, heads: str) -> torch.Tensor:
    """Keys [..., tokens, heads, D] as one row each."""
    return keys.mean(-2) if heads == "mean" else keys.flatten(-2)


# ------------------------------------------------------------------------------------------------------------ the tower
@pytest.mark.parametrize(("block", "heads"), [(None, "mean"), (-1, "joined"), (0, "mean")])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_keys_of_a_block_line_up_with_the_visual_tokens(family: str, block: int | None, heads: str) -> None:
    made = model(family)
    batch = inputs(made, SAMPLES[family])
    _, keys = projections(made, pictures(made, batch), -2 if block is None else block)
    expected = side_by_side(keys, heads)[:, 1:]
    options = {"key_heads": heads} if block is None else {"key_layer": block, "key_heads": heads}
    found, _ = seen(made, batch, space="encoder_keys", **options)
    for column in range(expected.shape[2]):
        values = per_sample(batch, SAMPLES[family], expected[..., column].tolist())
        assert close(found[..., column], [torch.tensor(v) for v in values])
    assert found.shape[2] == expected.shape[2]


def test_a_tower_without_a_class_token_has_keys_too() -> None:
    made = siglip()
    batch = inputs(model("llava"), SAMPLES["llava"])
    _, keys = projections(made, pictures(made, batch), -2)
    found, _ = seen(made, batch, space="encoder_keys")
    assert close(found, [keys.mean(2)[0], keys.mean(2)[1:].flatten(0, 1)])


def test_keys_are_averaged_over_the_patches_of_a_token() -> None:
    made, batch = family_model("internvl"), batch_of("internvl")
    layer = made.model.vision_tower.encoder.layer[-2].attention
    caught: list[torch.Tensor] = []
    hook = layer.k_proj.register_forward_hook(lambda m, a, o: caught.append(o))
    found, _ = seen(made, batch, space="encoder_keys", key_heads="joined")
    hook.remove()
    tiles = blocks(layer.k_norm(caught[0])[:, 1:])
    assert close(found, [tiles[0], tiles[:0].flatten(0, 1), tiles[1:].flatten(0, 1)])


@pytest.mark.parametrize("block", [0, 1, -1])
@pytest.mark.parametrize("name", FAMILIES)
def test_keys_of_a_packed_tower_are_put_back_in_order(name: str, block: int) -> None:
    """Windows and images come piece by piece, in Qwen2.5 in another order; a token has the mean of its four patches."""
    batch = qwen_batch(name)
    tower = Tower(name, batch)
    module, hidden, keywords = tower.attended[f"block {block % 3}"]
    cos, sin = (t[:, None] for t in keywords["position_embeddings"])
    with torch.no_grad():
        key = module.qkv(hidden).view(len(hidden), 3, module.num_heads, -1)[:, 1]
    half = key.shape[-1] // 2
    turned = (key * cos + torch.cat([-key[..., half:], key[..., :half]], -1) * sin).mean(1)
    expected = turned[tower.place].view(-1, 4, turned.shape[1]).mean(1)
    found, _ = seen(tower.made, batch, space="encoder_keys", key_layer=block)
    assert len(SIZES) == len(TOKENS) == 3
    assert close(found, [expected[: TOKENS[0]], expected[:0], expected[TOKENS[0] :]])


# --------------------------------------------------------------------------------------------------- the language model
@pytest.mark.parametrize("heads", ["mean", "joined"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_decoder_keys_are_those_of_the_cache(layer: int, heads: str) -> None:
    """Turned by their positions; of the layer before the stage, at llm:0 of layer 0. Prompt rows have them too."""
    made = model("llava")
    batch = inputs(made, SAMPLES["llava"])
    with torch.no_grad():
        cache = made(**batch, use_cache=True).past_key_values
    keys = side_by_side(cache.layers[max(layer - 1, 0)].keys.transpose(1, 2), heads)
    found, view = seen(made, batch, layer=layer, space="keys", key_heads=heads)
    visual = batch["input_ids"] == IMAGE
    assert close(found, [keys[b][visual[b]] for b in range(2)])
    rows, real = view.text(decoder_keys(view.site, heads))  # type: ignore[arg-type]
    for b in range(2):
        after = int(visual[b].nonzero()[-1]) + 1
        assert torch.allclose(rows[b][real[b]], keys[b, after:], atol=1e-5)


def test_decoder_keys_of_the_tokens_still_there() -> None:
    made = model("llava")
    batch = inputs(made, [Sample(9)])
    caught: list[torch.Tensor] = []
    hook = made.model.language_model.layers[LAYERS - 2].self_attn.k_proj.register_forward_hook(
        lambda m, a, o: caught.append(o)
    )
    found, view = seen(made, batch, stage(1, "1/3", "random"), layer=LAYERS - 1, space="keys", key_heads="joined")
    hook.remove()
    left = found.shape[1]
    first = int((batch["input_ids"][0] == IMAGE).nonzero()[0])
    assert left == 12
    assert torch.allclose(found[0].norm(dim=1), caught[0][0, first : first + left].norm(dim=1), atol=1e-4)
    assert not torch.equal(view.tokens[0], torch.arange(left))


# ------------------------------------------------------------------------------------------------------- the parameters
@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"space": "encoder_keys", "key_layer": 99}, "key_layer 99 is outside"),
        ({"key_layer": -1}, "`key_layer` belongs to `space: encoder_keys`"),
        ({"space": "keys", "key_layer": -1}, "`key_layer` belongs to `space: encoder_keys`"),
        ({"space": "hidden", "key_heads": "mean"}, "`key_heads` belongs to the spaces"),
        ({"space": "values"}, "Input should be 'projected'"),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        Session(model("llava"), policy(stage(2, "1/2", None, ("far", params))))
    assert says in str(caught.value)


def test_pivots_of_the_prompt_need_rows_there() -> None:
    with pytest.raises(BadInput, match="the prompt has no rows in the space `encoder_keys`"):
        Session(model("llava"), policy(stage(2, "1/2", "random", ("pivot", {"space": "encoder_keys"}))))
    made, alone = model("llava"), policy(stage(2, "1/2", "random", ("pivot", {"space": "encoder_keys", "text": 0})))
    with Session(made, alone) as session, torch.no_grad():
        made(**inputs(made, [Sample(9)]), use_cache=False)
        assert session.run.lengths[2] == [18]


@pytest.mark.parametrize(
    ("params", "width"),
    [
        ({"space": "encoder_keys"}, 16),
        ({"space": "encoder_keys", "key_heads": "joined"}, 32),
        ({"space": "keys"}, 16),
        ({"space": "keys", "key_heads": "joined"}, 32),
    ],
    ids=str,
)
def test_comparing_keys_costs_their_width(params: dict[str, Any], width: int) -> None:
    geometry = geometry_of(model("llava").config.to_dict())
    info = parts.find("selector", "peel")
    assert info is not None
    config = info.config.model_validate(params)
    for layer in (0, 2):
        site = Site("llm", layer, LAYERS, geometry.vision_depth, True)
        sizes = Sizes(geometry, site, 36, 18, (36,) * LAYERS, 9, 1)
        probed = sizes.probe(True) if layer == 0 and params["space"] == "keys" else 0
        assert info.flops(config, sizes) == 2 * 36 * 36 * width + probed
