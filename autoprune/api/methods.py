"""The catalog as a list of methods: where each prunes, what it must see of a run, how surely it follows its paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from autoprune.api.state import user_folders
from autoprune.document.yaml import read
from autoprune.policy import catalog
from autoprune.policy.document import Policy
from autoprune.policy.model import AnyStage, MixUse, ScoreUse, Stage, Use, uses
from autoprune.pruning import parts
from autoprune.pruning.lookup import RegisteredParts

BLIND = ("random", "stride", "lattice", "row", "pool", "top", "drop")  # parts that look at nothing themselves


# What `autoprune methods --json` gives of each method.
PROMISED = ("name", "class", "paper", "sites", "signal_tier", "confidence")


def list_methods() -> list[dict[str, Any]]:
    """`[{"name", "class", "paper", "sites", "signal_tier", "count_rules", "confidence", "assumed"}]`, the user's own
    `policies/` included.

    class: `baseline` looks at nothing, `vision` prunes before the language model, `llm` inside it, `both`. The signal
    tier is the dearest of a method's parts: T0 features, T1 one attention row, T2 text rows, T3 a whole map, T4 an
    extra pass. count_rules: what decides for each image how many tokens stay, in an adaptive method; empty where counts
    are fixed. assumed: what had to be guessed where the confidence is low.
    """
    listed, folders, known = [], user_folders("policies"), RegisteredParts()
    for name in catalog.names("policies", folders):
        policy = Policy.from_source(read(catalog.find("policies", name, folders)), known)
        where = sites(policy)
        listed.append(
            {
                "name": name,
                "class": _class(policy, where),
                "paper": policy.paper,
                "sites": where,
                "signal_tier": max((_tier(info, use) for info, use in _parts(policy)), default="T0"),
                "count_rules": _rules(policy),
                "confidence": policy.confidence,
                "assumed": policy.assumed,
            }
        )
    return listed


def sites(policy: Policy) -> list[str]:
    """Where its stages stand, as written; a range of layers as its two ends."""
    return list(dict.fromkeys(map(_site, policy.stages)))


def _site(stage: AnyStage) -> str:
    if isinstance(stage, Stage):
        return stage.at.text if stage.until is None else f"{stage.at.text}..{stage.until}"
    return f"llm:{stage.along[0]}..{stage.along[1]}"


def _rules(policy: Policy) -> list[str]:
    """The count rules that decide counts, not only how groups share a fixed one."""
    found = []
    for stage in policy.stages:
        if not isinstance(stage, Stage) or stage.keep.rule is None:
            continue
        shared = stage.until is not None and stage.keep.kind == "to_budget"  # the rule decides each layer's part
        if stage.keep.kind == "rule" or shared:
            found.append(stage.keep.rule.name)
    return list(dict.fromkeys(found))


def _class(policy: Policy, where: list[str]) -> str:
    if all(
        info.name in BLIND or (info.kind, info.name) in (("selector", "top"), ("merger", "drop"))
        for info, _ in _parts(policy)
    ):
        return "baseline"
    before = {site in ("projector", "input", "llm:0") for site in where}
    return "both" if len(before) == 2 else "vision" if before == {True} else "llm"


def _tier(info: parts.PartInfo, use: Use) -> parts.Tier:
    return info.config.model_validate(dict(use.params)).tier(info.tier)


def _parts(policy: Policy) -> Iterator[tuple[parts.PartInfo, Use]]:
    """Every part a policy uses, with its parameters."""
    for stage, pick in uses(policy.stages):
        wanted: list[tuple[parts.Kind, Use]] = [("selector", pick.select), ("merger", stage.merge)]
        if isinstance(stage, Stage) and stage.keep.rule is not None:
            wanted.append(("count", stage.keep.rule))
        if pick.score is not None:
            wanted += [("criterion", use) for use in _criteria(policy, pick.score)]
        for kind, use in wanted:
            found = parts.find(kind, use.name)
            if found is not None:
                yield found, use


def _criteria(policy: Policy, score: ScoreUse) -> Iterator[Use]:
    named = policy.criteria.get(score.name, score) if isinstance(score, Use) else score
    if not isinstance(named, MixUse):
        yield named
        return
    for name, _ in named.weights:
        yield from _criteria(policy, policy.criteria[name]) if name in policy.criteria else (Use(name),)


LEGEND = """\
# Methods

The catalog: published methods and baselines, each one YAML file in [`policies/`](../policies).
`autoprune methods --markdown` prints this page. What becomes of them at a given budget: [comparing.md](comparing.md).

- **class**: where a method prunes. `vision`: before the language model; `llm`: inside it; `both`; `baseline`: anywhere,
  but neither the picture nor the words decide what stays.
- **sites**: before which decoder layers, as numbers or parts of the depth; `projector` and `llm:0` (`input`) are before
  the first.
  `a..b`: before every layer from a to b, or along a curve between them.
- **tier**: the dearest thing that must be captured. T0: features; T1: one attention row of the vision tower or of
  the prompt's end; T2: rows of the text; T3: a whole attention map; T4: an extra pass.
- **count**: `fixed`, or the count rules by which an *adaptive* method decides for each image how many tokens stay.
- **confidence**: `high`: the document follows paper and release; `low`: something had to be guessed, see
  [below](#what-was-guessed).
"""


def markdown(listed: list[dict[str, Any]]) -> str:
    """The catalog as a page: `docs/methods.md`."""
    columns = ("method", "class", "sites", "tier", "count", "confidence", "paper")
    lines = [LEGEND, _line(columns), "|---" * len(columns) + "|"]
    for m in listed:
        name = f"[{m['name']}](../policies/{m['name']}.yaml)"
        count = ", ".join(m["count_rules"]) or "fixed"
        cells = (name, m["class"], ", ".join(m["sites"]), m["signal_tier"], count, m["confidence"], m["paper"])
        lines.append(_line(cells))
    lines += ["", "## What was guessed", ""]
    lines += [f"- **{m['name']}**: {m['assumed']}" for m in listed if m["assumed"]]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
