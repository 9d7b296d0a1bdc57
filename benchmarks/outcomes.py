"""A pool of outcomes: every policy on every image, measured once. Plain arrays and JSON, no pickle.

`pool.npz`: `right` [P, ceil(N / 8)] uint8, the bits of `exact_match`; `nll` [P, N] float16, `answer_nll`;
`costs` [P, 3] float64, the means of `COSTS`. P policies, the first of them the unpruned model; N records, each with an
image of its own. `pool.json`: the recipe, the policies in the order of the rows, and what was left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import BadInput

SCORES = ("exact_match", "answer_nll")
COSTS = ("prefill_flops", "budget", "kv_bytes")
BASELINE = "baseline"


@dataclass(frozen=True)
class Pool:
    """P policies on N images, one question each. `policies[0]` is the unpruned model; `right` and `nll` are [P, N],
    `costs` [P, len(COSTS)]; `types` are the questions' kinds."""

    recipe: Mapping[str, Any]
    policies: tuple[Mapping[str, Any], ...]
    types: tuple[str, ...]
    right: NDArray[np.float64]
    nll: NDArray[np.float64]
    costs: NDArray[np.float64]
    missing: tuple[Mapping[str, Any], ...] = ()

    @property
    def images(self) -> int:
        return int(self.right.shape[1])

    def rows(self, kind: str, target: str | None = None) -> list[int]:
        """The rows of the policies of a kind (and scaled to a budget)."""
        return [i for i, p in enumerate(self.policies) if p["kind"] == kind and target in (None, p["target"])]

    def save(self, folder: Path) -> list[Path]:
        """pool.npz and pool.json; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays, index = folder / "pool.npz", folder / "pool.json"
        bits = np.packbits(self.right.astype(bool), axis=1)
        np.savez_compressed(arrays, right=bits, nll=self.nll.astype(np.float16), costs=self.costs)
        described = {
            "recipe": dict(self.recipe),
            "images": self.images,
            "types": list(self.types),
            "policies": list(self.policies),
            "missing": list(self.missing),
        }
        index.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        return [arrays, index]

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """Raises BadInput for a folder without a pool, or whose two files do not belong together."""
        try:
            index = json.loads((folder / "pool.json").read_text())
            with np.load(folder / "pool.npz", allow_pickle=False) as arrays:
                bits, nll, costs = arrays["right"], arrays["nll"], arrays["costs"]
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"no pool in {folder}: {error}; make one with python -m benchmarks.pool") from error
        images = index["images"]
        if not len(bits) == len(nll) == len(costs) == len(index["policies"]) or nll.shape[1] != images:
            raise BadInput(f"{folder}: pool.npz and pool.json are of different pools")
        right = np.unpackbits(bits, axis=1, count=images).astype(np.float64)
        return cls(
            index["recipe"],
            tuple(index["policies"]),
            tuple(index["types"]),
            right,
            nll.astype(np.float64),
            costs,
            tuple(index["missing"]),
        )


@dataclass(frozen=True)
class Part:
    """One policy on one chunk of the images, as a file. `reason` says why there are no numbers."""

    right: NDArray[np.float64]
    nll: NDArray[np.float64]
    costs: NDArray[np.float64]
    reason: str = ""

    @classmethod
    def failed(cls, reason: str) -> Part:
        nothing = np.zeros(0)
        return cls(nothing, nothing, nothing, reason)

    def save(self, path: Path) -> None:
        """Written beside its place first: a kill leaves either nothing or all of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        with beside.open("wb") as file:
            np.savez(
                file,
                right=np.packbits(self.right.astype(bool)),
                nll=self.nll.astype(np.float16),
                costs=self.costs,
                count=np.asarray(len(self.right)),
                reason=np.asarray(self.reason),
            )
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Part:
        with np.load(path, allow_pickle=False) as file:
            count = int(file["count"])
            right = np.unpackbits(file["right"], count=count).astype(np.float64)
            return cls(right, file["nll"].astype(np.float64), file["costs"], str(file["reason"]))


def joined(parts: Sequence[Part]) -> Part:
    """The chunks of one policy as one; costs are means over records. A chunk without numbers leaves none."""
    reasons = [part.reason for part in parts if part.reason]
    if reasons:
        return Part.failed(reasons[0])
    sizes = [len(part.right) for part in parts]
    return Part(
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.nll for part in parts]),
        np.average([part.costs for part in parts], axis=0, weights=sizes),
    )
