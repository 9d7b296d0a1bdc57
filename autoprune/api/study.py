"""From a checked spec to everything one study is: its identity, its workers, its plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from autoprune.api.profiling import profiled, profiling
from autoprune.api.proposals import PARTS, Proposals, candidate
from autoprune.api.rungs import rungs
from autoprune.calibration.digest import calibration_digest
from autoprune.calibration.records import Record, load_records
from autoprune.calibration.splits import Splits, split
from autoprune.check import Checked, is_hub_id, model_name, records_source
from autoprune.document.yaml import read
from autoprune.errors import BadInput
from autoprune.measures import registry as measures
from autoprune.measures.context import evaluation_context
from autoprune.measures.prefix_cache import default_size
from autoprune.measures.requests import requested, with_defaults
from autoprune.models import fingerprint, read_geometry
from autoprune.models.fingerprint import Fingerprint
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.scale import at_budget
from autoprune.policy.space import BoundSpace
from autoprune.ports import CalibrationSource, EvaluationContext, MeasureRequest, WorkerSpec
from autoprune.redact import plain
from autoprune.search.plan import Reference, StudyPlan
from autoprune.search.sizing import images_for


def digest_of(content: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def weights_folder(name: str, revision: str | None) -> str:
    """The local folder of a model. A hub id is fetched into the hub's cache if it is not there. Raises BadInput."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if not is_hub_id(name):
        raise BadInput(f"no such model folder: {name}", code="no-such-model")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return str(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(
            f"model {name!r} is neither a folder nor reachable on the hub: {error}", code="no-such-model"
        ) from error


@dataclass(frozen=True)
class Prepared:
    """One study before it runs. Reading the records, hashing the weights: done once, on demand. `known`: policies that
    are measured before anything is proposed, beside the space's warm starts."""

    checked: Checked
    known: tuple[Policy, ...] = ()

    @cached_property
    def folder(self) -> str:
        return weights_folder(model_name(self.checked.loaded), self.checked.loaded.spec.model.revision)

    @cached_property
    def geometry(self) -> Geometry:
        return self.checked.geometry or read_geometry(self.folder)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.folder, self.checked.loaded.spec.model.revision)

    @cached_property
    def records(self) -> tuple[Record, ...]:
        loaded = self.checked.loaded
        images = loaded.spec.calibration.images
        return load_records(records_source(loaded), None if images is None else str(loaded.path(images)))

    @cached_property
    def calibration(self) -> CalibrationSource:
        loaded = self.checked.loaded
        asked, images = loaded.spec.calibration, loaded.spec.calibration.images
        holdout = asked.holdout if isinstance(asked.holdout, int) else self._largest_holdout()
        return CalibrationSource(
            records=records_source(loaded),
            images=None if images is None else str(loaded.path(images)),
            search=asked.search,
            holdout=holdout,
            stratify_by=asked.stratify_by,
            seed=asked.seed,
            digest=calibration_digest(self.records),
        )

    def _largest_holdout(self) -> int:
        """Every record whose image the search does not see."""
        asked = self.checked.loaded.spec.calibration
        from autoprune.calibration.splits import clusters

        chosen = split(self.records, asked.search, 0, asked.stratify_by, asked.seed)
        seen = {record.id for record in chosen.search}
        numbers = clusters(self.records)
        used = {number for record, number in zip(self.records, numbers, strict=True) if record.id in seen}
        left = sum(number not in used for number in numbers)
        if left < 2:
            raise BadInput(
                f"calibration: {asked.search} records to search leave {left} for the holdout", code="too-few-records"
            )
        return left

    @cached_property
    def splits(self) -> Splits:
        source = self.calibration
        return split(self.records, source.search, source.holdout, source.stratify_by, source.seed)

    @cached_property
    def tokens(self) -> int | None:
        """N, where every record has it in common."""
        counts = {len(record.images) for record in (*self.splits.search, *self.splits.holdout)}
        per_image = self.geometry.tokens_per_image
        return None if per_image is None or len(counts) != 1 else per_image * counts.pop()

    @cached_property
    def worker(self) -> WorkerSpec:
        model = self.checked.loaded.spec.model
        return WorkerSpec(
            model_path=self.folder,
            calibration=self.calibration,
            measures=self._measured,
            dtype=model.dtype,
            device=model.device,
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            batch_size=model.batch_size,
            cache=self._cache,
        )

    @property
    def _cache(self) -> int | None:
        """Bytes of each worker's cache. Ray's workers share what one would take by default."""
        spec = self.checked.loaded.spec
        workers = spec.search.executor.pool.workers
        if spec.model.cache == "auto":
            return default_size(workers) if workers > 1 else None
        return spec.model.cache

    @property
    def _measured(self) -> tuple[MeasureRequest, ...]:
        """The study's measures, and what only its holdout, screen or profile looks at."""
        screen = self.checked.screen
        more = [*self.held_out, *([] if screen is None else [screen.measure])]
        more += [request for signal in profiled(self.checked, self.geometry.depth).values() for request in signal]
        return tuple({m.label: m for m in (*self.checked.measures, *more)}.values())

    @cached_property
    def held_out(self) -> tuple[MeasureRequest, ...]:
        """An accuracy for the holdout where no goal is one, so that every report can say what the others are worth."""
        if any(measures.is_accuracy(one.name) for one in self.checked.measures):
            return ()
        answered = all(record.answer is not None for record in self.records)
        return (with_defaults("exact_match" if answered else "loyalty"),)

    @cached_property
    def context(self) -> EvaluationContext:
        return evaluation_context(self.worker)

    @cached_property
    def spaces(self) -> dict[str, BoundSpace]:
        """By arm; one, under the empty name, where the space has no arms."""
        return self.checked.bound(self.geometry)

    @property
    def space(self) -> BoundSpace:
        """The first arm's, or the only one."""
        return next(iter(self.spaces.values()))

    @property
    def _space_digest(self) -> str:
        if len(self.spaces) == 1:
            return self.space.digest
        return digest_of([[arm, space.digest] for arm, space in self.spaces.items()])

    @cached_property
    def identity(self) -> str:
        """Everything that makes this study this study: not trials, time, executor, output or library versions.

        References count with the space (they come first and fix where hypervolume is measured from), and so do seed,
        strategy and confidence: the same study under another of these would be a mixture that nobody could repeat.
        """
        spec = self.checked.loaded.spec
        return digest_of(
            {
                "space": self._space_digest,
                "references": [reference.candidate.digest for reference in self.references],
                "search": [self.checked.strategy.name, self.checked.strategy.options, spec.search.seed],
                **self._looks(),
                "confidence": spec.certify.confidence,
                "objectives": [[o.direction, asdict(o.measure)] for o in self.checked.objectives],
                "constraints": [asdict(c) for c in self.checked.constraints],
                "context": {**asdict(self.context), "libraries": None},
                **({"trust_remote_code": True} if spec.model.trust_remote_code else {}),
            }
        )

    def _looks(self) -> dict[str, Any]:
        """Rungs and screen in a study that has some, and what narrows its layers."""
        climbed, profile = rungs(self.checked), profiling(self.checked, self.geometry.depth)
        looks: dict[str, Any] = {"rungs": [asdict(rung) for rung in climbed]} if climbed else {}
        return looks if profile is None else {**looks, "layers": asdict(profile)}

    @property
    def study_id(self) -> str:
        return f"{self.checked.loaded.spec.name}-{self.identity[:12]}"

    @cached_property
    def proposals(self) -> Mapping[str, Proposals]:
        """Of each arm."""
        return {arm: Proposals(space, self.geometry, self.tokens) for arm, space in self.spaces.items()}

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """What was known before, as it is, then the space's warm starts, scaled to the middle of its (first) budget
        range where it has one; each in the first arm that has it, and once."""
        made: dict[str, Reference] = {}
        for policy in (*self.known, *self._warm_starts()):
            name = policy.name
            expressed = ((arm, known.expressed(policy)) for arm, known in self.proposals.items())
            arm, values = next(((arm, v) for arm, v in expressed if v is not None), ("", None))
            reference = Reference(candidate(policy, self.geometry, self.tokens, name), values, arm)
            made.setdefault(reference.candidate.digest, reference)
        return tuple(made.values())

    def _warm_starts(self) -> Iterator[Policy]:
        folders = (self.checked.loaded.folder / "policies",)
        for name in self.space.warm_start:
            policy = Policy.from_source(read(catalog.find("policies", name, folders)), PARTS)
            budget = next((space.budget for space in self.spaces.values() if space.budget is not None), None)
            if budget is not None:
                low, high = (Fraction(b).limit_denominator(1000) for b in budget)
                with suppress(Infeasible):  # it cannot get there at its published places: then as published
                    policy = at_budget(policy, (low + high) / 2, self.geometry)
            yield replace(policy, name=name)

    def plan(self, trials: int | None, storage: str | None) -> StudyPlan:
        """What the driver is given."""
        spec, checked = self.checked.loaded.spec, self.checked
        costs = [checked.select.label, "prefill_flops", "budget", "kv_bytes"]
        labels = tuple(m.label for m in checked.measures)
        arms = self.proposals
        first = next(iter(arms))
        return StudyPlan(
            study_id=self.study_id,
            proposals=arms[first],
            first_arm=first,
            more_arms={arm: proposals for arm, proposals in arms.items() if arm != first},
            references=self.references,
            objectives=checked.objectives,
            constraints=checked.constraints,
            measures=labels,
            trials=trials or spec.search.trials,
            time_limit=spec.search.time,
            seed=spec.search.seed,
            strategy=checked.strategy.name,
            options=checked.strategy.options,
            synchronous=spec.search.synchronous,
            storage=storage,
            context=self.context,
            confidence=spec.certify.confidence,
            select=checked.select,
            costs=tuple(dict.fromkeys(c for c in costs if c in labels)),
            holdout_auto=spec.calibration.holdout == "auto",
            holdout_records=len(self.splits.holdout),
            better={m.label: info.direction for m in checked.measures if (info := measures.find(m.name)) is not None},
            passes={label: one.taken for label, one in requested(self._measured).items() if one.taken is not None},
            rungs=rungs(checked),
            profiling=profiling(checked, self.geometry.depth),
            accuracies=tuple(m.label for m in (*checked.measures, *self.held_out) if measures.is_accuracy(m.name)),
            held_out=tuple(m.label for m in self.held_out),
        )

    def holdout_remark(self) -> str | None:
        """Said before the search: the holdout is probably too small for a constraint.

        Assumes that pruned and unpruned answers differ on twice the share of records that the bound allows to lose.
        """
        images = len(set(self.splits.holdout_images))
        confidence = self.checked.loaded.spec.certify.confidence
        for constraint in self.checked.constraints:
            info = measures.find(constraint.measure.name)
            if info is None or info.bounded is None:
                continue
            lost = 1 - constraint.scale - constraint.shift
            needed = images_for(constraint, 1.0, 2 * lost, confidence) if 0 < lost < 1 else None
            if needed is not None and needed > images:
                return (
                    f"the holdout has {images} {'image' if images == 1 else 'images'}; certifying '{constraint.text}' "
                    f"typically needs about {needed}, more where the unpruned model is often wrong: policies near the "
                    f"bound may stay undecided"
                )
        return None

    def resolved(self) -> dict[str, Any]:
        """The spec with everything filled in, as MLflow and the store keep it."""
        spec = self.checked.loaded.spec.model_dump(mode="json", by_alias=True)
        return {
            **plain(spec),
            "search_space": self.checked.loaded.space_source.data,
            "objectives": [asdict(o) for o in self.checked.objectives],
            "constraints": [asdict(c) for c in self.checked.constraints],
            "calibration": asdict(self.calibration),
            "tokens": self.tokens,
            "digests": self.digests(),
        }

    def digests(self) -> dict[str, str]:
        """What the study depends on, one digest each."""
        return {
            "study": self.identity,
            "space": self._space_digest,
            "model.architecture": self.fingerprint.architecture,
            "model.weights": self.fingerprint.weights,
            "calibration": self.calibration.digest,
        }
