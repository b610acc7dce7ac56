"""Arrays of numbered samples that are computed once and kept, in memory or in files that later runs reuse."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..files import lock, write_atomically, write_json
from ..hashing import digest

log = logging.getLogger("radiodiff")
DTYPE = np.float16  # relative error 5e-4, about that of an 8-bit grey level
LAYOUT = 2  # version of the folder; raise it with every change, so that no earlier folder is read
SHARDS, ROWS = 64, 256  # files of a cache, unless they would hold more samples than this
LOOK_AGAIN = 1.0  # s between checks of what other processes have done
PATIENCE = 60  # s to wait for files that another machine wrote to a network file system


@dataclass(frozen=True)
class CacheProcesses:
    """The processes that fill a cache together: this one's rank, and their number; `gather(value)` waits for all values."""

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]


class SampleCache:
    """`count` samples, each a few arrays of fixed shapes in half precision.

    On disk, a cache is a folder below `folder`, named by a hash of what its samples are made from, so that it is never
    used for other data and nothing is ever overwritten:

        cache.json     what the samples are made from
        000.npy        a shard, a run of samples: a structured array with one field per array of a sample

    A shard exists as a whole or not at all; an interrupted fill continues with the missing ones.
    """

    def __init__(
        self,
        kind: str,  # first part of the folder's name
        count: int,
        shapes: Mapping[str, tuple[int, ...]],  # of each array of a sample, by name
        folder: Path | None = None,  # where caches are kept; None for memory, where each process has its own
        identity: Mapping[str, object] | None = None,  # what the samples are made from, in JSON types
        *,
        group: int = 1,  # this many consecutive samples lie in one shard; `count` is a multiple of it
    ):
        self.count = count
        self.record = np.dtype([(name, DTYPE, tuple(shape)) for name, shape in shapes.items()])
        self.rows = count if folder is None else max(1, min(-(-count // (SHARDS * group)), ROWS // group)) * group
        self.memory: dict[str, np.ndarray] = {}
        self._shard = np.empty(0, self.record)  # the one being written
        own = {"layout": LAYOUT, "count": count, "rows": self.rows, "arrays": self.record.descr}
        self.facts = own | dict(identity or {})
        self.path = None if folder is None else folder / f"{kind}_{digest(self.facts)}"

    def missing(self) -> list[int]:
        """Numbers of the samples that are not stored yet."""
        there = self.memory if self.path is None else set(os.listdir(self.path))
        return [index for index in range(self.count) if self._place(index)[0] not in there]

    @contextmanager
    def filling(self, processes: CacheProcesses) -> Iterator[list[int]]:
        """The missing samples that this process must write, in order; at the end, all processes wait.

        Raises DataError for an unusable folder, one that not all processes see, or a sample that is missing at the end.
        """
        if self.path is None:
            yield self.missing()
            return
        if all(processes.gather(self._is_complete())):
            yield []  # nothing is written: it may belong to somebody else
            return
        try:
            if processes.rank == 0:
                write_json(self.path / "cache.json", self.facts)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be used ({error}); choose another data.cache_folder") from error
        processes.gather(None)  # until it is there
        if not all(processes.gather((self.path / "cache.json").exists())):
            message = "not all processes see this folder, or their copies of the data differ in sizes or times"
            raise DataError(f"{self.path}: {message}; cache_folder and data_root must be folders that all see")
        with (self.path / ".lock").open("a") as file:
            is_main = processes.rank == 0
            if is_main and not lock(file):
                log.warning("%s: another run is filling this cache; waiting for its end", self.path)
            while not any(processes.gather(is_main and lock(file))):  # nobody waits in `gather` for hours
                time.sleep(LOOK_AGAIN)
            if is_main:
                for left in self.path.glob(".*.npy"):  # by a run that was killed
                    left.unlink()
            processes.gather(None)
            yield [index for index in self.missing() if index // self.rows % processes.count == processes.rank]
            processes.gather(None)
        end = time.monotonic() + PATIENCE
        while (absent := len(self.missing())) and time.monotonic() < end:
            time.sleep(LOOK_AGAIN)
        if absent:
            raise DataError(f"{self.path}: {absent} samples of other processes did not appear here; run it again")

    def _is_complete(self) -> bool:
        try:
            return (self.path / "cache.json").exists() and not self.missing()
        except OSError:
            return False

    def _place(self, index: int) -> tuple[str, int]:
        """Name of the shard's file, and the sample's row in it."""
        return f"{index // self.rows:03}.npy", index % self.rows

    def write(self, index: int, sample: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        """Store a sample. A shard's samples are written one after another, and count once the last one is written."""
        name, row = self._place(index)
        if row == 0:
            self._shard = np.empty(min(self.rows, self.count - index), self.record)
        for key in self.record.names:
            self._shard[key][row] = sample[key]
        if row < len(self._shard) - 1:
            return
        if self.path is None:
            self.memory[name] = self._shard
        else:
            write_atomically(self.path / name, lambda file: np.save(file, self._shard))

    def read(self, index: int, name: str) -> torch.Tensor:
        """One array of a stored sample, float32."""
        shard, row = self._place(index)
        stored = self.memory[shard] if self.path is None else _opened(self.path / shard)
        return torch.from_numpy(stored[name][row]).float()


@lru_cache(256)  # a process may have a thousand open files
def _opened(path: Path) -> np.ndarray:
    """A shard mapped into memory, whose pages all processes of a machine share."""
    return np.load(path, mmap_mode="c").view(np.ndarray)
