"""Splits of a calibration set: seeded, stratified, and never through an image.

Records that share an image (by content) belong together, directly or through other records: the connected components
of that relation are the clusters. A cluster serves one split at most; it is also the resampling unit of certification.
Everything is ordered by hashes of content and seed, so that the order of a file changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.calibration.digest import image_digest, record_digest
from autoprune.calibration.records import Record
from autoprune.errors import BadInput

STRATA = ("type", "answer")


@dataclass(frozen=True)
class Splits:
    """Records of the two splits, and each record's cluster number (`*_images`, aligned with the records).

    Within a split records are shuffled so that any first so many of them are stratified like the whole.
    """

    search: tuple[Record, ...]
    holdout: tuple[Record, ...]
    search_images: tuple[int, ...]
    holdout_images: tuple[int, ...]


@dataclass(frozen=True)
class _Item:
    """A record with what splitting needs of it. `order` is its seeded place, `cluster` its component."""

    record: Record
    cluster: int
    stratum: str
    order: tuple[str, str]


def clusters(records: Sequence[Record]) -> list[int]:
    """Each record's component number (union-find over image contents). Numbers follow content, not file order."""
    parent: dict[str, str] = {}

    def root(image: str) -> str:
        while parent.setdefault(image, image) != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    first: list[str] = []
    for record in records:
        images = [image_digest(path) for path in record.images] or [record_digest(record)]
        root(images[0])
        for image in images[1:]:
            parent[root(image)] = root(images[0])
        first.append(images[0])
    least: dict[str, str] = {}
    for image in parent:
        least[root(image)] = min(image, least.get(root(image), image))
    number = {name: i for i, name in enumerate(sorted(least.values()))}
    return [number[least[root(image)]] for image in first]


def split(records: Sequence[Record], search: int, holdout: int, stratify_by: str | None, seed: int) -> Splits:
    """Two disjoint splits of `search` and `holdout` records; no image is in both.

    `stratify_by` (`type` or `answer`) keeps the proportions of that field as far as whole images allow; records without
    it are a stratum of their own. Records of a
    cluster that a split does not need are left out of both. Raises BadInput where there are too few records or images.
    """
    _check_request(records, search, holdout, stratify_by)
    items = _items(records, stratify_by, seed)
    population = Counter(item.stratum for item in items)
    chosen_search = _fill(items, _shares(population, search), search)
    used = {item.cluster for item in chosen_search}
    rest = [item for item in items if item.cluster not in used]
    chosen_holdout = _fill(rest, _shares(population, holdout), holdout)
    if len(chosen_search) < search or len(chosen_holdout) < holdout:
        count = len({item.cluster for item in items})
        raise BadInput(
            f"calibration: {len(records)} records of {count} images cannot give search {search} + holdout {holdout} "
            f"without an image in both: search took {len(chosen_search)} records of {len(used)} images, and the other "
            f"{count - len(used)} images leave {len(chosen_holdout)} for the holdout",
            code="too-few-records",
        )
    one, two = _interleave(chosen_search), _interleave(chosen_holdout)
    return Splits(
        tuple(i.record for i in one),
        tuple(i.record for i in two),
        tuple(i.cluster for i in one),
        tuple(i.cluster for i in two),
    )


def _check_request(records: Sequence[Record], search: int, holdout: int, stratify_by: str | None) -> None:
    problems = []
    if stratify_by is not None and stratify_by not in STRATA:
        problems.append(f"calibration.stratify_by: {stratify_by!r} is not one of {', '.join(STRATA)}")
    if search < 1 or holdout < 0:
        problems.append(f"calibration: search must be at least 1 and holdout at least 0, not {search} and {holdout}")
    if search + holdout > len(records):
        asked = f"search {search} + holdout {holdout} = {search + holdout}"
        problems.append(f"calibration: {asked} records are asked for, {len(records)} are there")
    if problems:
        raise BadInput("\n".join(problems))


def _items(records: Sequence[Record], stratify_by: str | None, seed: int) -> list[_Item]:
    """Items in seeded order: clusters shuffled, records shuffled within their cluster."""
    numbers = clusters(records)
    names: dict[int, str] = {}
    contents = [record_digest(record) for record in records]
    for number, content in zip(numbers, contents, strict=True):
        names[number] = min(content, names.get(number, content))
    items = []
    for record, number, content in zip(records, numbers, contents, strict=True):
        stratum = (getattr(record, stratify_by) or "") if stratify_by else ""
        items.append(_Item(record, number, stratum, (_hash(seed, content), record.id)))
    return sorted(items, key=lambda i: (_hash(seed, names[i.cluster]), i.order))


def _fill(items: Sequence[_Item], shares: Mapping[str, int], size: int) -> list[_Item]:
    """`size` items, `shares` of them by stratum: first clusters whose every record is wanted, then the wanted parts of
    the others, smallest first, then anything (a stratum may be too small for its share)."""
    groups: dict[int, list[_Item]] = defaultdict(list)
    for item in items:
        groups[item.cluster].append(item)
    want = Counter(shares)
    chosen: list[_Item] = []

    def take(cluster: int, part: Sequence[_Item]) -> None:
        chosen.extend(part)
        want.subtract(item.stratum for item in part)
        del groups[cluster]

    for cluster in list(groups):
        if len(_wanted(groups[cluster], want)) == len(groups[cluster]):
            take(cluster, groups[cluster])
    for cluster in sorted(groups, key=lambda c: len(groups[c])):
        part = _wanted(groups[cluster], want)
        if part:
            take(cluster, part)
    for cluster in sorted(groups, key=lambda c: len(groups[c])):
        if len(chosen) < size:
            take(cluster, groups[cluster][: size - len(chosen)])
    return chosen


def _wanted(group: Sequence[_Item], want: Mapping[str, int]) -> list[_Item]:
    """The items of one cluster that still fit into their strata's shares."""
    left = dict(want)
    part = []
    for item in group:
        if left.get(item.stratum, 0) > 0:
            left[item.stratum] -= 1
            part.append(item)
    return part


def _shares(available: Mapping[str, int], size: int) -> dict[str, int]:
    """`size` divided in proportion to what is available, by largest remainder (ties by name)."""
    total = sum(available.values())
    exact = {name: size * count / total for name, count in available.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: size - sum(shares.values())]:
        shares[name] += 1
    return shares


def _interleave(items: Sequence[_Item]) -> list[_Item]:
    """Items in seeded order, each stratum spread evenly, so that every prefix is stratified."""
    sizes = Counter(item.stratum for item in items)
    seen: Counter[str] = Counter()
    placed = []
    for item in sorted(items, key=lambda i: i.order):
        placed.append(((seen[item.stratum] + 0.5) / sizes[item.stratum], item.order, item))
        seen[item.stratum] += 1
    return [item for _, _, item in sorted(placed, key=lambda p: p[:2])]


def _hash(seed: int, *parts: str) -> str:
    return hashlib.sha256("\n".join((str(seed), *parts)).encode()).hexdigest()
