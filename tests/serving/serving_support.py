"""What the tests of serving share: a tiny LLaVA, policies for it, and a registry to publish them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_families
import torch
from tiny_families import TINY, Batch, Sample, together

from autoprune.models import Fingerprint
from autoprune.policy.document import Policy
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.registry import aliases, names, policies
from autoprune.registry import client as mlflow_client

NAME = "pruner"


def model(name: str = "llava") -> Any:
    return tiny_families.model(name)


def inputs(*lengths: int) -> Batch:
    """A left-padded batch of prompts of so much text, with an image of 36 tokens each."""
    return together(TINY["llava"].rows([Sample(length) for length in lengths]))


def generate(made: Any, batch: Batch, steps: int, **options: Any) -> Any:
    with torch.no_grad():
        return made.generate(
            **batch,
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )


def difference(a: Any, b: Any) -> float:
    """Largest difference of logits over all steps."""
    return max(float((p - q).abs().max()) for p, q in zip(a.logits, b.logits, strict=True))


def made(keep: str, model_print: Fingerprint | None = None, guard: Any = (), **more: Any) -> LoadedPolicy:
    """A policy of one stage that keeps so much."""
    stage = {"at": "llm:2", "keep": keep, "score": {"llm_attention": {"from": "text"}}, **more}
    document = {"schema": "autoprune/policy/1", "name": f"keep {keep}", "stages": [stage], "guard": [*guard]}
    return LoadedPolicy(Policy.parse(document, RegisteredParts()), model_print, {"environment": {"dtype": "float32"}})


@dataclass
class Registry:
    """An MLflow registry of one policy."""

    folder: Path
    print: Fingerprint
    runs: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def publish(self, policy: LoadedPolicy, promote: bool = True) -> int:
        """A new version, the champion at once unless told otherwise."""
        client = mlflow_client.connect(self.uri)
        if not self.runs:
            experiment = client.create_experiment("e", artifact_location=self.artifacts.as_uri())
            self.runs.append(str(client.create_run(experiment).info.run_id))
        number = len(self.runs)
        saved = self.folder / f"policy-{number}"
        policy.save_pretrained(saved)
        tags = {names.DIGEST_TAG: f"{number:064x}", names.STUDY_TAG: "s"}
        version = policies.register(self.uri, NAME, saved, run_id=self.runs[0], tags=tags)
        self.runs.append(str(version))
        if promote:
            aliases.promote(self.uri, NAME, version)
        return version

    def certified(self, keep: str, **more: Any) -> LoadedPolicy:
        return made(keep, self.print, **more)
