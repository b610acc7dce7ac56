"""Scenes -> samples -> batches on the device."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..conditions import CONDITION_CHANNELS, DOCUMENT_CHANNELS, check_channels
from ..errors import DataError
from ..geometry.resize import resize
from ..hashing import random_key
from ..incomplete import Incomplete
from ..measurements import MEASURED, SIMULATED, corrected, spread_points
from ..prepare import SAMPLES_VERSION, prepare
from ..scene import Scene
from ..trees.folder import FlatTree, Tree
from ..workers import start_worker, usable_processors
from .augment import Augmentation
from .cache import DTYPE, CacheProcesses, SampleCache

READ_AHEAD = 128  # samples that are prepared together and then written to a cache


class RadioMapDataset(Dataset):
    """Samples of a tree: `image` (1, S, S), `cond` (C, s, s), `ori_mask` (1, S, S), `name`, `key`.

    `dataset[i]` is sample i unchanged; `dataset[i, key]` is augmented by a draw that depends on `key` alone.

    With `cache`, every sample is prepared once, at construction, and kept in half precision. A DataError names a file that
    cannot be read.
    """

    def __init__(
        self,
        source: Tree,
        image_size: int = 320,  # S
        cond_size: int = 80,  # s
        cond_channels: Sequence[str] = DOCUMENT_CHANNELS,  # of conditions.py; for a flat tree only their number counts
        augmentation: Augmentation | None = None,
        incomplete: Incomplete | None = None,  # what the condition lacks
        cache: bool = False,
        cache_folder: str | Path | None = None,  # of the cache, see cache.py; None for memory
        processes: CacheProcesses = CacheProcesses(),  # noqa: B008 - that fill a cache in files together
    ):
        self.source = source
        self.image_size, self.cond_size, self.cond_channels = image_size, cond_size, tuple(cond_channels)
        self.augmentation, self.incomplete = augmentation, incomplete or Incomplete()
        ready_made = isinstance(source, FlatTree)
        if not ready_made:
            check_channels(self.cond_channels)
        self.incomplete.require_drawn_conditions(ready_made, str(source.root))
        self.cached: SampleCache | None = None
        if cache:
            self.cached = self._filled_cache(Path(cache_folder) if cache_folder else None, processes)

    def __len__(self) -> int:
        return len(self.source)

    def scene(self, index: int) -> Scene:
        """The scene that sample `index` is made from, at native resolution, with a degraded condition."""
        return self.incomplete.shown(self.source.scene(index))

    def identity(self, *, cond: bool = True) -> dict[str, object]:
        """What determines the samples, or the images alone; changes when a file, a setting or SAMPLES_VERSION changes."""
        identity = self.source.identity() | {"image": self.image_size, "version": SAMPLES_VERSION}
        identity |= {"incomplete": asdict(self.incomplete.without_points)}  # the map is zero in known buildings
        return identity | ({"cond": self.cond_size, "channels": list(self.cond_channels)} if cond else {})

    def _read(self, index: int) -> dict[str, np.ndarray]:
        scene = self.scene(index)
        sample = prepare(scene, self.image_size, self.cond_size, self.cond_channels)
        if self.incomplete.points:
            native = [scene.gain]  # what points are drawn from, and what they correct
            if SIMULATED in self.cond_channels:
                native.append(CONDITION_CHANNELS[SIMULATED](scene, len(scene.gain)))
            sample["native"] = np.stack(native)
        return sample

    def _filled_cache(self, folder: Path | None, processes: CacheProcesses) -> SampleCache:
        """Prepare every sample once, in several threads."""
        shapes = {key: value.shape for key, value in self._read(0).items()}
        identity = self.identity() if folder else {}
        cache = SampleCache("samples", len(self), shapes, folder, identity)
        with (
            cache.filling(processes) as missing,
            ThreadPoolExecutor() as pool,
            tqdm(total=len(missing), desc="reading", unit="map", disable=processes.rank > 0 or not missing) as bar,
        ):
            for first in range(0, len(missing), READ_AHEAD):
                part = missing[first : first + READ_AHEAD]
                for index, sample in zip(part, pool.map(self._read, part), strict=True):
                    if np.abs(sample["cond"]).max() > np.finfo(DTYPE).max:  # a flat tree may hold any numbers
                        message = "its condition is too large for data.cache; scale it"
                        raise DataError(f"{self.source.names[index]}: {message}")
                    if any(sample[key].shape != shape for key, shape in shapes.items()):
                        message = "is not of the first map's size; set data.cache to false, or resize the maps"
                        raise DataError(f"{self.source.names[index]}: {message}")
                    cache.write(index, sample)
                    bar.update()
        return cache

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        index, key = item if isinstance(item, tuple) else (item, None)
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample: dict[str, Any]
        if self.cached is not None:
            sample = {name: self.cached.read(index, name) for name in self.cached.record.names}
        else:
            sample = {name: torch.from_numpy(value) for name, value in self._read(index).items()}
        if self.augmentation is not None and key is not None:
            sample = self.augmentation(sample, key)
        name = self.source.names[index]
        if self.incomplete.points:
            self._add_measurements(sample, name if key is None else key)
        return sample | {"name": name, "key": key or 0}

    def _add_measurements(self, sample: dict[str, Any], key: object) -> None:
        """Show points measured on the sample's own map, at its own resolution, drawn by `key`."""
        gain, *simulation = sample.pop("native").numpy()
        points = self.incomplete.measure(gain, np.random.default_rng(random_key("measured", key)))
        planes = {SIMULATED: resize(corrected(simulation[0], points), self.cond_size)} if simulation else {}
        if not set(self.cond_channels).isdisjoint(MEASURED):
            planes |= zip(MEASURED, spread_points(points, len(gain), self.cond_size), strict=True)
        for name in planes.keys() & set(self.cond_channels):
            sample["cond"][self.cond_channels.index(name)] = torch.from_numpy(2 * planes[name] - 1)


class OwnSamples(Dataset):
    """Your own samples in the form that training expects: augmented by their key, named by their number.

    `dataset` has a length, and `dataset[i]` is a dict of float32 tensors or arrays, as `prepare` makes it: `image` (1, S, S)
    and `cond` (C, s, s) in [-1, 1], and `ori_mask` (1, S, S), 1 where the map is certainly zero and `image` is -1, else 0.
    DataError for other shapes.
    """

    def __init__(self, dataset: Any, augmentation: Augmentation, image_size: int, cond_size: int, channels: int):
        if len(dataset) == 0:
            raise DataError("your dataset is empty")
        self.dataset, self.augmentation = dataset, augmentation
        image = (1, image_size, image_size)
        self.shapes = {"image": image, "cond": (channels, cond_size, cond_size), "ori_mask": image}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        index, key = item
        given = self.dataset[index]
        if not isinstance(given, Mapping):
            raise DataError(f"sample {index} of your dataset is a {type(given).__name__}, not a dict of tensors")
        given = {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
        for name, shape in self.shapes.items():
            message, value = f"sample {index} of your dataset: {name}", given.get(name)
            missing = f"a {type(value).__name__}" if name in given else "missing"
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else missing
            if found != f"torch.float32 {shape}":
                raise DataError(
                    f"{message} is {found}; data.image_size, cond_size and cond_channels need torch.float32 {shape}"
                )
            low, high = {"cond": (-math.inf, math.inf), "ori_mask": (0, 1)}.get(name, (-1, 1))
            if not (value.isfinite() & (low - 0.001 <= value) & (value <= high + 0.001)).all():
                raise DataError(f"{message} has values that are not finite, or beyond [{low:g}, {high:g}]")
        sample = {name: given[name] for name in self.shapes}
        return self.augmentation(sample, key) | {"name": str(index), "key": key}


@dataclass(eq=False)
class SampleStream:
    """Batch sampler of (index, key) over the global positions 0, 1, 2, ...; position p is sample p % n of epoch p // n.

    Micro-batch m of rank r takes the positions [(m W + r) B, (m W + r + 1) B). The sample at a position depends on the
    seed alone, so W processes with batches of B together see what one process sees with batches of W B, and an
    interrupted run resumes with `start_batch`. Batches may span two epochs; nothing is dropped or repeated.
    """

    length: int  # n, at least 1
    batch_size: int  # B
    seed: int = 0  # of the shuffle and the samples' keys
    _: KW_ONLY
    rank: int = 0  # r
    world_size: int = 1  # W
    start_batch: int = 0  # first micro-batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        last, order = -1, np.arange(0)
        for batch in count(self.start_batch):
            first, items = (batch * self.world_size + self.rank) * self.batch_size, []
            for position in range(first, first + self.batch_size):
                epoch, offset = divmod(position, self.length)
                if epoch != last:
                    last, order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.length)
                index = int(order[offset])
                items.append((index, random_key(self.seed, epoch, index)))
            yield items


def training_loader(
    dataset: RadioMapDataset | OwnSamples, batch_size: int, seed: int = 0, *, num_workers: int = 4, **order: Any
) -> DataLoader:
    """Shuffled, augmented batches that `num_workers` processes read; see `SampleStream` for `order`."""
    stream = SampleStream(len(dataset), batch_size, seed, **order)
    settings = worker_settings(num_workers)
    persistent = settings["num_workers"] > 0  # the loader then keeps its iterator, which `close_dataloader` needs
    return DataLoader(dataset, batch_sampler=stream, persistent_workers=persistent, **settings)


def worker_settings(num_workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader that reads in `num_workers` processes, limited to the number of processors."""
    workers = min(num_workers, usable_processors())
    settings = {"num_workers": workers, "pin_memory": torch.cuda.is_available(), "worker_init_fn": start_worker}
    # forked: other workers would each get a copy of a cache in memory
    options = {"prefetch_factor": 4, "multiprocessing_context": "fork" if sys.platform == "linux" else None}
    return settings | (options if workers else {})


def close_dataloader(loader: DataLoader) -> None:
    """Stop the workers of a loader now, not when its iterator is collected."""
    workers: Any = loader._iterator  # torch has no public method for this
    if workers is not None:
        workers._shutdown_workers()
        loader._iterator = None


def to_device(batch: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """A collated batch on the device: `image` (B, 1, S, S), `cond` (B, C, s, s), `ori_mask` (B, 1, S, S) and `moments`
    (B, 2 Z, h, w), None where absent; `names`, a list, and `keys`, a list or None, stay on the CPU, where they are used.
    """
    asynchronous = torch.device(device).type == "cuda"
    tensors = {name: batch.get(name) for name in ("image", "cond", "ori_mask", "moments")}
    moved = {name: None if x is None else x.to(device, non_blocking=asynchronous) for name, x in tensors.items()}
    return moved | {"names": list(batch["name"]), "keys": batch["key"].tolist() if "key" in batch else None}
