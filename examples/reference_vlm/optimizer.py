"""Muon for the weight matrices of the layers, AdamW for everything else.

Muon needs about half the steps of AdamW here. `torch.optim.Muon` orthogonalises in bfloat16, which is emulated and slow
on CPUs without AMX, and one matrix at a time; this one works in float32 on all matrices of a shape at once.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def _orthogonalised(stack: Tensor) -> Tensor:
    """Push the singular values of every matrix (wide: rows <= columns) towards one, by five Newton-Schulz steps."""
    a, b, c = _NEWTON_SCHULZ
    x: Tensor = stack / (stack.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def _is_layer_matrix(name: str, parameter: Tensor) -> bool:
    outside = any(part in name for part in ("embed", "lm_head", "heads"))
    return parameter.ndim == 2 and min(parameter.shape) >= 64 and not outside


class MuonWithAdamW:
    """One optimizer to the trainer: `step(learning_rate)` clips, updates and clears the gradients."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], momentum: float = 0.95, decay: float = 0.05) -> None:
        named = list(named)
        self.parameters = [parameter for _, parameter in named]
        self._momentum, self._decay = momentum, decay
        groups: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        rest = []
        for name, parameter in named:
            if _is_layer_matrix(name, parameter):
                groups[tuple(parameter.shape)].append(parameter)
            else:
                rest.append(parameter)
        self._groups = [(members, torch.zeros(len(members), *shape)) for shape, members in groups.items()]
        self._adamw = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._adamw.param_groups[0]["lr"] = learning_rate
        self._adamw.step()
        for members, velocity in self._groups:
            # A frozen part of the model has no gradients and must not drift on old momentum.
            live = [(index, member.grad) for index, member in enumerate(members) if member.grad is not None]
            if not live:
                continue
            rows = torch.tensor([index for index, _ in live])
            gradient = torch.stack([gradient for _, gradient in live])
            speed = velocity[rows].lerp(gradient, 1 - self._momentum)
            velocity[rows] = speed
            update = gradient.lerp(speed, self._momentum)  # Nesterov
            tall = update.shape[-2] > update.shape[-1]
            update = _orthogonalised(update.mT).mT if tall else _orthogonalised(update)
            # The root-mean-square of AdamW's updates, so both halves share one learning rate.
            scale = 0.2 * math.sqrt(max(update.shape[-2:]))
            for (index, _), direction in zip(live, update, strict=True):
                members[index].mul_(1 - learning_rate * self._decay).add_(direction, alpha=-learning_rate * scale)
        for parameter in self.parameters:
            parameter.grad = None
