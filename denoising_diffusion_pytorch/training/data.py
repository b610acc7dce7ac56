"""The stream of training batches of a run."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.utils.data import Dataset

from data.incomplete import Incomplete
from data.samples.augment import Augmentation
from data.samples.dataset import OwnSamples, RadioMapDataset, close_dataloader, training_loader
from data.samples.document import process_batch
from data.trees.folder import open_tree

from ..config.schema import Config, SourceConfig
from ..errors import ConfigError
from ..networks.autoencoder import AutoencoderKL
from .latents import encode_dataset


def open_dataset(config: Config, source: SourceConfig, **options) -> RadioMapDataset:
    """The dataset of a source, with the sizes and channels that the networks expect; `options` as in `RadioMapDataset`.

    Raises:
        data.DataError: no data where the configuration points.
    """
    data = config.data
    tree = open_tree(
        source.data_root, source.simulation_type, source.split, source.missing_buildings, source.max_samples
    )
    return RadioMapDataset(
        tree,
        image_size=data.image_size,
        cond_size=data.cond_size,
        cond_channels=data.cond_channels,
        incomplete=Incomplete(**vars(data.incomplete)),
        **options,
    )


class TrainingData:
    """The training samples of a run; the tree is opened once.

    Args:
        config: resolved.
        accelerator: decides device, rank and number of processes.
        dataset: one of your own, see `data.loader.OwnSamples`; None for what the configuration names.

    Raises:
        data.DataError: no data where the configuration points.
        ConfigError: `data.cache_latents` with a dataset of your own.
    """

    def __init__(self, config: Config, accelerator: Accelerator, dataset: Dataset | None = None):
        self.config, self.accelerator = config, accelerator
        augmentation = Augmentation(**vars(config.data.augmentation))
        self.dataset: Any
        if dataset is None:
            self.dataset = open_dataset(
                config,
                config.data.train,
                augmentation=augmentation,
                cache=config.data.cache,
                cache_folder=config.data.cache_folder,
            )
        elif config.data.cache_latents:
            raise ConfigError("data.cache_latents keeps trees of files; set it to false for a dataset of your own")
        else:
            self.dataset = OwnSamples(dataset, augmentation)

    def cache_latents(self, autoencoder: AutoencoderKL) -> None:
        """Add the posterior of every map in all its symmetries to the samples; those not yet on disk are encoded first."""
        self.dataset = encode_dataset(
            self.dataset,
            autoencoder,
            Path(self.config.data.cache_folder or self.config.trainer.results_folder),
            self.accelerator,
            batch_size=self.config.trainer.batch_size,
            num_workers=self.config.data.num_workers,
        )

    def batches(self, first: int) -> Generator[dict[str, Any], None, None]:
        """Endless micro-batches of this process on its device, from number `first` on."""
        loader = training_loader(
            self.dataset,
            self.config.trainer.batch_size,
            self.config.trainer.seed,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            start_batch=first,
            num_workers=self.config.data.num_workers,
        )
        try:
            for batch in loader:
                yield process_batch(batch, self.accelerator.device)
        finally:
            close_dataloader(loader)
