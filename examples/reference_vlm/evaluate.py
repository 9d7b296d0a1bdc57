"""How well the reference model answers, whole and pruned to a quarter of its visual tokens.

    python examples/reference_vlm/evaluate.py

The pruning here is deliberately naive and shares no code with autoprune: rows are gathered, positions kept. It says
what the checkpoint is worth, independently of the tool that is tested on it.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architecture import look, packed_hidden, project, to_pixel_values
from batches import IGNORED, PREFIX, Packed, pack, tally, text_length
from make_data import Example, examples
from numpy.typing import NDArray
from questions import KINDS, Question
from scenes import CANVAS, GRID, PATCHES
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv
from vocabulary import HEAD

BUDGET = PATCHES // 4
"""Visual positions per decoder layer, on average over the layers."""
RANDOM_SEEDS = range(5)
GREY = 115

Counts = NDArray[np.int64]
Asked = list[list[Question]]


def load(checkpoint: Path) -> LlavaForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()


def _chunks(total: int, size: int) -> Iterable[slice]:
    return (slice(start, start + size) for start in range(0, total, size))


def _packed(questions: Asked) -> tuple[Packed, tuple[Tensor, Tensor, Tensor]]:
    packed = pack(questions, max(map(text_length, questions)))
    return packed, (
        torch.from_numpy(packed.tokens),
        torch.from_numpy(packed.positions),
        torch.from_numpy(packed.segments),
    )


def _score(model: LlavaForConditionalGeneration, hidden: Tensor, packed: Packed, questions: Asked) -> Counts:
    return tally(model.lm_head(hidden).argmax(-1).numpy() == packed.labels, packed, questions)


def answer(
    model: LlavaForConditionalGeneration, visual: Tensor, questions: Asked, kept: Tensor | None = None
) -> Counts:
    """Right and asked per kind when the language model sees only the visual tokens `kept` (pictures, k), ascending."""
    counts: Counts = np.zeros((2, len(KINDS)), np.int64)
    for part in _chunks(len(visual), 64):
        packed, arrays = _packed(questions[part])
        hidden = packed_hidden(model, visual[part], *arrays, None if kept is None else kept[part])
        counts += _score(model, hidden, packed, questions[part])
    return counts


def _top(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count, 1).indices.sort(1).values


def keep_random(pictures: int, seed: int) -> Tensor:
    return _top(torch.rand(pictures, PATCHES, generator=torch.Generator().manual_seed(seed)), BUDGET)


def keep_grid(pictures: int) -> Tensor:
    """Every second row and column."""
    return torch.arange(PATCHES).view(GRID, GRID)[::2, ::2].reshape(1, -1).expand(pictures, -1)


def keep_diverse(visual: Tensor) -> Tensor:
    """DivPrune (arXiv:2503.02175): greedy max-min cosine distance over the projected features."""
    unit = torch.nn.functional.normalize(visual, dim=-1)
    distance = 1 - unit @ unit.mT
    pictures = torch.arange(len(visual))
    nearest_other = (distance + 9 * torch.eye(PATCHES)).amin(2)
    chosen = [nearest_other.argmax(1)]
    nearest = distance[pictures, chosen[0]]
    for _ in range(BUDGET - 1):
        taken = torch.stack(chosen, 1)
        chosen.append(nearest.scatter(1, taken, -1.0).argmax(1))
        nearest = nearest.minimum(distance[pictures, chosen[-1]])
    return torch.stack(chosen, 1).sort(1).values


def keep_attended_by_cls(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """CLS attention of the last but one layer of the tower, averaged over heads."""
    tower = model.model.vision_tower
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    rows = [
        tower(pixel_values=pixel_values[part], output_attentions=True).attentions[-2][:, :, 0, 1:].mean(1)
        for part in _chunks(len(pixel_values), 64)
    ]
    tower.set_attn_implementation(before)
    return _top(torch.cat(rows), BUDGET)


def answer_after_first_layer(model: LlavaForConditionalGeneration, visual: Tensor, questions: Asked) -> Counts:
    """FastV (arXiv:2403.06764) with one full layer: the last prompt token's attention there decides who goes on.

    Decided for every question by itself, so questions are not packed here. The first layer sees everything, which
    leaves the others fewer tokens at the same budget.
    """
    language = model.model.language_model
    layers = len(language.layers)
    count = (layers * BUDGET - PATCHES) // (layers - 1)
    counts: Counts = np.zeros((2, len(KINDS)), np.int64)
    singles = [(index, [question]) for index, of_picture in enumerate(questions) for question in of_picture]
    for part in _chunks(len(singles), 256):
        owners = torch.tensor([index for index, _ in singles[part]])
        asked = [question for _, question in singles[part]]
        packed, (tokens, text_positions, _) = _packed(asked)
        rows, length = tokens.shape
        head = language.embed_tokens(torch.tensor(HEAD)).expand(rows, -1, -1)
        hidden = torch.cat([head, visual[owners], language.embed_tokens(tokens)], 1)
        positions = torch.cat([torch.arange(PREFIX).expand(rows, -1), text_positions], 1)
        # Padding comes last, so causality alone hides it from everything that is scored.
        last = (torch.from_numpy(packed.labels) != IGNORED).int().argmax(1) + PREFIX
        attention = _attention_from(language.layers[0], hidden, language.rotary_emb(hidden, positions), last)
        kept = _top(attention[:, len(HEAD) : PREFIX], count) + len(HEAD)
        before, after = (torch.arange(*ends).expand(rows, -1) for ends in ((len(HEAD),), (PREFIX, PREFIX + length)))
        order = torch.cat([before, kept, after], 1)
        for index, layer in enumerate(language.layers):
            if index == 1:
                positions = positions.gather(1, order)
                hidden = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))
            rotary = language.rotary_emb(hidden, positions)
            causal = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()[None, None]
            hidden = layer(hidden, attention_mask=causal, position_ids=positions, position_embeddings=rotary)
        counts += _score(model, language.norm(hidden)[:, -length:], packed, asked)
    return counts


def _attention_from(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], last: Tensor) -> Tensor:
    """Attention of the row `last` of every sequence, averaged over heads."""
    attend = layer.self_attn
    states = layer.input_layernorm(hidden)
    shape = (*states.shape[:2], -1, attend.head_dim)
    queries, keys = (project(states).view(shape).transpose(1, 2) for project in (attend.q_proj, attend.k_proj))
    queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
    query = queries[torch.arange(len(last)), :, last]
    logits = (repeat_kv(keys, attend.num_key_value_groups) @ query[..., None]).squeeze(-1) * attend.scaling
    visible = torch.arange(hidden.shape[1]) <= last[:, None]
    attention: Tensor = logits.masked_fill(~visible[:, None], float("-inf")).softmax(-1).mean(1)
    return attention


@torch.no_grad()
def measure(model: LlavaForConditionalGeneration, data: list[Example]) -> dict[str, Counts]:
    """Counts per setting; the random seeds are pooled, which over equal numbers of questions is their mean."""
    pixel_values = to_pixel_values(np.stack([example.pixels for example in data]))
    questions = [example.questions for example in data]

    def see(values: Tensor) -> Tensor:
        return torch.cat([project(model, look(model, values[part])[0]) for part in _chunks(len(values), 64)])

    visual = see(pixel_values)
    grey = see(to_pixel_values(np.full((1, CANVAS, CANVAS, 3), GREY, np.uint8))).expand(len(data), -1, -1)
    pruned: dict[str, Callable[[], Tensor]] = {
        "uniform grid": lambda: keep_grid(len(data)),
        "CLS attention, layer -2": lambda: keep_attended_by_cls(model, pixel_values),
        "DivPrune": lambda: keep_diverse(visual),
    }
    results = {
        "all visual tokens": answer(model, visual, questions),
        "grey picture": answer(model, grey, questions),
        "random 25 % (5 seeds)": np.sum(
            [answer(model, visual, questions, keep_random(len(data), seed)) for seed in RANDOM_SEEDS], axis=0
        ),
    }
    results |= {f"{name} 25 %": answer(model, visual, questions, keep()) for name, keep in pruned.items()}
    results["FastV after layer 0, 25 %"] = answer_after_first_layer(model, visual, questions)
    return results


def table(results: dict[str, Counts]) -> str:
    """A Markdown table: a row per setting, a column per kind of question."""
    lines = [f"| setting | all | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 2) + "|"]
    for name, (right, asked) in results.items():
        shares = [right.sum() / asked.sum(), *(right / np.maximum(asked, 1))]
        lines.append(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return "\n".join(lines)


def bars(results: dict[str, Counts]) -> dict[str, bool]:
    """What the checkpoint is required to be, as checks on the results."""
    share = {name: right.sum() / asked.sum() for name, (right, asked) in results.items()}
    right, asked = results["all visual tokens"]
    full, by_chance, grey = (share[name] for name in ("all visual tokens", "random 25 % (5 seeds)", "grey picture"))
    best = max(value for name, value in share.items() if name.endswith("25 %"))
    worst_kind = (right / asked).min()
    lost, lost_by_chance = full - best, full - by_chance
    return {
        f"at least 0.90 overall: {full:.3f}": bool(full >= 0.90),
        f"no type below 0.6: {worst_kind:.3f}": bool(worst_kind >= 0.6),
        f"a grey picture gives at most half of that: {grey:.3f}": bool(grey <= full / 2),
        f"random pruning loses at least 10 points: {100 * lost_by_chance:.1f}": bool(lost_by_chance >= 0.10),
        f"the best criterion loses at most 60 % of what random loses: {100 * lost:.1f} points": bool(
            lost <= 0.6 * lost_by_chance
        ),
    }


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Measure the reference model, whole and pruned.")
    parser.add_argument("--checkpoint", type=Path, default=here / "checkpoint")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--questions-per-image", type=int, default=8)
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    data = list(examples("test", options.images, options.questions_per_image, options.seed))
    results = measure(load(options.checkpoint), data)
    asked = results["all visual tokens"][1].sum()
    lines = [f"{len(data)} pictures with test digits, {asked} questions.", "", table(results), ""]
    lines += [f"- {'ok' if met else 'MISSED'}: {name}" for name, met in bars(results).items()]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
