"""Answer a question about images with a policy attached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.api.policies import load_policy
from autoprune.api.speaking import picture, speaker
from autoprune.api.state import check_figure
from autoprune.errors import BadInput


def answer(
    policy: str,
    images: Sequence[str],
    prompt: str,
    *,
    model: str | None = None,
    tracking_uri: str | None = None,
    max_new_tokens: int = 64,
    device: str = "cpu",
    figure: Path | None = None,
    parity: bool = False,
) -> dict[str, Any]:
    """-> `answer`, `policy`, `tokens` (N), `tokens_per_layer` (entering each decoder layer), `budget`.

    The model is `model`, else the one the policy was made for. `parity`: as the method's release does it.
    `figure` gets a picture of what was kept.
    """
    if not prompt.strip():
        raise BadInput("the prompt is empty: ask something about the image", code="empty-value")
    check_figure(figure)
    loaded = load_policy(policy, tracking_uri=tracking_uri)
    pictures = [picture(path) for path in images]
    ready = speaker(loaded, model, device, "--model")

    import torch

    inputs = ready.inputs(pictures, prompt)
    with loaded.attach(ready.network, parity=parity, prompt=prompt) as session, torch.inference_mode():
        made = ready.network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        run = session.run
        if figure is not None:
            _draw(session, pictures[0], figure)
        lengths = [int(layer[0]) for layer in run.lengths]
        tokens = int(run.n[0])
    return {
        "answer": ready.text(inputs, made),
        "policy": policy,
        "tokens": tokens,
        "tokens_per_layer": lengths,
        "budget": sum(lengths) / (len(lengths) * tokens),
    }


def _draw(session: Any, picture: Any, figure: Path) -> None:
    """The kept tokens of the first image, once per layer where something was dropped."""
    from autoprune.figures import kept_tokens_figure, save

    side = round(int(session.run.n[0]) ** 0.5)
    if side * side != int(session.run.n[0]):
        raise BadInput("--figure draws one image whose tokens form a square grid; this input has another layout")
    kept, before = {}, side * side
    for layer, lengths in enumerate(session.run.lengths):
        if int(lengths[0]) != before:
            before = int(lengths[0])
            chosen = {int(i) for i in session.run.kept(layer, 0)}
            kept[f"from layer {layer}"] = [i in chosen for i in range(side * side)]
    save(kept_tokens_figure(picture, (side, side), kept), figure)
