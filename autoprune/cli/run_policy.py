"""`autoprune run`: answer a question about an image with a policy attached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.output import JsonFlag, console, emit, notes


def run(
    policy: Annotated[str, typer.Argument(help="models:/NAME@alias, a folder, a YAML file or a catalog name.")],
    image: Annotated[list[Path], typer.Option(help="An image file; may be given several times.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub id; default: the one the policy was made for.")
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    figure: Annotated[Path | None, typer.Option(help="Draw the kept tokens on the image into this file.")] = None,
    parity: Annotated[bool, typer.Option("--parity", help="Do as the method's release does.")] = False,
    json: JsonFlag = False,
) -> None:
    """Answer from an image and a prompt, and say how many visual tokens each layer kept."""
    from autoprune import api

    answer = api.answer(
        policy,
        [str(path) for path in image],
        prompt,
        model=model,
        tracking_uri=tracking_uri,
        max_new_tokens=max_new_tokens,
        device=device,
        figure=figure,
        parity=parity,
    )
    if json:
        emit(answer)
        return
    console().print(answer["answer"], markup=False)
    lengths = " ".join(str(n) for n in answer["tokens_per_layer"])
    notes().print(
        f"{answer['policy']}: {answer['tokens']} visual tokens; per layer: {lengths}; budget {answer['budget']:.3f}"
    )
