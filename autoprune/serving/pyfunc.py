"""A registered version as an MLflow model: `mlflow.pyfunc.load_model("models:/x@champion").predict(…)` answers.

MLflow imports this module by the name that stands in the version's `MLmodel`; the version itself holds no code and
nothing that is unpickled.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api.policies import load_policy
from autoprune.api.speaking import picture, speaker
from autoprune.errors import BadInput
from autoprune.pruning.request import using
from autoprune.registry.flavor import CONFIG, NEW_TOKENS

if TYPE_CHECKING:
    from PIL.Image import Image


class AnsweringPolicy:
    """The model that the policy was made for, pruned, behind MLflow's `predict`."""

    def __init__(self, folder: str, settings: Mapping[str, Any]) -> None:
        """`settings` are `registry.flavor.CONFIG`'s keys. Raises BadInput where policy or model cannot be used."""
        self.policy = load_policy(folder, budget=settings["budget"])
        self._files = bool(settings["files"])
        self._speaker = speaker(self.policy, settings["model"], str(settings["device"]), "model_config={'model': …}")
        self._attached = self.policy.attach(self._speaker.network, strict=bool(settings["strict"]), prompt="")
        self._one = threading.Lock()  # MLflow's server calls from many threads; a device answers one at a time anyway

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """One answer for each question, in order.

        A question is `{"image": …, "prompt": …}` (or `images`, a list): a path, bytes, a `data:` URI or a PIL image.
        Questions come as one mapping, a list of mappings, a mapping of equally long lists, or a DataFrame.
        `params`: `max_new_tokens`. Raises BadInput that names the question.
        """
        tokens = int((params or {}).get("max_new_tokens", NEW_TOKENS))
        if tokens < 1:
            raise BadInput(f"max_new_tokens={tokens}: at least 1", code="out-of-range")
        asked = [self._read(i, question) for i, question in enumerate(questions(model_input))]
        return [self._answer(pictures, prompt, tokens) for pictures, prompt in asked]

    def _answer(self, pictures: Sequence[Image], prompt: str, tokens: int) -> str:
        import torch

        with self._one, using(prompt=prompt), torch.inference_mode():
            inputs = self._speaker.inputs(pictures, prompt)
            made = self._speaker.network.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return self._speaker.text(inputs, made)

    def _read(self, number: int, question: Mapping[str, Any]) -> tuple[list[Image], str]:
        where = f"question {number}"
        prompt = question.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadInput(f"{where}: 'prompt' must be text", code="empty-value")
        given = question.get("images") if "images" in question else [question.get("image")]
        if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
            raise BadInput(f"{where}: 'images' must be a list of images", code="wrong-type")
        if not self._files and any(isinstance(one, Path) or (isinstance(one, str) and not _data(one)) for one in given):
            raise BadInput(f"{where}: image files are not read here (files: false); send bytes or a data: URI")
        try:
            return [picture(one) for one in given], prompt
        except BadInput as error:
            raise BadInput(f"{where}: {error}", code=error.code) from error


def questions(data: Any) -> list[Mapping[str, Any]]:
    """The rows of whatever `predict` is given. Raises BadInput for what has none."""
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a DataFrame, without importing pandas
        return list(data.to_dict("records"))
    if isinstance(data, Mapping):
        if not isinstance(data.get("prompt"), Sequence) or isinstance(data["prompt"], str):
            return [data]
        columns = {key: list(values) for key, values in data.items()}
        if len({len(values) for values in columns.values()}) != 1:
            raise BadInput("the columns of a mapping of lists must be equally long", code="wrong-form")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(data, Sequence) and not isinstance(data, str | bytes) and all(isinstance(q, Mapping) for q in data):
        return list(data)
    raise BadInput(
        "predict takes {'image': …, 'prompt': …}, a list of those, a mapping of lists, or a DataFrame with these "
        f"columns; not {type(data).__name__}",
        code="wrong-type",
    )


def _data(text: str) -> bool:
    return text.startswith("data:")


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> AnsweringPolicy:
    """What MLflow calls with the version's folder and `model_config`."""
    return AnsweringPolicy(path, {**CONFIG, **(model_config or {})})
