"""Make another version of the reference model: trained on a little, more, or ruined.

    python examples/retune/change_model.py --out model --steps 4 --rate 1e-5
    python examples/retune/change_model.py --out model --steps 60 --rate 1e-3
    python examples/retune/change_model.py --out model --ruin

It goes on where the shipped checkpoint stopped: fresh scenes with digits of the training pool, all visual tokens seen.
`--ruin` shuffles the projector's last weights instead: the shapes are right, the answers are gone.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

REFERENCE = Path(__file__).resolve().parents[1] / "reference_vlm"
sys.path.insert(0, str(REFERENCE))

from architecture import look, packed_hidden, project, to_pixel_values  # noqa: E402
from batches import IGNORED, pack, sample_batch  # noqa: E402
from export import export  # noqa: E402
from scenes import Painter  # noqa: E402
from transformers import LlavaForConditionalGeneration  # noqa: E402


def train(model: LlavaForConditionalGeneration, steps: int, rate: float, seed: int) -> None:
    """Answers only, as in the question stage of `train.py`."""
    rng, painter = np.random.default_rng(seed), Painter("train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        batch = sample_batch(painter, rng, pictures=8, questions=10)
        packed = pack(batch.questions, length=110)
        arrays = (torch.from_numpy(array) for array in (packed.tokens, packed.positions, packed.segments))
        labels = torch.from_numpy(packed.labels)
        features, _ = look(model, to_pixel_values(batch.pixels))
        hidden = packed_hidden(model, project(model, features), *arrays)
        asked = labels != IGNORED
        loss = F.cross_entropy(model.lm_head(hidden[asked]), labels[asked])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def ruin(model: LlavaForConditionalGeneration, seed: int) -> None:
    weight = model.model.multi_modal_projector.linear_2.weight
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
    weight.copy_(weight.flatten()[order].view_as(weight))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make another version of the reference model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the changed model")
    parser.add_argument("--start", type=Path, default=REFERENCE / "checkpoint", help="the model to start from")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ruin", action="store_true", help="shuffle the projector's last weights instead of training")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = LlavaForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
    if options.ruin:
        ruin(model, options.seed)
    else:
        train(model, options.steps, options.rate, options.seed)
    export(model.eval(), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
