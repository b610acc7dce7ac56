"""The names and calls of the design document for data, where they differ from ours."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import DataError
from ..hashing import random_key
from ..incomplete import Incomplete
from ..trees.folder import open_tree
from .augment import Augmentation, Sample, moved, symmetry
from .dataset import RadioMapDataset, SampleStream, to_device, worker_settings


class RadioUNet_c(RadioMapDataset):  # noqa: N801 - the document's name
    """What `open_tree` finds as a dataset; `options` as for `open_tree` and `RadioMapDataset`."""

    def __init__(self, data_root: str | Path, simulation_type: str = "DPM", **options: Any):
        own = {name: options.pop(name) for name in ("split", "missing_buildings", "max_samples") if name in options}
        super().__init__(open_tree(data_root, simulation_type, **own), **options)


class Epochs:
    """Batches of (index, key). Every iteration is an epoch of whole batches: new order, new keys, another remainder left out."""

    drop_last = True

    def __init__(self, length: int, batch_size: int, seed: int):
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        self.epoch += 1
        return islice(SampleStream(self.length, self.batch_size, random_key(self.seed, self.epoch)), len(self))


class EpochLoader(DataLoader):
    """`for batch in loader` is one epoch, see `Epochs`; `next(loader)` takes the batches of one epoch after another."""

    _taken: Iterator[dict[str, Any]] | None = None

    def __next__(self) -> dict[str, Any]:
        if self._taken is None:
            self._taken = (batch for _ in count() for batch in self)
        return next(self._taken)


def create_dataloader(config: Any) -> EpochLoader:
    """Augmented batches of the data that `config.data.params` names; further settings of a resolved Config are used, too."""

    def given(owner: Any, *names: str) -> dict[str, Any]:
        return {name: getattr(owner, name) for name in names if hasattr(owner, name)}

    data, batch_size, seed = config.data.params, config.trainer.batch_size, getattr(config.trainer, "seed", 0)
    source = getattr(data, "train", data)
    options = given(source, "data_root", "simulation_type", "split", "missing_buildings", "max_samples")
    options |= given(data, "image_size", "cond_size", "cond_channels", "cache", "cache_folder")
    for name, kind in (("augmentation", Augmentation), ("incomplete", Incomplete)):
        options[name] = kind(**vars(getattr(data, name, kind())))
    dataset, workers = RadioUNet_c(**options), getattr(data, "num_workers", 4)
    if len(dataset) < batch_size:
        raise DataError(f"{dataset.source.report}: fewer than one batch of {batch_size} (trainer.batch_size)")
    return EpochLoader(dataset, batch_sampler=Epochs(len(dataset), batch_size, seed), **worker_settings(workers))


def process_batch(batch: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """`to_device` under the document's names: `images`, `conditions` and `masks`."""
    renamed = {"image": "images", "cond": "conditions", "ori_mask": "masks"}
    return {renamed.get(name, name): value for name, value in to_device(batch, device).items()}


class RandomAugmentation:
    """With probability p one of the document's four changes: a flip in either direction, a rotation by up to 90 degrees, a
    change of brightness and contrast by up to a tenth. They are drawn from torch's global generator.
    """

    transforms: tuple[Callable[[Sample, int], Sample], ...] = (
        lambda sample, seed: moved(sample, lambda x, fill: symmetry(x, 4)),  # left and right
        lambda sample, seed: moved(sample, lambda x, fill: symmetry(x, 6)),  # top and bottom
        Augmentation(flip=False, rot90=False, rotation=90.0),
        Augmentation(flip=False, rot90=False, color_jitter=0.1),
    )

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, x: Sample | Tensor) -> Sample | Tensor:
        """A sample dict, whose image, cond and ori_mask move together, or an image (1, H, W) in [-1, 1]; shapes are kept."""
        if float(torch.rand(())) >= self.p:
            return x
        sample = {"image": x, "ori_mask": torch.zeros_like(x)} if isinstance(x, Tensor) else x
        transform = self.transforms[int(torch.randint(len(self.transforms), ()))]
        sample = transform(sample, int(torch.randint(2**62, ())))
        return sample["image"] if isinstance(x, Tensor) else sample
