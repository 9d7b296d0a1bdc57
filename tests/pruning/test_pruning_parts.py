"""What every registered part must keep: exact K, raster order, determinism, batch = singles, protected survive."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from pydantic import ValidationError

from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.resolved import Keep, Mix, Part, ResolvedPick, ResolvedPolicy, ResolvedStage, Score
from autoprune.pruning import parts
from autoprune.pruning.decoder_signals import DecoderKeys, DecoderWalk, KeyNorm, NormedStates, ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures, EncoderKeys, EncoderWalk, Pixels
from autoprune.pruning.grouping import Partition, partition
from autoprune.pruning.pairs import Pairs
from autoprune.pruning.plan import PlannedStage, evaluate, make_plan
from autoprune.pruning.signals import Signal
from autoprune.pruning.stage import Reduction, reduce
from autoprune.pruning.tensors import rank
from autoprune.pruning.view import Grid, Quota, StageView, TextSpace

VISION = VisionGeometry(depth=3, width=12, heads=2, mlp=24, image_size=48, patch_size=8, has_cls=True)
GEOMETRY = Geometry("llava", 6, 16, 4, 2, 4, 32, 128, VISION, 36)
COUNTS = [23, 36, 11]  # visual tokens of the samples
TEXTS = [2, 4, 3]  # prompt rows of the samples
PROTECTED = [(4, 22), (), (0, 1, 10)]
WIDTHS: dict[type, int] = {EncoderFeatures: 12, ProjectedFeatures: 16, NormedStates: 16, EncoderKeys: 6, DecoderKeys: 4}
SITES: tuple[tuple[Literal["projector", "llm"], int], ...] = (("projector", 0), ("llm", 0), ("llm", 3))


def variants(kind: parts.Kind) -> Iterator[Part]:
    """Every part with every value of its enumerated parameters, as far as they go together; of the feature spaces, that
    are the same numbers to a part, one with all of the other parameters and each with their first values."""
    for name in parts.names(kind):
        info = parts.find(kind, name)
        assert info is not None
        if info.tier == "T4":  # an oracle for diagnostics, which policies cannot use
            continue
        choices = {}
        for key, field in info.config.model_fields.items():
            if get_origin(field.annotation) is Literal:
                choices[field.alias or key] = get_args(field.annotation)
        spaces = choices.pop("space", ())
        given = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
        first = {"space": info.config.model_fields["space"].default} if spaces else {}
        others = [{**given[0], "space": space} for space in spaces if space not in first.values()]
        for params in [{**values, **first} for values in given] + others:
            with contextlib.suppress(ValidationError):
                info.config.model_validate(params)
                yield Part(name, params)


def identifier(part: Any) -> str | None:
    return "-".join([part.name, *map(str, part.params.values())]) if isinstance(part, Part) else None


def plan_stage(
    score: Score | None,
    select: Part | None = None,
    merge: Part | None = None,
    where: int = 2,
    group: Part | None = None,
) -> PlannedStage | None:
    """The stage bound to the test geometry, or None where the part is refused at this site."""
    site, layer = SITES[where]
    picks = (ResolvedPick(score, select or Part("stride"), group=group),)
    stage = ResolvedStage(site, layer, Keep("fraction", Fraction(1, 2)), picks, merge or Part("drop"))
    try:
        return make_plan(ResolvedPolicy((stage,), 6), GEOMETRY).stages[0]
    except BadInput:
        return None


def layout(tokens: int) -> ImageLayout:
    number = torch.arange(tokens)
    return ImageLayout(number, torch.zeros_like(number), number // 6, number % 6, 1)


class World:
    """Synthetic samples with a value for every signal; the same numbers whether batched or alone."""

    def __init__(self, samples: Sequence[int]) -> None:
        self.samples = list(samples)
        self.width = max(COUNTS[s] for s in samples)

    def values(self, name: str, size: tuple[int, ...]) -> torch.Tensor:
        rows = torch.full((len(self.samples), self.width, *size), float("nan"))  # padding must never matter
        for b, s in enumerate(self.samples):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + s)
            rows[b, : COUNTS[s]] = torch.randn(COUNTS[s], *size, generator=generator)
        return rows

    def signal(self, signal: Signal) -> torch.Tensor:
        if isinstance(signal, Pixels):
            images = torch.tensor([[7919 * (s + 1)] for s in self.samples])
            return images.expand(-1, self.width)
        width = next((w for kind, w in WIDTHS.items() if isinstance(signal, kind)), None)
        if isinstance(signal, EncoderWalk | DecoderWalk) and signal.heads == "each":
            width = VISION.heads if isinstance(signal, EncoderWalk) else GEOMETRY.heads
        return self.values(repr(signal), () if width is None else (width,)).nan_to_num(0)

    def view(self, planned: PlannedStage, protect: bool = True) -> StageView:
        counts = torch.tensor([COUNTS[s] for s in self.samples])
        numbers = torch.arange(self.width).expand(len(self.samples), self.width)
        valid = numbers < counts[:, None]
        shielded = torch.zeros_like(valid)
        for b, s in enumerate(self.samples if protect else []):
            shielded[b, list(PROTECTED[s])] = True
        mass = self.values("mass", ()).abs().nan_to_num(1) + 0.5
        hidden = self.values("hidden", (16,)).nan_to_num(0)
        grid = Grid(numbers // 100, numbers // 100, numbers // 6, numbers % 6)
        free = valid & ~shielded
        return StageView(
            planned.site,
            hidden,
            valid,
            free,
            numbers,
            numbers,
            mass,
            self.signal,
            grid,
            self.text,
            self.partition,
            counts,
            self.pairs,
        )

    def partition(self, use: Any) -> Partition:
        """Samples of one image, six tokens a row."""
        layouts = [layout(COUNTS[s]) for s in self.samples]
        found, groups, largest = partition(use, layouts, [1] * len(layouts))
        ids = torch.zeros(len(self.samples), self.width, dtype=torch.long)
        pieces = torch.split(found, [COUNTS[s] for s in self.samples])
        for b, (s, own) in enumerate(zip(self.samples, pieces, strict=True)):
            ids[b, : COUNTS[s]] = own
        return Partition(ids, groups, largest)

    def pairs(self, space: TextSpace) -> Pairs:
        """Every 16 tokens are a pair; all text belongs to the last one."""
        rows, real = self.text(space)
        tokens = torch.arange(self.width).expand(len(self.samples), self.width) // 16
        last = torch.tensor([[(COUNTS[s] - 1) // 16] for s in self.samples])
        return Pairs(tokens.minimum(last), rows, torch.where(real, last, -1), last, int(last.amax()) + 1)

    def text(self, space: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded prompt rows: 2, 4 and 3 of them."""
        size = () if isinstance(space, KeyNorm) else (WIDTHS.get(type(space), 16),)
        real = torch.zeros(len(self.samples), 4, dtype=torch.bool)
        rows = torch.full((len(self.samples), 4, *size), float("nan"))
        for b, s in enumerate(self.samples):
            real[b, 4 - TEXTS[s] :] = True
            generator = torch.Generator().manual_seed(zlib.crc32(str(space).encode()) + s)
            rows[b, 4 - TEXTS[s] :] = torch.randn(TEXTS[s], *size, generator=generator)
        return rows, real

    def reduce(self, planned: PlannedStage, keep: Sequence[int]) -> Reduction:
        now = [COUNTS[s] for s in self.samples]
        return reduce(planned, self.view(planned), keep, now, [len(PROTECTED[s]) for s in self.samples])


ALL = World([0, 1, 2])
CONSERVING = {"nearest", "residual", "soft"}  # every token joins a row wherever one may take it in
SELECTORS, MERGERS = list(variants("selector")), list(variants("merger"))
RANDOM = Part("random", {"seed": 1})


def pairs(plain: bool = True) -> list[Any]:
    """Every selector with `drop` and every merger under `top`; or all other pairs (test_pruning_pairs.py)."""
    found = []
    for select, merge in itertools.product(SELECTORS, MERGERS):
        if plain == (select.name == "top" or merge.name == "drop"):
            found.append(pytest.param(select, merge, id=f"{identifier(select)}-{identifier(merge)}"))
    return found


@pytest.mark.parametrize("part", list(variants("criterion")), ids=identifier)
def test_criteria_are_finite_repeatable_and_batch_is_singles(part: Part) -> None:
    group = Part("head") if part.params.get("heads") == "each" else None
    stages = (plan_stage(part, Part("top"), where=w, group=group) for w in range(3))
    planned = [p for p in stages if p is not None]
    assert planned
    for one in planned:
        use = one.picks[0].score
        assert use is not None
        scores = evaluate(use, ALL.view(one))
        assert scores.shape[:2] == (3, 36)
        assert scores.ndim == (2 if group is None else 3)
        assert scores.dtype == torch.float32
        assert torch.equal(scores, evaluate(use, ALL.view(one)))
        for b, count in enumerate(COUNTS):
            assert torch.isfinite(scores[b, :count]).all()
            alone = evaluate(use, World([b]).view(one))
            assert torch.allclose(scores[b, :count], alone[0, :count], atol=1e-6)


@pytest.mark.parametrize("score", [RANDOM, None], ids=["scored", "unscored"])
@pytest.mark.parametrize("part", SELECTORS, ids=identifier)
def test_selectors_choose_exactly_as_many_as_asked_among_the_free(part: Part, score: Part | None) -> None:
    planned = plan_stage(score, part)
    assert planned is not None
    use, view = planned.picks[0].select, ALL.view(planned)
    info = parts.find("selector", part.name)
    assert info is not None
    if "score" in info.needs and score is None:
        with pytest.raises(BadInput, match="needs a score"):
            use.run(view, None, Quota(torch.tensor([1, 1, 1]), 1), view.candidates, view.candidates, use.config)
        return
    scores = None if planned.picks[0].score is None else evaluate(planned.picks[0].score, view)
    taken = view.candidates & (view.tokens % 5 == 2)
    for earlier in (torch.zeros_like(taken), taken):
        free = view.candidates & ~earlier
        most = free.sum(1).tolist()
        for wanted in ([0, 1, 2], [5, 0, 3], [1, most[1], 4], most):
            quota = Quota(torch.tensor(wanted), max(wanted), min(wanted), int(earlier.sum(1).max()))
            chosen = use.run(view, scores, quota, free, earlier, use.config)
            assert chosen.sum(1).tolist() == wanted
            assert not (chosen & ~free).any()
            assert torch.equal(chosen, use.run(view, scores, quota, free, earlier, use.config))


@pytest.mark.parametrize(("select", "merge"), pairs())
def test_the_equation_holds(select: Part, merge: Part) -> None:
    check_the_equation(select, merge)


def check_the_equation(select: Part, merge: Part) -> None:
    planned = plan_stage(RANDOM, select, merge)
    assert planned is not None
    for keep in ([8, 9, 4], [3, 1, 4], [22, 35, 11], [0, 5, 3], [2, 36, 7]):
        done = ALL.reduce(planned, keep)
        check_kept(done, keep)
        check_matrix(done, ALL.view(planned), merge.name)
        assert torch.equal(done.kept.index, ALL.reduce(planned, keep).kept.index)
        for b, k in enumerate(keep):
            if k:
                same_alone(done, World([b]).reduce(planned, [k]), planned, b, k)


def check_kept(done: Reduction, keep: Sequence[int]) -> None:
    kept = done.kept
    assert kept.mask.sum(1).tolist() == list(keep)
    for b, k in enumerate(keep):
        index = kept.index[b, :k].tolist()
        assert index == sorted(set(index))  # raster order, nobody twice
        assert kept.valid[b].tolist() == [i < k for i in range(kept.valid.shape[1])]
        assert all(i < COUNTS[b] for i in index)
        if k:
            assert set(PROTECTED[b]) <= set(index)


def check_matrix(done: Reduction, view: StageView, merge: str) -> None:
    kept = done.kept
    if done.matrix is None:
        assert merge in ("drop", "park")
        assert (done.follows is None) == (merge == "drop")
        if done.follows is not None:  # a kept token, where one is left
            alive = view.valid & kept.mask.any(1, keepdim=True)
            assert kept.mask.gather(1, done.follows)[alive].all()
        assert torch.equal(done.mass, view.mass.gather(1, kept.index) * kept.valid)
        return
    own = done.matrix.gather(2, kept.index[..., None])[..., 0]
    assert (done.matrix >= 0).all()
    assert (own[kept.valid] > 0).all()
    assert torch.allclose(done.matrix.sum(2)[kept.valid], torch.ones(int(kept.valid.sum())))
    assert (done.matrix[~kept.valid] == 0).all()
    assert (done.matrix.transpose(1, 2)[~view.valid] == 0).all()  # padding joins nothing
    for b in range(len(COUNTS)):
        weights = view.mass[b] * view.valid[b]
        assert torch.allclose(done.matrix[b] * done.mass[b][:, None] @ torch.ones(36), done.mass[b], atol=1e-4)
        assert done.mass[b].sum() <= weights.sum() + 1e-4
        if merge in CONSERVING and kept.mask[b].sum() > len(PROTECTED[b]):
            assert torch.allclose(done.mass[b].sum(), weights.sum(), atol=1e-4)  # nothing is lost
        shielded = [i for i, t in enumerate(kept.index[b].tolist()) if t in PROTECTED[b] and kept.valid[b, i]]
        rows = done.rows(view.hidden)[b, shielded]
        assert torch.equal(rows, view.hidden[b, kept.index[b, shielded]])  # protected rows are unchanged
        others = [i for i in range(kept.index.shape[1]) if i not in shielded]
        assert (done.matrix[b, others][:, list(PROTECTED[b])] == 0).all()  # and nobody takes them in


def same_alone(done: Reduction, alone: Reduction, planned: PlannedStage, b: int, k: int) -> None:
    assert done.kept.index[b, :k].tolist() == alone.kept.index[0, :k].tolist()
    rows = done.rows(ALL.view(planned).hidden)[b, :k]
    assert torch.allclose(rows, alone.rows(World([b]).view(planned).hidden)[0, :k], atol=1e-5)
    assert torch.allclose(done.mass[b, :k], alone.mass[0, :k], atol=1e-5)


@pytest.mark.parametrize(("select", "merge"), pairs())
def test_keeping_all_is_the_identity(select: Part, merge: Part) -> None:
    check_the_identity(select, merge)


def check_the_identity(select: Part, merge: Part) -> None:
    planned = plan_stage(RANDOM, select, merge)
    assert planned is not None
    done = ALL.reduce(planned, COUNTS)
    hidden = ALL.view(planned).hidden
    rows = done.rows(hidden)
    for b, count in enumerate(COUNTS):
        assert torch.equal(rows[b, :count], hidden[b, :count])


def test_top_is_nested_and_breaks_ties_by_index() -> None:
    planned = plan_stage(RANDOM, Part("top"))
    assert planned is not None
    use, view = planned.picks[0].select, ALL.view(planned)
    for scores in (ALL.values("any", ()), ALL.values("any", ()).round(), torch.zeros(3, 36)):
        before = torch.zeros_like(view.valid)
        for k in range(8):
            chosen = use.run(view, scores, Quota(torch.full((3,), k), k), view.candidates, before & False, use.config)
            assert (before & ~chosen).sum() == 0
            before = chosen
    first = [t for t in range(36) if t not in PROTECTED[0]][:7]
    assert before[0].nonzero()[:, 0].tolist() == first


def test_nan_scores_rank_lowest_and_never_steal_a_place() -> None:
    scores = torch.tensor([[1.0, float("nan"), float("-inf"), 3.0, float("inf")]])
    candidates = torch.tensor([[True, True, True, True, False]])
    assert rank(scores, candidates)[0].tolist() == [1, 2, 3, 0, 4]


def test_shares_are_split_by_largest_remainder_and_earlier_picks_excluded() -> None:
    picks = (
        ResolvedPick(RANDOM, Part("top"), Fraction(1, 3)),
        ResolvedPick(None, Part("far"), Fraction(1, 3)),
        ResolvedPick(None, Part("stride")),
    )
    stage = ResolvedStage("llm", 3, Keep("fraction", Fraction(1, 2)), picks, Part("residual"))
    planned = make_plan(ResolvedPolicy((stage,), 6), GEOMETRY).stages[0]
    for keep in ([8, 11, 6], [3, 2, 4], [22, 35, 10]):
        check_kept(ALL.reduce(planned, keep), keep)
    top = plan_stage(RANDOM, Part("top"))
    assert top is not None
    only = replace(planned, picks=planned.picks[:1])
    everything = ALL.reduce(replace(only, merge=top.merge), [5, 5, 5])  # a single share takes all there is
    assert everything.kept.mask.sum(1).tolist() == [5, 5, 5]


def test_residual_is_the_score_weighted_mean_of_the_dropped() -> None:
    """Against the definition, token by token; the row stands where the best of the dropped stood."""
    planned = plan_stage(RANDOM, Part("top"), Part("residual"))
    assert planned is not None
    assert planned.picks[0].score is not None
    view, k = World([1]).view(planned, protect=False), 7
    scores = evaluate(planned.picks[0].score, view)[0]
    done = reduce(planned, view, [k], [36], [0])
    order = scores.argsort(descending=True)
    assert sorted(order[:k].tolist()) == done.kept.index[0].tolist()
    anchor = int(order[k - 1])  # the best that the selector, asked for one less, left
    assert done.kept.index[0][done.kept.extra[0]].tolist() == [anchor]
    members = order[k - 1 :]
    weights = scores[members] * view.mass[0, members]
    expected = (weights[:, None] * view.hidden[0, members]).sum(0) / weights.sum()
    row = int(done.kept.extra[0].nonzero())
    assert torch.allclose(done.rows(view.hidden)[0, row], expected, atol=1e-5)
    assert torch.allclose(done.mass[0, row], view.mass[0, members].sum())


def test_residual_without_scores_is_the_mean_by_mass() -> None:
    planned = plan_stage(None, Part("stride"), Part("residual"))
    assert planned is not None
    view = World([1]).view(planned, protect=False)
    done = reduce(planned, view, [7], [36], [0])
    row = int(done.kept.extra[0].nonzero())
    kept = done.kept.index[0][~done.kept.extra[0]].tolist()
    members = [i for i in range(36) if i not in kept]
    weights = view.mass[0, members]
    expected = (weights[:, None] * view.hidden[0, members]).sum(0) / weights.sum()
    assert torch.allclose(done.rows(view.hidden)[0, row], expected, atol=1e-5)


def test_far_is_max_min_distance() -> None:
    """Against a plain loop over the definition (DivPrune, Algorithm 1)."""
    planned = plan_stage(None, Part("far", {"space": "hidden"}))
    assert planned is not None
    view = World([1]).view(planned, protect=False)
    rows = torch.nn.functional.normalize(view.hidden[0], dim=-1)
    distance = 1 - rows @ rows.T
    lonely = (distance + torch.eye(36) * 9).amin(1)
    chosen = [int(lonely.argmax())]
    while len(chosen) < 9:
        gain = distance[:, chosen].amin(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    use = planned.picks[0].select
    none = torch.zeros_like(view.valid)
    mask = use.run(view, None, Quota(torch.tensor([9]), 9), view.candidates, none, use.config)
    assert mask[0].nonzero()[:, 0].tolist() == sorted(chosen)


def test_stride_is_even() -> None:
    planned = plan_stage(None, Part("stride"))
    assert planned is not None
    view = World([1]).view(planned, protect=False)
    use = planned.picks[0].select
    none = torch.zeros_like(view.valid)
    mask = use.run(view, None, Quota(torch.tensor([4]), 4), view.candidates, none, use.config)
    assert mask[0].nonzero()[:, 0].tolist() == [4, 13, 22, 31]


def test_random_depends_on_image_seed_and_place_alone() -> None:
    scores = []
    for seed in (0, 1):
        planned = plan_stage(Part("random", {"seed": seed}), Part("top"))
        assert planned is not None
        assert planned.picks[0].score is not None
        scores.append(evaluate(planned.picks[0].score, ALL.view(planned)))
    for one in scores:
        assert float(one.min()) >= 0
        assert float(one.max()) < 1
        assert 0.35 < float(one.mean()) < 0.65
    together = torch.stack([*scores[0], *scores[1]])
    distinct = torch.corrcoef(together) - torch.eye(6)
    assert float(distinct.abs().max()) < 0.6  # other images and other seeds give other orders


@pytest.mark.parametrize("seed", [4, 2**40, -1, 10**30])
def test_random_takes_any_whole_number_as_its_seed(seed: int) -> None:
    scores = evaluate_random(seed)
    assert len(set(scores[1].tolist())) == 36
    assert not torch.equal(scores, evaluate_random(0))


def evaluate_random(seed: int) -> torch.Tensor:
    planned = plan_stage(Part("random", {"seed": seed}), Part("top"))
    assert planned is not None
    assert planned.picks[0].score is not None
    return evaluate(planned.picks[0].score, ALL.view(planned))


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("llm_attention", {"layer": "0.5x"}, "a layer is prev, own, an integer or a fraction"),
        ("llm_attention", {"layer": "onw"}, "did you mean 'own'?"),
        ("llm_attention", {"layer": "1/0"}, "a layer is prev, own"),
        ("llm_attention", {"layer": True}, "not True"),
        ("encoder_attention", {"layer": "own"}, "a layer is an integer or a fraction"),
        ("encoder_attention", {"layer": "3/2"}, "not '3/2'"),
        ("random", {"seed": 1.5}, "valid integer"),
        ("random", {"seed": True}, "valid integer"),
    ],
)
def test_wrong_parameters_are_said_when_the_document_is_read(name: str, params: dict[str, Any], says: str) -> None:
    from autoprune.document.yaml import parse, write
    from autoprune.policy.document import Policy
    from autoprune.pruning.lookup import RegisteredParts

    key = next(iter(params))
    data = {"schema": "autoprune/policy/1", "stages": [{"at": "llm:3", "keep": 0.5, "score": {name: params}}]}
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(write(data), "p.yaml"), RegisteredParts())
    (problem,) = caught.value.problems
    assert problem.path == f"stages[0].score.{name}.{key}"
    assert says in problem.message


def test_fractions_of_the_depth_may_be_decimals() -> None:
    info = parts.find("criterion", "encoder_attention")
    assert info is not None
    assert info.config(layer=0.25) == info.config(layer="1/4")  # type: ignore[call-arg]


MIXES = [(n, o) for n in ("rank", "minmax", "softmax", "sum", "none") for o in ("sum", "product", "max")]


@pytest.mark.parametrize(("normalise", "op"), MIXES)
def test_mixes_are_finite_and_batch_is_singles(normalise: Any, op: Any) -> None:
    terms = ((Fraction(3, 4), Part("feature_norm", {"space": "hidden"})), (Fraction(1, 4), RANDOM))
    planned = plan_stage(Mix(terms, normalise, op), Part("top"))
    assert planned is not None
    use = planned.picks[0].score
    assert use is not None
    scores = evaluate(use, ALL.view(planned))
    for b, count in enumerate(COUNTS):
        alone = evaluate(use, World([b]).view(planned))[0, :count]
        assert torch.isfinite(alone).all()
        free = ALL.view(planned).candidates[b, :count]
        assert torch.allclose(scores[b, :count][free], alone[free], atol=1e-5)


def test_a_mix_of_one_orders_like_its_criterion() -> None:
    term = Part("feature_norm", {"space": "hidden"})
    plain = plan_stage(term, Part("top"))
    assert plain is not None
    expected = ALL.reduce(plain, [7, 7, 7]).kept.index
    for normalise, op in MIXES:
        planned = plan_stage(Mix(((Fraction(1), term),), normalise, op), Part("top"))  # type: ignore[arg-type]
        assert planned is not None
        assert torch.equal(ALL.reduce(planned, [7, 7, 7]).kept.index, expected)
