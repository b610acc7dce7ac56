"""What the training commands share: command line, dry run, process group and precision."""

import argparse
import logging
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)

from data.conditions import CAR_CHANNELS, CONDITION_CHANNELS

from ..build import build_model
from ..cli import parse
from ..config import load_config, to_yaml
from ..config.derive import is_placeholder
from ..config.reader import settings_table
from ..config.schema import DEFAULTS, Config, TrainerConfig, get
from ..errors import CheckpointError, ConfigError
from .forecast import report
from .objectives import make_objectives
from .run_folder import model_report
from .speed import has_bfloat16
from .stopping import TIMEOUT
from .validation import Validation

log = logging.getLogger("radiodiff")


def read_command(stage: str, description: str) -> Config:
    """Parse `--cfg FILE [--dry_run] [key=value ...]` -> the resolved configuration; exits after `--dry_run` and `--help_config`.

    Raises:
        ConfigError: naming what is wrong.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", help="YAML file, see configs/")
    parser.add_argument(
        "--dry_run", action="store_true", help="print all settings, sizes and the memory of a step, and exit"
    )
    parser.add_argument("--help_config", nargs="?", const="", metavar="WORD",
                        help="print all settings, or those whose line contains WORD, and exit")  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    arguments = parse(parser)
    if arguments.help_config is not None:
        print(settings_table(arguments.help_config) or f"no setting contains {arguments.help_config!r}")
        parser.exit()
    if arguments.cfg is None:
        parser.error("give a configuration file with --cfg")
    # warnings to the terminal, from the main process only; progress bars and train.log show the rest
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    config = load_config(arguments.cfg, arguments.overrides, stage=stage)
    unset = [key for key in DEFAULTS if is_placeholder(get(config, key)) and not key.startswith("sample.")]
    if arguments.dry_run:
        if os.environ.get("RANK", "0") == "0":
            _dry_run(config, stage, unset)
        parser.exit()
    # a `specific_type` is not checked here: a tree of ready-made conditions needs no simulation type
    unset = [key for key in unset if not key.endswith("simulation_type")]
    if config.data.train.data_root is None:
        unset.append("data.train.data_root")
    if unset:
        raise ConfigError(f"{', '.join(unset)}: still a placeholder; set it in the file or as key=value")
    has_cars = config.data.train.simulation_type.startswith("cars")
    if has_cars and CAR_CHANNELS.isdisjoint(config.data.cond_channels or ()):
        log.warning("data.train.simulation_type has cars, which no channel shows: add cars to data.cond_channels")
    return config


def _dry_run(config: Config, stage: str, unset: list[str]) -> None:
    """Print the resolved configuration, the networks' sizes and what a step needs; allocates and writes nothing, needs no data."""
    print(to_yaml(config))
    try:
        with torch.device("meta"):
            model = build_model(config, stage)
            objectives = make_objectives(config, stage, model)
        print(model_report({"model": model} | {str(objective.name): objective for objective in objectives[1:]}))
        print("memory: forecast only without a launcher" if "RANK" in os.environ else report(config, stage))
    except CheckpointError as error:  # LPIPS' weights
        print(error)
    unknown = [name for name in config.data.cond_channels if name not in CONDITION_CHANNELS]
    if unknown:
        print(f"data.cond_channels: {', '.join(unknown)}: only a tree of ready-made conditions can have such channels")
    if unset:
        print(f"to be replaced before training: {', '.join(unset)}")


def make_accelerator(config: TrainerConfig, *, some_unused: bool = False) -> Accelerator:
    """The process group and precision of a run; `accelerate launch --mixed_precision` wins over the file.

    Seeds torch, so that networks built afterwards start from the same weights in every run and process.

    Args:
        some_unused: allow steps in which some trainable parameters take no part.

    Raises:
        ConfigError: a tracker that is unknown or not installed, or a way of distributing the model that this loop does not
            support.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "")
    precision = launched if launched not in ("", "no") else config.mixed_precision
    if precision == "auto":  # bf16 where the processor computes it natively
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = "bf16" if has_bfloat16(device) else "no"
    if precision == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        log.warning("mixed_precision fp16 needs a GPU: training in full precision (CPUs can use bf16)")
        precision = "no"
    if absent := set(config.log_with) - {tracker.value for tracker in get_available_trackers()}:
        raise ConfigError(f"trainer.log_with: {', '.join(absent)}: not a tracker of accelerate's, or not installed")
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    accelerator = Accelerator(
        # as a plugin, which wins over the launcher's environment
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.gradient_accumulation),
        mixed_precision=precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=some_unused, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
        log_with=config.log_with or None,
        project_dir=Path(config.results_folder).resolve().parent,  # a tracker's folder has the project's name
        cpu=not torch.accelerator.is_available(),  # or several processes without GPUs would each run as if alone
    )
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32  # torch would let convolutions use it unasked
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type.value}; this loop keeps whole networks in every process: "
            "accelerate launch --multi_gpu --num_processes N"
        )
    return accelerator


def end_processes() -> None:
    """End the group of a command's processes; a run leaves it to the next run of a script."""
    PartialState().destroy_process_group()


def make_validation(config: Config, stage: str, accelerator: Accelerator) -> Validation | None:
    """The scenes that are scored and shown during the run; None if there are none."""
    wanted = (config.trainer.validate_every or config.trainer.num_samples) and config.data.validation.data_root
    return Validation(config, stage, accelerator) if wanted else None
