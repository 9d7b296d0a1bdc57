"""Picks that work in a partition of the tokens: who gets how much, and who is chosen there."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any, get_args

import pytest
import torch
from part_worlds import ALL, COUNTS, RANDOM, SELECTORS, World, identifier, plan_stage, variants
from pruning_support import Sample, generate, inputs, model, policy, single, stage

from autoprune.models.family import ImageLayout
from autoprune.policy.resolved import Part
from autoprune.pruning import parts
from autoprune.pruning.grouping import GroupConfig, allocate, select
from autoprune.pruning.plan import PlannedPick, Use, evaluate
from autoprune.pruning.session import Session
from autoprune.pruning.view import Quota

SPLITS = get_args(GroupConfig.model_fields["split"].annotation)
GROUPS = [replace(p, params={**p.params, "split": s}) for p in variants("group") if p.name != "head" for s in SPLITS]
GROUPS = list({str(p): p for p in GROUPS}.values())


def use(part: Part) -> Use:
    info = parts.find("group", part.name)
    assert info is not None
    config: Any = info.config.model_validate(dict(part.params))
    return Use(info.run, config)


def shares(total: int, sizes: list[int], weights: list[float]) -> list[int]:
    """Largest remainder over the groups that are not full, in plain fractions."""
    full = [size == 0 for size in sizes]
    while True:
        left = total - sum(s for s, f in zip(sizes, full, strict=True) if f)
        there = [Fraction(w) if not f else Fraction(0) for w, f in zip(weights, full, strict=True)]
        if not sum(there):
            there = [Fraction(int(not f)) for f in full]
        ideal = [left * w / sum(there) if sum(there) else Fraction(0) for w in there]
        now = [f or q >= s for f, q, s in zip(full, ideal, sizes, strict=True)]
        if now == full:
            break
        full = now
    given = [s if f else int(q) for s, f, q in zip(sizes, full, ideal, strict=True)]
    order = sorted((i for i, f in enumerate(full) if not f), key=lambda i: (int(ideal[i]) - ideal[i], i))
    for i in order[: total - sum(given)]:
        given[i] += 1
    return given


def test_shares_are_those_of_the_largest_remainder() -> None:
    rng = random.Random(5)
    for _ in range(300):
        groups = rng.randint(1, 7)
        sizes = [rng.choice((0, 1, 2, 5, 9)) for _ in range(groups)]
        weights = [float(rng.choice((0, 1, 1, 2, 3, 8))) for _ in range(groups)]
        total = rng.randint(0, sum(sizes))
        given = allocate(torch.tensor([total]), torch.tensor([sizes]), torch.tensor([weights]))
        assert given[0].tolist() == shares(total, sizes, weights)


def next_layout() -> ImageLayout:
    """An overview of 2x2, then two tiles of 2x2 side by side with a newline after each row."""
    source = torch.tensor([0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1])
    segment = torch.tensor([0] * 4 + [1] * 10)
    row = torch.tensor([0, 0, 1, 1] + [0] * 5 + [1] * 5)
    column = torch.tensor([0, 1, 0, 1] + [0, 1, 2, 3, 4] * 2)
    return ImageLayout(source, segment, row, column, 3)


@pytest.mark.parametrize(
    ("part", "ids"),
    [
        (Part("image"), [0] * 14),
        (Part("row"), [0, 0, 1, 1] + [2] * 5 + [3] * 5),
        (Part("segment"), [0] * 4 + [1] * 10),
        (Part("tile"), [0] * 4 + [1, 1, 2, 2, 2, 1, 1, 2, 2, 2]),
        (Part("window", {"side": "1/2"}), [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 7]),
        (Part("window", {"side": "1"}), [0] * 4 + [1] * 10),
    ],
    ids=identifier,
)
def test_groups_follow_the_layout(part: Part, ids: list[int]) -> None:
    one = use(part)
    assert one.run(next_layout(), one.config).tolist() == ids


def pairs() -> list[Any]:
    """Every group under `top`, every selector in windows; the whole matrix with the other tests marked `full`."""
    seen: set[str] = set()
    found = []
    for selector in SELECTORS:
        for group in GROUPS:
            default = group == GROUPS[-4] and selector.name not in seen
            marks = () if selector.name == "top" or default else (pytest.mark.full,)
            seen |= {selector.name} if default else set()
            found.append(pytest.param(selector, group, id=f"{identifier(selector)}-{identifier(group)}", marks=marks))
    return found


@pytest.mark.parametrize(("selector", "group"), pairs())
def test_a_pick_in_groups_is_exact_repeatable_and_batch_is_singles(selector: Part, group: Part) -> None:
    planned = plan_stage(RANDOM, selector)
    assert planned is not None
    pick = PlannedPick(planned.picks[0].score, planned.picks[0].select, None, use(group))

    def choose(world: World, wanted: list[int]) -> torch.Tensor:
        view = world.view(planned)
        scores = None if pick.score is None else evaluate(pick.score, view)
        taken = view.candidates & (view.tokens % 5 == 2)
        free = view.candidates & ~taken
        chosen = select(pick, view, scores, Quota(torch.tensor(wanted), max(wanted)), free, taken)
        assert chosen.sum(1).tolist() == wanted
        assert not (chosen & ~free).any()
        return chosen

    wanted = [5, 20, 3]
    together = choose(ALL, wanted)
    assert torch.equal(together, choose(ALL, wanted))
    for b, count in enumerate(COUNTS):
        assert torch.equal(together[b, :count], choose(World([b]), [wanted[b]])[0, :count])


@pytest.mark.parametrize("split", ["equal", "proportional"])
def test_top_in_groups_takes_the_best_of_every_group(split: str) -> None:
    planned = plan_stage(RANDOM, Part("top"))
    assert planned is not None
    pick = PlannedPick(planned.picks[0].score, planned.picks[0].select, None, use(Part("row", {"split": split})))
    view = ALL.view(planned)
    assert pick.score is not None
    scores = evaluate(pick.score, view)
    wanted = [7, 17, 4]
    chosen = select(pick, view, scores, Quota(torch.tensor(wanted), 17), view.candidates, view.candidates & False)
    for b, count in enumerate(COUNTS):
        rows: dict[int, list[int]] = {row: [] for row in range(-(-count // 6))}
        for token in range(count):
            if view.candidates[b, token]:
                rows[token // 6].append(token)
        sums = [sum(float(scores[b, t]) for t in tokens) for tokens in rows.values()]
        given = shares(wanted[b], [len(t) for t in rows.values()], [1.0] * len(rows) if split == "equal" else sums)
        expected = [
            t
            for tokens, share in zip(rows.values(), given, strict=True)
            for t in sorted(tokens, key=lambda t: (-float(scores[b, t]), t))[:share]
        ]
        assert chosen[b].nonzero().flatten().tolist() == sorted(expected)


def test_whole_rows_are_taken_by_their_mean() -> None:
    planned = plan_stage(RANDOM, Part("top"))
    assert planned is not None
    pick = PlannedPick(planned.picks[0].score, planned.picks[0].select, None, use(Part("row", {"split": "whole"})))
    world = World([1])
    view = world.view(planned, protect=False)
    assert pick.score is not None
    scores = evaluate(pick.score, view)
    chosen = select(pick, view, scores, Quota(torch.tensor([15]), 15), view.candidates, view.candidates & False)
    best = scores[0].view(6, 6).mean(1).argsort(descending=True)[:3].tolist()
    counts = chosen[0].view(6, 6).sum(1).tolist()
    assert [counts[row] for row in best] == [6, 6, 3]
    assert chosen[0].view(6, 6)[best[2], :3].all()


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("group", ["tile", ("window", {"side": "1/2"}), ("row", {"split": "proportional"})], ids=str)
def test_on_a_model_batches_are_singles_and_the_budget_is_met(family: str, group: Any) -> None:
    made = model(family)
    samples = [Sample(9, ((48, 96),)), Sample(14, ((96, 96), (48, 96))), Sample(6, ())]
    batch = inputs(made, samples)
    one = stage(2, "1/3", "random")
    grouped = Part(group) if isinstance(group, str) else Part(*group)
    resolved = policy(replace(one, picks=(replace(one.picks[0], group=grouped),)))
    with Session(made, resolved) as session:
        together = generate(made, batch, steps=3)
        run = session.run
    for b, n in enumerate(run.n):
        expected = (2 * n + 3) // 6
        assert run.lengths[2][b] == (max(expected, 1) if n else 0)
    for b in range(len(samples)):
        with Session(made, resolved):
            alone = generate(made, single(batch, samples, b), steps=3)
        for step, logits in enumerate(alone.logits):
            assert torch.allclose(together.logits[step][b], logits[0], atol=1e-4)
