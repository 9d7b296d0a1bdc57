"""Which Optuna sampler proposes the next point, and from which seed.

A sampler is built anew for every proposal and seeded with (study seed, how many proposals came before), so it holds no
state beside the study: a search that was interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseGASampler, BaseSampler

    from autoprune.policy.parameters import Parameter
    from autoprune.search.strategy import SamplerKind

SamplerName = Literal["gp", "tpe", "nsga2", "nsga3", "random"]

GP_DIMENSIONS = 15  # beyond these the Gaussian process is slow and no better than TPE
GP_TRIALS = 200


def choose(kind: SamplerKind, dimensions: int, trials: int, objectives: int) -> SamplerName:
    """The rule: a Gaussian process for small studies of few dimensions, multivariate TPE otherwise; NSGA-III where
    there are more than two objectives to spread over."""
    if kind == "random":
        return "random"
    if kind == "evolutionary":
        return "nsga2" if objectives <= 2 else "nsga3"
    return "gp" if dimensions <= GP_DIMENSIONS and trials <= GP_TRIALS else "tpe"


def population(trials: int) -> int:
    """Of an evolutionary search: about eight generations, of 8 to 50."""
    return min(50, max(8, trials // 8))


def startup_trials(trials: int) -> int:
    """How many random (or reference) points come before the model of the objectives is trusted."""
    return min(10, max(8, trials // 4))


def build(name: SamplerName, seed: str, index: int, startup: int, size: int = 50) -> BaseSampler:
    """The sampler for proposal number `index` of a study; `size` of an evolutionary one's population."""
    from optuna import samplers

    own = int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 'multivariate' is still called experimental
        if name == "gp":
            return samplers.GPSampler(seed=own, n_startup_trials=startup, warn_independent_sampling=False)
        if name == "tpe":
            return samplers.TPESampler(
                seed=own, multivariate=True, n_startup_trials=startup, warn_independent_sampling=False
            )
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=own, population_size=size)
        if name == "nsga3":
            return samplers.NSGAIIISampler(seed=own, population_size=size)
        return samplers.RandomSampler(seed=own)


def evolution(objectives: int, trials: int) -> BaseGASampler:
    """The evolutionary sampler, to say which generation a point is in that it did not propose itself."""
    from optuna import samplers

    made = samplers.NSGAIISampler if objectives <= 2 else samplers.NSGAIIISampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the latter is still called experimental
        return made(seed=0, population_size=population(trials))


def generation_key(evolution: BaseGASampler) -> str:
    """Where Optuna 5 keeps a trial's generation, in its system attributes."""
    return f"{type(evolution).__name__}:generation"


class Dimensions:
    """The space's parameters as Optuna distributions, and values translated between the two.

    Optuna keeps scalar choices as they are; anything else (a nested part) is its JSON text there.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)

    def distributions(self) -> dict[str, BaseDistribution]:
        return {p.name: self._distribution(p) for p in self.parameters}

    def _distribution(self, parameter: Parameter) -> BaseDistribution:
        from optuna import distributions

        if parameter.kind == "choice":
            return distributions.CategoricalDistribution([_label(c) for c in parameter.choices])
        if parameter.kind == "int":
            return distributions.IntDistribution(int(_low(parameter)), int(_high(parameter)), log=parameter.log)
        return distributions.FloatDistribution(float(_low(parameter)), float(_high(parameter)), log=parameter.log)

    def to_optuna(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Values as Optuna stores them; None if one is missing, unknown or out of range (Optuna would not check)."""
        if set(values) != {p.name for p in self.parameters}:
            return None
        result: dict[str, Any] = {}
        for parameter in self.parameters:
            value = values[parameter.name]
            if parameter.kind == "choice":
                if value not in parameter.choices:
                    return None
                value = _label(value)
            elif not _low(parameter) <= value <= _high(parameter) or (parameter.kind == "int" and int(value) != value):
                return None
            result[parameter.name] = value
        return result

    def from_optuna(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as the space knows them."""
        choices = {p.name: {_label(c): c for c in p.choices} for p in self.parameters if p.kind == "choice"}
        return {name: choices[name][value] if name in choices else value for name, value in values.items()}


def _label(choice: Any) -> str | int | float | bool | None:
    if choice is None or isinstance(choice, (str, int, float, bool)):
        return choice
    return json.dumps(choice, sort_keys=True)


def _low(parameter: Parameter) -> float:
    return 0.0 if parameter.low is None else parameter.low


def _high(parameter: Parameter) -> float:
    return 1.0 if parameter.high is None else parameter.high
