"""Arrays of numbered samples that are computed once and kept, in memory or in files that later runs reuse."""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..files import lock, write_json
from ..hashing import digest

DTYPE = np.float16  # relative error 5e-4, about that of an 8-bit grey level
DONE = "done"
SHARDS = 64  # files per array of a cache on disk
FLUSH_EVERY = 256  # samples between two flushes to disk


def _dtype(name: str) -> type:
    return np.uint8 if name == DONE else DTYPE


@dataclass(frozen=True)
class Processes:
    """Those that fill a cache together, on one machine or several; by default there is one.

    Args:
        rank, count: number of this process, from 0 on, and of all.
        gather: function (value) -> the values of all processes; called by all of them, each of which waits for the others.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]


class SampleCache:
    """`count` samples, each a few arrays of fixed shapes in half precision.

    On disk, a cache is a folder below `folder`, named by a hash of what its samples are made from, so that it is never
    used for other data and nothing is ever overwritten:

        cache.json     what the samples are made from
        NAME_000.npy   (rows, *shape) float16, mapped into memory; all processes of a machine share its pages
        done_000.npy   (rows,) uint8: 1 for samples that are stored; an interrupted filling resumes from here

    and so on for each shard, a run of samples. Processes write different shards, because a network file system corrupts
    pages that two machines write.

    Args:
        kind: first part of the folder's name, e.g. `samples`.
        count: number of samples.
        shapes: shape of each array of a sample, by name.
        folder: where caches are kept; None for memory, where each process has its own.
        identity: what the samples are made from, in JSON types.
        group: this many consecutive samples lie in one shard; `count` is a multiple of it.
        processes: those that fill the cache together.

    Raises:
        DataError: too little space on the disk, detected before anything is written, an unusable folder, or one that not
            all processes see.
    """

    def __init__(
        self,
        kind: str,
        count: int,
        shapes: Mapping[str, tuple[int, ...]],
        folder: Path | None = None,
        identity: Mapping[str, object] | None = None,
        *,
        group: int = 1,
        processes: Processes = Processes(),  # noqa: B008
    ):
        self.rows = count if folder is None else -(-count // (SHARDS * group)) * group
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.path: Path | None = None
        self.processes: Any = processes
        sizes = [min(self.rows, count - first) for first in range(0, count, self.rows)]
        every = self.shapes | {DONE: ()}
        self._shards = {name: [(size, *shape) for size in sizes] for name, shape in every.items()}
        self.arrays: dict[str, list[Any]] = {}  # of samples by name, and DONE: one array per shard
        self._marking = threading.Lock()
        self._unmarked: list[int] = []  # written, but not flushed yet
        if folder is None:
            self.arrays = {n: [np.zeros(shape, _dtype(n)) for shape in shapes] for n, shapes in self._shards.items()}
            return
        facts = {"count": count, "rows": self.rows, "shapes": {k: list(v) for k, v in self.shapes.items()}}
        facts |= identity or {}
        self.path = folder / f"{kind}_{digest(facts)}"
        try:
            if processes.rank == 0:
                self.path.mkdir(parents=True, exist_ok=True)
                with self._locked([len(sizes)]):
                    if not (self.path / "cache.json").exists():
                        self._create(facts)
            self._require_one_folder()
            self.open()
        except DataError:
            raise
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be used ({error}); name another data.cache_folder") from error

    def _require_one_folder(self) -> None:
        """DataError unless all processes see the folder that the first one uses."""
        self.processes.gather(None)  # until it is there
        facts = self.path / "cache.json"
        seen = self.processes.gather(facts.stat().st_mtime_ns if facts.exists() else None)
        if len(set(seen)) > 1:
            said = "not all processes see this folder, or their copies of the data differ in sizes or times"
            raise DataError(f"{self.path}: {said}; name a data.cache_folder and a data.train.data_root that all see")

    @property
    def done(self) -> list[Any]:
        """By shard: 1 for samples that are stored."""
        return self.arrays[DONE]

    def _file(self, name: str, shard: int) -> Path:
        return self.path / f"{name}_{shard:03}.npy"

    def _create(self, facts: dict[str, object]) -> None:
        """Files of zeros with their space reserved: writing to a mapped file on a full disk would kill the process."""
        each = [(name, i, shape) for name, shapes in self._shards.items() for i, shape in enumerate(shapes)]
        needed = sum(int(np.prod(shape)) * np.dtype(_dtype(name)).itemsize for name, _, shape in each)
        free = shutil.disk_usage(self.path).free
        if free < needed + 2**20:
            raise DataError(
                f"{self.path}: needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free; free some space, "
                "name another data.cache_folder, or leave the cache off"
            )
        for name, shard, shape in each:
            path = self._file(name, shard)
            np.lib.format.open_memmap(path, "w+", _dtype(name), shape).flush()
            if hasattr(os, "posix_fallocate"):
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        write_json(self.path / "cache.json", facts)  # last: its presence says that all files are there

    def open(self) -> None:
        """Map the files; called again after other processes wrote, so that network file systems fetch their data."""
        if self.path is not None:
            opened = np.lib.format.open_memmap
            self.arrays = {
                name: [opened(self._file(name, shard), "r+") for shard in range(len(shapes))]
                for name, shapes in self._shards.items()
            }

    def __getstate__(self) -> dict:
        """A worker that does not inherit memory opens the files again."""
        return self.__dict__ | {"_marking": None, "processes": None} | ({} if self.path is None else {"arrays": {}})

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._marking = threading.Lock()
        self.open()

    @contextmanager
    def _locked(self, places: Iterable[int]) -> Iterator[None]:
        """Hold a lock for each of these numbers; a process that wants one that another one holds waits."""
        if self.path is None:
            yield
            return
        with (self.path / ".lock").open("a") as file:
            for place in places:
                lock(file, place, wait=True)
            yield

    def missing(self) -> np.ndarray:
        """Numbers of the samples that are not stored yet."""
        return np.flatnonzero(np.concatenate(self.done) == 0)

    @contextmanager
    def filling(self) -> Iterator[list[int]]:
        """Gives the numbers of the missing samples that this process has to write in the context: those of every
        `processes.count`-th shard, which no other run writes meanwhile. At the end, the process waits for the others.

        Raises:
            DataError: afterwards a sample is missing.
        """
        rank, count = (0, 1) if self.path is None else (self.processes.rank, self.processes.count)
        with self._locked(range(rank, len(self.done), count)):
            self.open()  # what another run has written
            try:
                yield [index for index in self.missing().tolist() if self.shard(index) % count == rank]
            finally:
                self.flush()
        self.processes.gather(None)
        self.open()
        if absent := len(self.missing()):
            raise DataError(f"{self.path}: {absent} samples that other processes stored are not here; run it again")

    def shard(self, index: int) -> int:
        """Number of the shard that a sample belongs to."""
        return index // self.rows

    def write(self, index: int, sample: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        """Store a sample, which counts from the next `flush` on; threads may write different samples concurrently."""
        shard, row = divmod(index, self.rows)
        for name in self.shapes:
            self.arrays[name][shard][row] = sample[name]
        with self._marking:
            self._unmarked.append(index)
        if len(self._unmarked) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write everything to disk, the samples before the marks that declare them stored."""
        with self._marking:
            written, self._unmarked = self._unmarked, []
        shards = {self.shard(index) for index in written}
        for name in (*self.shapes, DONE):
            if name == DONE:
                for index in written:
                    self.done[self.shard(index)][index % self.rows] = 1
            if self.path is not None:
                for shard in shards:
                    self.arrays[name][shard].flush()

    def read(self, index: int, name: str) -> torch.Tensor:
        """One array of a stored sample, float32."""
        shard, row = divmod(index, self.rows)
        return torch.from_numpy(self.arrays[name][shard][row]).float()
