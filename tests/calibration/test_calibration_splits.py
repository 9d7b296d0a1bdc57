from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from autoprune.calibration.digest import image_digest
from autoprune.calibration.holdout import holdout_size, images_needed
from autoprune.calibration.records import Record
from autoprune.calibration.splits import Splits, clusters, split
from autoprune.errors import BadInput

POOL = 40


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Image files, each content under two names. Splits never open an image, so any bytes will do."""
    folder = tmp_path_factory.mktemp("pool")
    paths = []
    for number in range(2 * POOL):
        path = folder / f"{number}.png"
        path.write_bytes(b"image %d" % (number % POOL))
        paths.append(str(path))
    return paths


def make(pool: list[str], groups: list[list[int]], kinds: list[str]) -> list[Record]:
    return [
        Record(str(i), tuple(pool[n] for n in group), prompt=f"q{i}", answer="a", type=kinds[i % len(kinds)])
        for i, group in enumerate(groups)
    ]


def contents(records: tuple[Record, ...]) -> set[str]:
    return {image_digest(path) for record in records for path in record.images}


numbers = st.integers(0, 2 * POOL - 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(st.lists(numbers, min_size=1, max_size=3), min_size=2, max_size=60),
    kinds=st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=5),
    share=st.tuples(st.floats(0.01, 0.6), st.floats(0, 0.6)),
    seed=st.integers(0, 5),
    shuffle=st.randoms(use_true_random=False),
)
def test_splits_are_disjoint_exact_and_independent_of_file_order(
    pool: list[str],
    groups: list[list[int]],
    kinds: list[str],
    share: tuple[float, float],
    seed: int,
    shuffle: random.Random,
) -> None:
    records = make(pool, groups, kinds)
    search, holdout = max(1, int(share[0] * len(records))), int(share[1] * len(records))

    def attempt(rows: list[Record]) -> Splits | str:
        try:
            return split(rows, search, holdout, "type", seed)
        except BadInput as error:
            return str(error)

    made = attempt(records)
    other = list(records)
    shuffle.shuffle(other)
    assert attempt(other) == made
    if isinstance(made, str):
        assert str(len(records)) in made
        return
    assert (len(made.search), len(made.holdout)) == (search, holdout)
    assert not contents(made.search) & contents(made.holdout)
    assert not set(made.search_images) & set(made.holdout_images)
    ids = [r.id for r in (*made.search, *made.holdout)]
    assert len(set(ids)) == len(ids)
    number_of = dict(zip((r.id for r in records), clusters(records), strict=True))
    assert made.search_images == tuple(number_of[r.id] for r in made.search)
    assert made.holdout_images == tuple(number_of[r.id] for r in made.holdout)


def test_records_are_joined_through_other_records(pool: list[str]) -> None:
    records = make(pool, [[0], [1], [2], [0, 1], [POOL + 2], [5]], ["x"])
    zero, one, two, joint, twin, five = clusters(records)
    assert zero == one == joint
    assert two == twin
    assert len({zero, two, five}) == 3


def test_strata_keep_their_shares_in_both_splits_and_in_every_prefix(pool: list[str]) -> None:
    kinds = ["x"] * 5 + ["y"] * 3 + ["z"] * 2
    records = make(pool, [[i % POOL] for i in range(200)], kinds)
    made = split(records, 60, 80, "type", 3)
    assert Counter(r.type for r in made.search) == {"x": 30, "y": 18, "z": 12}
    assert Counter(r.type for r in made.holdout) == {"x": 40, "y": 24, "z": 16}
    for length in range(10, 61, 10):
        count = Counter(r.type for r in made.search[:length])
        assert all(abs(count[k] - length * f) <= 1 for k, f in (("x", 0.5), ("y", 0.3), ("z", 0.2)))


def test_seed_changes_the_splits_and_nothing_else_does(pool: list[str]) -> None:
    records = make(pool, [[i % POOL] for i in range(120)], ["x", "y"])
    assert split(records, 30, 30, "type", 1) == split(records, 30, 30, "type", 1)
    assert split(records, 30, 30, "type", 1).search != split(records, 30, 30, "type", 2).search


def test_file_order_decides_nothing_even_where_ids_are_line_numbers(pool: list[str]) -> None:
    rows = [(pool[i % POOL], f"q{i}", "xyz"[i % 3]) for i in range(90)]

    def asked(order: list[tuple[str, str, str]]) -> list[str | None]:
        records = [Record(str(i), (p,), prompt=q, type=t) for i, (p, q, t) in enumerate(order, 1)]
        made = split(records, 30, 30, "type", 4)
        return [r.prompt for r in (*made.search, *made.holdout)]

    assert asked(rows) == asked(rows[::-1])


def test_search_does_not_depend_on_the_holdout_size(pool: list[str]) -> None:
    records = make(pool, [[i % POOL] for i in range(120)], ["x", "y"])
    assert split(records, 30, 10, None, 1).search == split(records, 30, 80, None, 1).search


@pytest.mark.parametrize(
    ("search", "holdout", "by", "words"),
    [
        (30, 31, None, ["search 30 + holdout 31 = 61", "60 are there"]),
        (0, 5, None, ["at least 1"]),
        (5, -1, None, ["at least 0"]),
        (5, 5, "colour", ["'colour' is not one of type, answer"]),
    ],
)
def test_impossible_requests(pool: list[str], search: int, holdout: int, by: str | None, words: list[str]) -> None:
    records = make(pool, [[i % POOL] for i in range(60)], ["x"])
    with pytest.raises(BadInput) as caught:
        split(records, search, holdout, by, 0)
    assert all(word in str(caught.value) for word in words)


def test_one_image_cannot_serve_two_splits(pool: list[str]) -> None:
    records = make(pool, [[0]] * 10, ["x"])
    with pytest.raises(BadInput, match=r"10 records of 1 images .* the other 0 images leave 0"):
        split(records, 2, 2, None, 0)


def test_missing_types_are_one_stratum(pool: list[str]) -> None:
    records = [Record(str(i), (pool[i],), prompt="q") for i in range(20)]
    assert len(split(records, 5, 5, "type", 0).holdout) == 5


# ------------------------------------------------------------------------------------------------------- holdout sizes
def test_images_needed_has_the_promised_power() -> None:
    n = images_needed(0.2, 1.0, confidence=0.95, power=0.8)
    power = stats.norm.cdf(0.2 * n**0.5 - stats.norm.ppf(0.95))
    assert power >= 0.8
    assert stats.norm.cdf(0.2 * (n - 1) ** 0.5 - stats.norm.ppf(0.95)) < 0.8


def test_holdout_size_by_simulation() -> None:
    """The formula's own world, sampled: the one-sided t test certifies about 80 % of the time."""
    bound, baseline, discordance = 0.95, 0.9, 0.08
    n = holdout_size(bound, baseline, discordance)
    delta = (1 - bound) * baseline / 2
    lost, gained = (discordance + delta) / 2, (discordance - delta) / 2
    values = [1 - bound, -bound, 1.0, 0.0]
    odds = [baseline - lost, lost, gained, 1 - baseline - gained]
    random.seed(0)
    passed = 0
    for _ in range(400):
        sample = random.choices(values, odds, k=n)
        passed += bool(stats.ttest_1samp(sample, 0, alternative="greater").pvalue < 0.05)
    assert 0.73 < passed / 400 < 0.87


def test_holdout_size_follows_bound_and_discordance() -> None:
    sizes = [holdout_size(bound, 0.95, 0.05) for bound in (0.95, 0.97, 0.98)]
    assert sizes == sorted(sizes)
    assert 700 <= sizes[1] <= 3000
    assert 2000 <= sizes[2] <= 7000
    assert holdout_size(0.97, 0.95, 0.02) < holdout_size(0.97, 0.95, 0.06)


@pytest.mark.parametrize("call", [lambda: holdout_size(1.0, 0.9, 0.1), lambda: holdout_size(0.9, 0, 0.1)])
def test_holdout_size_refuses_what_no_sample_can_show(call: Callable[[], int]) -> None:
    with pytest.raises(BadInput):
        call()


def test_calibration_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, autoprune.calibration.splits, autoprune.calibration.records, autoprune.calibration.batches, "
        "autoprune.calibration.encoding, autoprune.calibration.holdout; "
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
