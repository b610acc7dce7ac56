"""What all training commands do around the loop: command line, dry run, data on the device."""

import argparse
import logging
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from data import Augmentation, OwnSamples, close_dataloader, create_dataloader, create_dataset, process_batch

from .build import build_discriminator
from .checkpoint import find_checkpoint
from .config import load_config, placeholders, to_yaml
from .config.schema import Config
from .errors import ConfigError
from .loading import build_model
from .processes import make_accelerator
from .report import count_parameters, model_report
from .trainer import Trainer
from .validation import Validation


def _read_arguments(stage: str, description: str) -> tuple[Config, bool]:
    """Parse `--cfg FILE [--dry_run] [key=value ...]` -> (resolved configuration, dry run?)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, help="YAML file, e.g. configs/radio_train_m.yaml")
    parser.add_argument(
        "--dry_run", action="store_true", help="check the file, print what it means and the networks' sizes, stop"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments = parser.parse_args()
    return load_config(arguments.cfg, arguments.overrides, stage=stage), arguments.dry_run


def _dry_run(config: Config, stage: str) -> None:
    """Print the resolved configuration and the networks' sizes; allocates and writes nothing, needs no data."""
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {"model": build_model(config, stage)}
        if stage == "vae" or config.first_stage_config.trainable:
            parts["discriminator"] = build_discriminator(config.first_stage_config)
    print(to_yaml(config))
    print(model_report(parts, depth=2))
    total = sum(count_parameters(part)[0] for part in parts.values())
    print(f"{stage}: {total:,} parameters in all")
    used = [key for key in placeholders(config) if not key.startswith("sample.")]
    if used:
        print(f"to be replaced before training: {', '.join(used)}")


def _require_no_placeholders(config: Config) -> None:
    """Raises ConfigError that names every `path/to/...` of the training sections which is still in place.

    A `specific_type` is left to the dataset: a tree of ready-made conditions needs no simulation type.
    """
    used = [
        key for key in placeholders(config) if not key.startswith("sample.") and not key.endswith("simulation_type")
    ]
    if config.data.train.data_root is None:
        used.append("data.train.data_root")
    if used:
        raise ConfigError(
            f"{', '.join(used)}: still a placeholder; set it in the file or on the command line (key=value)"
        )


def _set_up_logging(accelerator: Accelerator) -> None:
    """Warnings to the terminal, from the main process only; progress bars and train.log show the rest."""
    level = logging.WARNING if accelerator.is_main_process else logging.ERROR
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    logging.basicConfig(format="%(message)s", handlers=[handler])


class TrainingData:
    """The training stream; the tree is opened once.

    Args:
        config: resolved.
        dataset: one of your own, see `data.OwnSamples`; None for what the configuration names.

    Raises:
        data.DataError: no data where the configuration points.
    """

    def __init__(self, config: Config, dataset: Dataset | None = None):
        self.config = config
        self.dataset: Any
        if dataset is not None:
            if config.data.cache_latents:
                raise ConfigError("data.cache_latents keeps trees of files; set it to false for a dataset of your own")
            self.dataset = OwnSamples(dataset, Augmentation(**vars(config.data.augmentation)))
        else:
            tolerant = config.trainer.max_bad_samples > 0
            self.dataset = create_dataset(config.data.train, config.data, augmented=True, tolerant=tolerant)

    def batches(self, accelerator: Accelerator, first: int) -> Generator[dict[str, Any], None, None]:
        """Endless micro-batches of this process on its device, from number `first` on."""
        loader = create_dataloader(
            self.config,
            dataset=self.dataset,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            start_batch=first,
            endless=True,
        )
        try:
            for batch in loader:
                yield process_batch(batch, accelerator.device)
        finally:
            close_dataloader(loader)


def is_continued(config: Config) -> bool:
    """Whether the results folder holds a checkpoint that the run goes on from."""
    return config.trainer.enable_resume and find_checkpoint(Path(config.trainer.results_folder)) is not None


@dataclass
class Start:
    """A run that may begin: its settings are checked, its data is open, its processes know each other."""

    config: Config
    stage: str
    accelerator: Accelerator
    data: TrainingData

    @property
    def starts_from_weights(self) -> bool:
        """Whether this is a new run that begins with the weights of another one."""
        return self.config.trainer.init_from is not None and not is_continued(self.config)

    def train(self, model: nn.Module, objectives: list[nn.Module], **prepare) -> None:
        """Train `model` by `objectives` to the end; arguments and errors as `Trainer`."""
        settings = self.config.trainer
        wanted = (settings.validate_every or settings.num_samples) and self.config.data.validation.data_root
        validation = Validation(self.config, self.stage, self.accelerator) if wanted else None
        parts = {"accelerator": self.accelerator, "validation": validation} | prepare
        Trainer(self.config, self.stage, model, objectives, self.data.batches, **parts).train()


def begin(stage: str, description: str, check: Callable[[Config], None] | None = None) -> Start | None:
    """Read the command line, check everything that can be checked without a network, and open the data.

    Args:
        stage: `vae`, `ldm` or `baseline`.
        description: of the command, for --help.
        check: raises ConfigError for what only this stage needs.

    Returns:
        the start of a run; None after a dry run.

    Raises:
        ConfigError, data.DataError: naming what is wrong.
    """
    config, only_check = _read_arguments(stage, description)
    if only_check:
        _dry_run(config, stage)
        return None
    _require_no_placeholders(config)
    if check is not None:
        check(config)
    return start(config, stage)


def start(config: Config, stage: str, dataset: Dataset | None = None) -> Start:
    """What `begin` gives, from a configuration instead of a command line.

    Args:
        config: resolved, as `load_config` gives it.
        stage: `vae`, `ldm` or `baseline`.
        dataset: one of your own, see `data.OwnSamples`; None for what the configuration names.

    Raises:
        ConfigError, data.DataError: naming what is wrong.
    """
    some_unused = config.diffusion_config.end_to_end.start_step is not None  # the decoder, until then
    accelerator = make_accelerator(config.trainer, some_unused=stage == "ldm" and some_unused)
    _set_up_logging(accelerator)
    return Start(config, stage, accelerator, TrainingData(config, dataset))
