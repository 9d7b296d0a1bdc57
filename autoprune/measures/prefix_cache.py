"""What trials of one worker share, within a bound: kept in memory, then in files, then forgotten (and computed again).

The least recently used goes first, but nothing that this or the last evaluation has used makes room for something new:
evaluations go through the same batches in the same order, where plain LRU would throw out what comes next.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.measures.packed import Packed, pack, unpack

if TYPE_CHECKING:
    import torch

PREFIX = "autoprune-cache-"


LARGEST = 4 * 2**30  # of a cache that nobody has given a size
log = logging.getLogger(__name__)


def prefix_cache(size: int | None, device: torch.device) -> PrefixCache | None:
    """The cache of a worker whose model is on `device`; None where `size` (bytes) is 0, and by default a quarter of the
    free memory, at most 4 GiB. It is in the host's memory, or on the model's device where it takes no more than a
    quarter of what is free there; files hold four times as much, at most a quarter of the free disk."""
    import torch

    bound = default_size() if size is None else size
    if bound <= 0:
        return None
    stays = device.type == "cpu"
    if device.type == "cuda":
        stays = bound <= torch.cuda.mem_get_info(device)[0] // 4
    return PrefixCache(bound, _files(bound), None if stays else "cpu")


def foretold(size: int | None) -> str:
    """What a worker will keep with a cache of this size, in a line."""
    bound = default_size() if size is None else size
    if bound <= 0:
        return "memory: trials share nothing (model.cache); the unpruned model's states stay, where measures need them"
    most, files = f"{'about ' if size is None else ''}{_size(bound)}", _size(_files(bound))
    return (
        f"memory: a worker keeps at most {most} of what trials share and of the unpruned model's states, "
        f"then {files} in files; the pixels of its records come on top"
    )


def _files(bound: int) -> int:
    return min(4 * bound, shutil.disk_usage(tempfile.gettempdir()).free // 4)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def default_size(workers: int = 1) -> int:
    """Bytes for each of `workers` on this machine."""
    return min(_free_memory() // 4, LARGEST) // workers


def _free_memory() -> int:
    """Bytes of this machine's memory that programs could still have."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass
class Stats:
    """Since the cache was made. `layers` are decoder layers of batches that did not have to run, `of_layers` all."""

    hits: int = 0
    misses: int = 0
    layers: int = 0
    of_layers: int = 0
    bytes: int = 0
    spilled: int = 0
    written: int = 0
    forgotten: int = 0

    def __str__(self) -> str:
        return (
            f"{self.hits} resumed, {self.misses} from the start, {self.layers} of {self.of_layers} layers saved; "
            f"{_size(self.bytes)} in memory, {_size(self.spilled)} in files, {self.forgotten} forgotten"
        )


@dataclass(eq=False)
class _Entry:
    """`packed` is None while its tensors are in `file`."""

    label: Any
    bytes: int
    used: int
    packed: Packed | None
    rest: Any = None
    file: Path | None = None


@dataclass(eq=False)
class PrefixCache:
    """At most `bound` bytes on `device` (None: where the tensors are) and `files` bytes in a temporary folder, which
    goes with the cache. One thread at a time."""

    bound: int
    files: int = 0
    device: torch.device | str | None = None
    stats: Stats = field(default_factory=Stats)

    def __post_init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._folder: Path | None = None
        self._evaluation = 0
        self._numbered = 0

    def begin(self) -> None:
        """A new evaluation starts."""
        self._evaluation += 1

    def label(self, key: Hashable) -> Any:
        """What was said of a value when it was stored; None where there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.label

    def get(self, key: Hashable) -> Any:
        """A stored value, or None. A file that cannot be read is a value that is not there."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.used = self._evaluation
        self._entries.move_to_end(key)
        packed = entry.packed
        if packed is None:
            packed = _read(entry)
            if packed is None:
                self._drop(key)
                return None
            if self._room(entry.bytes):
                self._unlink(entry)
                entry.packed = packed
                self.stats.bytes += entry.bytes
        return unpack(packed)

    def put(self, key: Hashable, value: Any, label: Any = None) -> None:
        """Store a value, in place of what was under the key; or not, where there is no room for it."""
        packed = pack(value, self.device)
        if key in self._entries:
            self._drop(key)
        entry = _Entry(label, packed.bytes, self._evaluation, packed)
        if self._room(entry.bytes):
            self.stats.bytes += entry.bytes
        elif not self._spill(entry):
            self._forget()
            return
        self._entries[key] = entry

    def clear(self) -> None:
        for key in list(self._entries):
            self._drop(key)

    # ------------------------------------------------------------ room
    def _room(self, size: int) -> bool:
        """Make room for `size` bytes in memory, by what has not been used lately. Whether there is."""
        if size > self.bound:
            return False
        for key, entry in list(self._entries.items()):
            if self.stats.bytes + size <= self.bound:
                break
            if entry.packed is None or entry.used >= self._evaluation - 1:
                continue
            self.stats.bytes -= entry.bytes
            if not self._spill(entry):
                del self._entries[key]
                self._forget()
        return self.stats.bytes + size <= self.bound

    def _spill(self, entry: _Entry) -> bool:
        """Write an entry's tensors to a file, where older files make room. Whether that worked."""
        if entry.packed is None or entry.bytes > self.files:
            return False
        for key, other in list(self._entries.items()):
            if self.stats.spilled + entry.bytes <= self.files:
                break
            if other.file is not None and other.used < self._evaluation - 1:
                self._drop(key)
                self._forget()
        if self.stats.spilled + entry.bytes > self.files:
            return False
        file = self._write(entry.packed)
        if file is None:
            return False
        entry.rest, entry.file, entry.packed = entry.packed.rest, file, None
        self.stats.spilled += entry.bytes
        self.stats.written += entry.bytes
        return True

    def _forget(self) -> None:
        if self.stats.forgotten == 0:
            log.info(
                "prefix cache: full, from now on some is computed again (model.cache sets its size); %s", self.stats
            )
        self.stats.forgotten += 1

    def _write(self, packed: Packed) -> Path | None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            if self._folder is None:
                self._folder = _folder()
                weakref.finalize(self, shutil.rmtree, self._folder, True)
            self._numbered += 1
            file = self._folder / f"{self._numbered}.safetensors"
            save_file({str(i): t.cpu().contiguous().clone() for i, t in enumerate(packed.tensors)}, file)
        except (OSError, SafetensorError):  # a full disk or a vanished folder: the value is computed again
            return None
        return file

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        if entry.packed is not None:
            self.stats.bytes -= entry.bytes
        self._unlink(entry)

    def _unlink(self, entry: _Entry) -> None:
        if entry.file is not None:
            entry.file.unlink(missing_ok=True)
            self.stats.spilled -= entry.bytes
            entry.file = None


def _read(entry: _Entry) -> Packed | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if entry.file is None:
        return None
    try:
        found = load_file(entry.file)
        return Packed(entry.rest, [found[str(i)] for i in range(len(found))])
    except (OSError, SafetensorError, KeyError):  # gone, cut short or another's: the value is computed again
        return None


def _folder() -> Path:
    """A new temporary folder; those of processes that were killed go now."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = left.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not _runs(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
