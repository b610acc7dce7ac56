"""The stream of training batches of a run, and what is computed from it before the first step: latents and their scale."""

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data import DataError
from data.hashing import digest
from data.incomplete import Incomplete
from data.samples.augment import Augmentation, symmetry
from data.samples.cache import CacheProcesses, SampleCache
from data.samples.dataset import (
    OwnSamples,
    RadioMapDataset,
    close_dataloader,
    to_device,
    training_loader,
    worker_settings,
)
from data.trees.folder import open_tree

from ..config.schema import Config, SourceConfig
from ..errors import ConfigError
from ..latent_diffusion import LatentDiffusion
from ..networks.autoencoder import AutoencoderKL, DiagonalGaussianDistribution

SCALE_SAMPLES = 512  # over all processes, from which the latents' standard deviation is measured


def processes_of(accelerator: Accelerator) -> CacheProcesses:
    """The processes of a run, in the form that a cache expects."""
    return CacheProcesses(accelerator.process_index, accelerator.num_processes, lambda value: gather_object([value]))


def open_dataset(config: Config, source: SourceConfig, processes: CacheProcesses, **options: Any) -> RadioMapDataset:
    """The dataset of a source, with the sizes and channels that the networks expect; `options` as in `RadioMapDataset`.

    Raises:
        data.DataError: no data at the configured place, or other data than another process sees there.
    """
    data, tree = config.data, open_tree(**vars(source))
    sizes = {name: getattr(data, name) for name in ("image_size", "cond_size", "cond_channels")}
    reports = dict(processes.gather((digest(tree.names), tree.report)))
    if len(reports) > 1:
        raise DataError(f"processes see different scenes: {' | '.join(reports.values())}; all must read the same tree")
    incomplete = Incomplete(**vars(data.incomplete))
    return RadioMapDataset(tree, **sizes, incomplete=incomplete, processes=processes, **options)


class TrainingData:
    """The training samples of a run, from what the configuration names or a `dataset` of your own, see `OwnSamples`.

    DataError: no data at the configured place. ConfigError: settings that exclude each other.
    """

    def __init__(self, config: Config, accelerator: Accelerator, dataset: Dataset | None = None):
        self.config, self.accelerator, self.processes = config, accelerator, processes_of(accelerator)
        data, augmentation = config.data, Augmentation(**vars(config.data.augmentation))
        if data.incomplete.points and augmentation.color_jitter:
            message = "changes the image, but not the points measured on it; set it or data.incomplete.points to 0"
            raise ConfigError(f"data.augmentation.color_jitter: {message}")
        self.dataset: Any
        if dataset is None:
            cache = {"cache": data.cache, "cache_folder": data.cache_folder}
            self.dataset = open_dataset(config, data.train, self.processes, augmentation=augmentation, **cache)
            accelerator.print(self.dataset.source.report)
            data.map_size = data.map_size or self.dataset.scene(0).layout.shape[0]
        elif data.cache_latents:
            raise ConfigError("data.cache_latents works with trees of files; set it to false for a dataset of your own")
        elif data.map_size is None:
            raise ConfigError("data.map_size: is not set; a dataset of your own needs the side of its maps, in metres")
        else:
            sizes = data.image_size, data.cond_size, len(data.cond_channels)
            self.dataset = OwnSamples(dataset, augmentation, *sizes)

    @torch.no_grad()
    def cache_latents(self, autoencoder: AutoencoderKL) -> None:
        """Add to every sample the posterior of its image, from a cache below `data.cache_folder` or the results folder, one for
        each encoder and dataset. Missing posteriors are encoded first, by all processes together, in full precision.

        Raises:
            data.DataError: a map that cannot be read, or a folder that not all processes see. OSError: a full disk.
        """
        settings, accelerator, dataset = self.config.data, self.accelerator, self.dataset
        autoencoder, symmetries = autoencoder.to(accelerator.device).eval(), dataset.augmentation.symmetries
        side, count = dataset.image_size // autoencoder.downsampling_factor, len(symmetries)
        weights = {k: v for k, v in autoencoder.state_dict().items() if k.startswith(("encoder.", "quant_conv."))}
        encoder = digest(*(piece for k, v in weights.items() for piece in (k, v.cpu().contiguous().numpy().tobytes())))
        identity = dataset.identity(cond=False) | {"encoder": encoder, "symmetries": symmetries}
        shapes = {"moments": (2 * autoencoder.embed_dim, side, side)}
        folder, rows = Path(settings.cache_folder or self.config.trainer.results_folder), len(dataset) * count
        cache = SampleCache("latents", rows, shapes, folder, identity, group=count)
        with cache.filling(self.processes) as missing:
            mine = sorted({row // count for row in missing})
            size, workers = max(1, self.config.trainer.batch_size // count), settings.num_workers if mine else 0
            loader, row = DataLoader(dataset, size, sampler=mine, **worker_settings(workers)), iter(mine)
            for batch in tqdm(loader, desc="encoding", unit="batch", disable=not accelerator.is_main_process):
                images = batch["image"].to(accelerator.device)
                turned = torch.stack([symmetry(images, s) for s in symmetries], dim=1).flatten(0, 1)  # map by map
                posterior = autoencoder.encode(turned)
                for own in torch.cat([posterior.mean, posterior.logvar], dim=1).cpu().split(count):
                    for place, value in enumerate(own, start=next(row) * count):
                        cache.write(place, {"moments": value})
        self.dataset = CachedLatents(dataset, cache)

    def measure_scale(self, model: LatentDiffusion) -> None:
        """Set a model's scale factor, on all processes."""
        scale = model.set_scale(self.first_posteriors(model), lambda total: sum(gather_object([total])))
        self.accelerator.print(f"latent scale factor {scale:.5f}")

    def first_posteriors(self, model: LatentDiffusion) -> Iterator[DiagonalGaussianDistribution]:
        """Posteriors of this process's part of the first samples, which are the same for any number of processes."""
        size, processes = self.config.trainer.batch_size, self.processes
        with closing(self.batches(0)) as batches:
            for first in range(processes.rank * size, SCALE_SAMPLES, size * processes.count):
                batch, last = next(batches), SCALE_SAMPLES - first
                moments = batch["moments"]
                yield model.posterior(batch["image"][:last], None if moments is None else moments[:last])

    def batches(self, first: int) -> Generator[dict[str, Any], None, None]:
        """Endless micro-batches of this process on its device, from number `first` on."""
        loader = training_loader(
            self.dataset,
            self.config.trainer.batch_size,
            self.config.trainer.seed,
            rank=self.processes.rank,
            world_size=self.processes.count,
            start_batch=first,
            num_workers=self.config.data.num_workers,
        )
        try:
            for batch in loader:
                yield to_device(batch, self.accelerator.device)
        finally:
            close_dataloader(loader)


class CachedLatents(Dataset):
    """The samples of a dataset, each with `moments` (2 Z, h, w): mean and log-variance of the posterior of its image, float32.

    Stored in half precision: a relative error of at most 5e-4. See `TrainingData.cache_latents`.
    """

    def __init__(self, dataset: RadioMapDataset, cache: SampleCache):
        self.dataset, self.cache, self.symmetries = dataset, cache, dataset.augmentation.symmetries

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        index, key = item
        turn = self.symmetries.index(self.dataset.augmentation.symmetry_of(key))
        return self.dataset[item] | {"moments": self.cache.read(index * len(self.symmetries) + turn, "moments")}
