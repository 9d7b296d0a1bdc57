"""Train the reference model from nothing: one command, three stages, two processes.

    python examples/reference_vlm/train.py --out runs/reference

1. *Vision stage*: the tower alone learns to name what every patch of crowded pictures shows. Reading digits is the
   bottleneck of the whole model, and ten digits in a picture teach it in minutes.
2. *Question stage*: a dozen questions packed per picture, answers only. First on the frozen tower, then end to end;
   late in the stage a share of the steps sees only a random part of the visual tokens (positions kept), so that
   missing background is nothing new to the model when it is pruned.
3. *Refinement*: the question stage once more from a high learning rate, nothing frozen, dropping mostly background
   and never training the tower on it.

Stages end after minutes of processor time (`--vision-minutes`, `--question-minutes`, `--refine-minutes`): on two quiet
cores that is the wall clock, and on busy ones the same model comes later. A finished question stage can be refined
later with `--refine FOLDER`. `--steps` ends each stage after so many steps instead.
Everything runs in eager fp32, so no compiler is needed; `--compile` is for machines where it pays. It did not on two
cores with AVX-512 and no bfloat16 units, where the shipped checkpoint was made.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from architecture import ReadingHeads, build_model, look, packed_hidden, project, to_pixel_values, whiten_patches
from batches import IGNORED, pack, sample_batch, tally
from export import export
from numpy.typing import NDArray
from optimizer import MuonWithAdamW
from questions import KINDS
from scenes import COLOR_CLASSES, KIND_CLASSES, PATCHES, Painter, PatchLabels, sample_crowded_scene
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers import LlavaForConditionalGeneration
from vocabulary import COLORS, SHAPES


@dataclass(frozen=True)
class Dropping:
    """When training steps see only a part of the visual tokens, and which part.

    `preferences` says how much things are kept rather than background (0 is blind chance), drawn per picture.
    `through_tower` lets the loss of such steps reach the tower. It then learns to spread what it reads over many
    patches, until losing three quarters of them at random hardly matters; that is no model to test pruning on.
    """

    start: float
    share: float
    preferences: tuple[float, ...]
    through_tower: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result; written next to the checkpoint."""

    vision_minutes: float = 12.0
    question_minutes: float = 25.0
    refine_minutes: float = 15.0
    steps: int | None = None
    processes: int = 2
    compile: bool = False
    seed: int = 0
    pictures: int = 24
    question_pictures: int = 16
    questions: int = 14
    row_length: int = 148
    vision_rate: float = 3e-3
    question_rate: float = 2e-3
    refine_rate: float = 1.5e-3
    warmup: int = 40
    frozen_until: float = 0.25
    reading_weight: float = 0.3
    digit_weight: float = 3.0
    dropping: Dropping = Dropping(0.4, 0.4, (0.0, 1.0, 2.5), through_tower=False)
    refine_dropping: Dropping = Dropping(0.0, 0.25, (2.5,), through_tower=False)
    drop_slots: int = 72
    fewest_kept: int = 24
    report_every: int = 25
    weigh_every: int = 100


def learning_rate(peak: float, warmup: int, step: int, done: float) -> float:
    """Warm-up, constant for 30 % of the stage, then a cosine down to 3 %."""
    decay = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (done - 0.3) / 0.7))))
    return peak * min(1.0, (step + 1) / warmup) * (0.03 + 0.97 * decay)


def reading_loss(
    heads: ReadingHeads, features: Tensor, pooled: Tensor, patches: PatchLabels, digit_weight: float
) -> Tensor:
    """Name every patch's kind, colour and digit, and from CLS everything the picture holds."""
    kinds, colors, digits = (torch.from_numpy(maps) for maps in (patches.kind, patches.color, patches.digit))
    per_patch = heads.patch(features[:, 1:])
    emphasis = torch.where(kinds > 0, 2.0, 0.4)
    total = torch.zeros(())
    for logits, targets, weight in zip(
        per_patch.split([KIND_CLASSES, COLOR_CLASSES, per_patch.shape[-1] - KIND_CLASSES - COLOR_CLASSES], -1),
        (kinds, colors, digits),
        (1.0, 1.0, digit_weight),
        strict=True,
    ):
        total = total + weight * (F.cross_entropy(logits.mT, targets, reduction="none") * emphasis).mean()
    present = [
        (maps == value).any(1)
        for maps, count in ((kinds, len(SHAPES)), (colors, len(COLORS)), (digits, 10))
        for value in range(1, count + 1)
    ]
    total = total + F.binary_cross_entropy_with_logits(heads.picture(pooled), torch.stack(present, 1).float())
    return total


def digit_accuracy(heads: ReadingHeads, features: Tensor, patches: PatchLabels) -> float:
    """Share of the digit patches whose digit is read right."""
    digits = torch.from_numpy(patches.digit)
    read = heads.patch(features[:, 1:].detach())[..., KIND_CLASSES + COLOR_CLASSES :].argmax(-1)
    return float((read == digits)[digits > 0].float().mean())


def drop_tokens(
    rng: np.random.Generator, patches: PatchLabels, preferences: tuple[float, ...], recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Which visual tokens stay in a dropping step: (kept, hidden_from) as `packed_hidden` takes them.

    A criterion that works keeps things and drops background, random pruning keeps both alike. So every picture draws
    how much its things are preferred, and how many tokens it keeps.
    """
    pictures = len(patches.kind)
    preference = rng.choice(preferences, (pictures, 1)) * (patches.kind > 0)
    order = np.argsort(-(rng.gumbel(size=(pictures, PATCHES)) + preference), 1)[:, : recipe.drop_slots]
    count = rng.integers(recipe.fewest_kept, recipe.drop_slots + 1, (pictures, 1))
    hidden = np.broadcast_to(np.arange(recipe.drop_slots) >= count, order.shape)
    ascending = np.argsort(order, 1)
    kept, gone = (np.take_along_axis(table, ascending, 1) for table in (order, hidden))
    return torch.from_numpy(kept), torch.from_numpy(gone)


class Trainer:
    """One process of the run; with several, gradients and the clock are averaged after every step."""

    def __init__(self, recipe: Recipe, rank: int, out: Path) -> None:
        self.recipe, self.rank, self.out = recipe, rank, out
        torch.manual_seed(recipe.seed)
        self.rng = np.random.default_rng([recipe.seed, rank])
        self.painter = Painter("train")
        self.model = build_model()
        self.heads = ReadingHeads()
        crowd = np.random.default_rng(recipe.seed)
        pixels, _ = self.painter.paint([sample_crowded_scene(crowd) for _ in range(64)], crowd)
        whiten_patches(self.model, pixels)
        self.model.train()
        self.started = time.monotonic()
        self.history: list[dict[str, object]] = []
        self._look: Callable[..., tuple[Tensor, Tensor]] = look
        self._hidden: Callable[..., Tensor] = packed_hidden
        if recipe.compile:
            self._look = torch.compile(look, dynamic=False)
            self._hidden = torch.compile(packed_hidden, dynamic=False)

    def log(self, **entry: object) -> None:
        if self.rank == 0:
            entry = {
                "seconds": round(time.monotonic() - self.started),
                "processor": round(time.process_time()),
                **entry,
            }
            self.history.append(entry)
            print(json.dumps(entry), flush=True)

    def vision_stage(self) -> None:
        tower = self.model.model.vision_tower
        optimizer = MuonWithAdamW([*tower.named_parameters(), *self._named_heads()])
        for step in self._steps("vision", self.recipe.vision_minutes, self.recipe.vision_rate, optimizer):
            pixels, patches = self.painter.paint(
                [sample_crowded_scene(self.rng) for _ in range(self.recipe.pictures)], self.rng
            )
            features, pooled = self._look(self.model, to_pixel_values(pixels))
            loss = reading_loss(self.heads, features, pooled, patches, self.recipe.digit_weight)
            torch.autograd.backward(loss)
            if step % self.recipe.report_every == 0:
                read = digit_accuracy(self.heads, features, patches)
                self.log(stage="vision", step=step, loss=round(loss.item(), 4), digits=round(read, 3))

    def question_stage(self) -> None:
        recipe = self.recipe
        self._answer("question", recipe.question_minutes, recipe.question_rate, recipe.frozen_until, recipe.dropping)

    def refinement(self) -> None:
        recipe = self.recipe
        self._answer("refine", recipe.refine_minutes, recipe.refine_rate, 0.0, recipe.refine_dropping)

    def load(self, folder: Path) -> None:
        """Take up a run whose question stage is finished."""
        self.model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(folder, dtype="float32").state_dict())
        self.heads.load_state_dict(torch.load(folder / "vision_stage.pt", weights_only=True)["heads"])

    def _answer(self, stage: str, minutes: float, rate: float, frozen_until: float, drop: Dropping) -> None:
        recipe = self.recipe
        optimizer = MuonWithAdamW([*self.model.named_parameters(), *self._named_heads()])
        weights = np.ones(len(KINDS))
        losses = []
        for step in self._steps(stage, minutes, rate, optimizer):
            batch = sample_batch(self.painter, self.rng, recipe.question_pictures, recipe.questions, weights.tolist())
            packed = pack(batch.questions, recipe.row_length)
            tokens, positions, segments, labels = (
                torch.from_numpy(array) for array in (packed.tokens, packed.positions, packed.segments, packed.labels)
            )
            dropping = step == 1 or (self.done >= drop.start and self.rng.random() < drop.share)
            kept, gone = drop_tokens(self.rng, batch.patches, drop.preferences, recipe) if dropping else (None, None)
            frozen = self.done < frozen_until
            with torch.set_grad_enabled(not frozen):
                features, pooled = self._look(self.model, to_pixel_values(batch.pixels))
            cut = dropping and not drop.through_tower
            visual = project(self.model, features.detach() if cut else features)
            hidden = self._hidden(self.model, visual, tokens, positions, segments, kept, gone)
            asked = labels != IGNORED
            loss = F.cross_entropy(self.model.lm_head(hidden[asked]), labels[asked])
            losses.append(loss.item())
            if not frozen:
                read = reading_loss(self.heads, features, pooled, batch.patches, recipe.digit_weight)
                loss = loss + recipe.reading_weight * read
            torch.autograd.backward(loss)
            if step % recipe.report_every == 0:
                recent = float(np.mean(losses[-recipe.report_every :]))
                self.log(stage=stage, step=step, done=round(self.done, 3), loss=round(recent, 4))
            if step and step % recipe.weigh_every == 0:
                accuracy = self.accuracy()
                weights = 0.5 + (1 - accuracy)
                rounded = dict(zip(KINDS, accuracy.round(3).tolist(), strict=True))
                self.log(stage=stage, step=step, accuracy=round(float(accuracy.mean()), 4), by_type=rounded)
                if self.rank == 0:
                    export(self.model, self.out)  # something to look at while the rest trains

    @torch.no_grad()
    def accuracy(self, batches: int = 3, pictures: int = 32) -> NDArray[np.float64]:
        """Accuracy per kind on fresh scenes with training digits.

        It steers the mix of questions, so no held-out pool may be used.
        """
        self.model.eval()
        counts = np.zeros((2, len(KINDS)))
        for _ in range(batches):
            batch = sample_batch(self.painter, self.rng, pictures, 8)
            packed = pack(batch.questions, self.recipe.row_length)
            features, _ = look(self.model, to_pixel_values(batch.pixels))
            arrays = (torch.from_numpy(array) for array in (packed.tokens, packed.positions, packed.segments))
            hidden = packed_hidden(self.model, project(self.model, features), *arrays)
            right = self.model.lm_head(hidden).argmax(-1).numpy() == packed.labels
            counts += tally(right, packed, batch.questions)
        if self.recipe.processes > 1:
            dist.all_reduce(torch.from_numpy(counts))  # in place, through the shared memory
        self.model.train()
        return np.asarray(counts[0] / np.maximum(counts[1], 1))

    def _named_heads(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(f"heads.{name}", parameter) for name, parameter in self.heads.named_parameters()]

    def _steps(self, name: str, minutes: float, rate: float, optimizer: MuonWithAdamW) -> Iterator[int]:
        """Step numbers of a stage; after the body of each step, averages the gradients and updates the model.

        The first two steps do not count: they compile, where compiling is asked for.
        """
        self.done, untimed, step = 0.0, 2, 0
        begun = time.process_time()
        self.log(stage=name, event="start")
        while self.done < 1:
            yield step
            step += 1
            if step <= untimed:
                begun = time.process_time()
            done = step / self.recipe.steps if self.recipe.steps else (time.process_time() - begun) / (60 * minutes)
            self.done = self._averaged(optimizer, done)
            optimizer.step(learning_rate(rate, self.recipe.warmup, step - 1, self.done))
        self.log(stage=name, event="end", steps=step)

    def _averaged(self, optimizer: MuonWithAdamW, done: float) -> float:
        """Average the gradients over the processes, and the clock with them, so that all stop after the same step."""
        if self.recipe.processes == 1:
            return done
        gradients = [parameter.grad for parameter in optimizer.parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients] + [torch.tensor([done])])
        dist.all_reduce(flat)
        flat /= self.recipe.processes
        for gradient, mean in zip(gradients, torch.split(flat[:-1], [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
        return float(flat[-1])


def run_process(rank: int, recipe: Recipe, out: Path, refine: Path | None, rendezvous: str) -> None:
    """Train in one process on one thread: two threads of a process wait for each other more than they compute."""
    torch.set_num_threads(1)
    if recipe.processes > 1:
        dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=recipe.processes)
    trainer = Trainer(recipe, rank, out)
    if refine is None:
        trainer.vision_stage()
        if rank == 0:
            state = {"model": trainer.model.state_dict(), "heads": trainer.heads.state_dict()}
            torch.save(state, out / "vision_stage.pt")
        trainer.question_stage()
    else:
        trainer.load(refine)
    trainer.refinement()
    if rank == 0:
        export(trainer.model, out)
        (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
        (out / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in trainer.history))
    if recipe.processes > 1:
        dist.destroy_process_group()


def train(recipe: Recipe, out: Path, refine: Path | None = None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if recipe.processes == 1:
        run_process(0, recipe, out, refine, "")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (recipe, out, refine, f"{folder}/rendezvous")
        spawn(run_process, arguments, nprocs=recipe.processes)  # type: ignore[no-untyped-call]


def main() -> None:
    default = Recipe()
    parser = argparse.ArgumentParser(description="Train the reference model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--vision-minutes", type=float, default=default.vision_minutes)
    parser.add_argument("--question-minutes", type=float, default=default.question_minutes)
    parser.add_argument("--refine-minutes", type=float, default=default.refine_minutes)
    parser.add_argument("--refine", type=Path, help="only refine the run in this folder")
    parser.add_argument("--steps", type=int, help="end each stage after so many steps instead of by the clock")
    parser.add_argument("--processes", type=int, default=default.processes, help="one per core")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward passes; needs a C++ compiler")
    parser.add_argument("--pictures", type=int, default=default.pictures, help="per step and process, vision stage")
    parser.add_argument("--question-pictures", type=int, default=default.question_pictures, help="question stage")
    parser.add_argument("--report-every", type=int, default=default.report_every)
    parser.add_argument("--seed", type=int, default=default.seed)
    options = vars(parser.parse_args())
    out, refine = options.pop("out"), options.pop("refine")
    train(replace(default, **options), out, refine)


if __name__ == "__main__":
    main()
