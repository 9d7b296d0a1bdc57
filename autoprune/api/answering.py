"""Answer a question about images with a policy attached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.api.policies import load_policy
from autoprune.api.state import check_device, check_figure
from autoprune.api.study import weights_folder
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
    check_device(device)
    check_figure(figure)
    loaded = load_policy(policy, tracking_uri=tracking_uri)
    made_for = loaded.metadata.get("model", {})
    name = model or made_for.get("path")
    if not name:
        raise BadInput(f"{policy} was made for no particular model: name one with --model", code="needs-model")
    if model is None and not Path(name).is_dir() and made_for.get("name"):
        name = str(made_for["name"])
    pictures = [_image(path) for path in images]

    import torch

    from autoprune.measures.loading import load_model

    folder = weights_folder(str(name), made_for.get("revision") if model is None else None)
    measured = loaded.metadata.get("environment", {})
    attention = measured.get("attn_implementation", "sdpa")
    network, processor = load_model(folder, measured.get("dtype", "float32"), device, attention)
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    start = processor.tokenizer.bos_token
    special = not (start and text.startswith(start))
    nested = [pictures]  # by prompt, as a chat's are: OneVision cuts an image only where it is its prompt's only one
    inputs = processor(images=nested, text=[text], add_special_tokens=special, return_tensors="pt").to(device)
    with loaded.attach(network, parity=parity) as session, torch.inference_mode():
        made = network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        run = session.run
        if figure is not None:
            _draw(session, pictures[0], figure)
        lengths = [int(layer[0]) for layer in run.lengths]
        tokens = int(run.n[0])
    return {
        "answer": processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True),
        "policy": policy,
        "tokens": tokens,
        "tokens_per_layer": lengths,
        "budget": sum(lengths) / (len(lengths) * tokens),
    }


def _image(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        reason = getattr(error, "strerror", None) or "it holds no image of a known format"
        raise BadInput(f"{path} cannot be read as an image: {reason}", code="unreadable-image") from error


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
