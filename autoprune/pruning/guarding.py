"""A policy's guard at work in one prefill: which rule has fired for which sample, and what it changes.

A rule is looked at as soon as it can be told: the number of visual tokens and the prompt before the model runs, the
entropy of a stage's scores when they are there (the host waits for these). The first that fires decides for the rest of
the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy.gentler import gentler
from autoprune.policy.patterns import matches

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.policy.budget import Counting
    from autoprune.policy.guard import Guard
    from autoprune.policy.resolved import ResolvedPolicy
    from autoprune.pruning.prompt import Prompt


@dataclass(frozen=True)
class Texts:
    """Where the words of a prompt are had from: a tokenizer (or processor) that reads the model's ids, or the words
    themselves, of all samples or of each."""

    tokenizer: Any = None
    given: str | Sequence[str] | None = None

    def __bool__(self) -> bool:
        return self.tokenizer is not None or self.given is not None

    def of(self, prompt: Prompt, ids: Tensor) -> list[str]:
        """The prompt's words, of every sample. Read from ids [B, S], the host waits for the device."""
        rows = len(prompt.n)
        if isinstance(self.given, str):
            return [self.given] * rows
        if self.given is not None:  # generate repeats a sample's row for each of its beams
            times, over = divmod(rows, len(self.given)) if self.given else (0, rows)
            if over:
                raise BadInput(f"{len(self.given)} prompts were given for {rows} rows", code="bad-input")
            return [text for text in self.given for _ in range(times)]
        told = (prompt.asked & ~prompt.visual).tolist()
        decoded = ([i for i, there in zip(*row, strict=True) if there] for row in zip(ids.tolist(), told, strict=True))
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in decoded]


def asks_for_words(resolved: ResolvedPolicy) -> bool:
    """Whether a rule of the policy's guard looks at prompts."""
    return any(rule.when == "prompt" for rule in resolved.guard)


def refuse_wordless(resolved: ResolvedPolicy, texts: Texts) -> None:
    """Raises BadInput where the guard looks at prompts and nothing says what they are."""
    if asks_for_words(resolved) and not texts:
        raise BadInput(
            "the policy's guard has a rule about prompts: attach it with tokenizer=processor.tokenizer, "
            'or with prompt="…", and give each request its own by `autoprune.using(prompt="…")`',
            code="bad-input",
        )


class Guarding:
    """What the guard has decided in one prefill. `fired`: of each sample the number of the rule, None so far."""

    def __init__(self, guard: Guard, counting: list[Counting]) -> None:
        self.guard, self.counting = guard, counting
        self.fired: list[int | None] = [None] * len(counting)

    def begin(self, n: Sequence[int], words: Sequence[str] | None) -> None:
        """Before the model runs. n: visual tokens of each sample; a sample without any has nothing to guard."""
        for number, rule in enumerate(self.guard):
            for b, count in enumerate(n):
                if rule.when == "tokens_below":
                    fires = count < rule.limit
                elif rule.when == "prompt":
                    if words is None:
                        raise AutoPruneError("a rule of the guard looks at prompts, and there is none")
                    fires = matches(rule.pattern, words[b])
                else:
                    continue
                if fires and count:
                    self._fire(b, number)

    def watches(self, stage: int) -> bool:
        """Whether the scores of a stage are to be looked at."""
        return None in self.fired and any(r.when == "entropy_above" and r.stage == stage for r in self.guard)

    def scored(self, stage: int, scores: Tensor, among: Tensor) -> None:
        """A stage's scores [B, V] of `among` are there. The host waits for the device."""
        found = evenness(scores, among).tolist()
        for number, rule in enumerate(self.guard):
            if rule.when == "entropy_above" and rule.stage == stage:
                for b, entropy in enumerate(found):
                    if Fraction(entropy) > rule.limit:
                        self._fire(b, number)

    def labels(self) -> list[str]:
        """Of each sample the rule that has fired, empty where none has."""
        return ["" if number is None else self.guard[number].label for number in self.fired]

    def _fire(self, sample: int, number: int) -> None:
        if self.fired[sample] is None:
            self.fired[sample] = number
            self.counting[sample] = gentler(self.counting[sample], self.guard[number].use)


def evenness(scores: Tensor, among: Tensor) -> Tensor:
    """H / ln n, [B]: the entropy of scores [B, V] scaled to sum 1 over the n of `among`, 1 where they are all the same.

    Negative scores count as nothing; where nothing is above 0, or one token is alone, there is nothing to tell by: 1.
    """
    import torch

    tiny = torch.finfo(torch.float64).tiny
    together = scores.mean(2) if scores.ndim == 3 else scores
    share = together.double().masked_fill(~(among & together.isfinite()), 0).clamp(min=0)
    total = share.sum(1)
    share = share / total.clamp(min=tiny)[:, None]
    spread = -(share * share.clamp(min=tiny).log()).sum(1) / among.sum(1).clamp(min=2).double().log()
    return torch.where((total > 0) & (among.sum(1) > 1), spread.clamp(max=1), 1.0)
