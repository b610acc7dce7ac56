"""The process group and the precision of a run."""

import logging
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from .config.schema import TrainerConfig
from .errors import ConfigError

log = logging.getLogger("radiodiff")


def choose_precision(setting: str) -> str:
    """`auto` -> bf16 where the processor computes it natively, else no; anything else is returned as it is."""
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "no"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()  # no public question in torch yet
    return "bf16" if native else "no"


def make_accelerator(config: TrainerConfig, *, some_unused: bool = False) -> Accelerator:
    """The process group and precision of a run; `accelerate launch --mixed_precision` wins over the file.

    `some_unused` allows steps in which some trainable parameters take no part.

    Seeds torch by `seed`, so that networks built afterwards start from the same weights in every run and process.

    Raises:
        ConfigError: a way of distributing the model that this loop does not support.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
    precision = launched if launched and launched != "no" else choose_precision(config.mixed_precision)
    if precision == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        log.warning("mixed_precision fp16 needs a GPU: training in full precision (bf16 is there for CPUs)")
        precision = "no"
    if "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ and launched:
        log.warning(
            "accelerate launch was asked for several processes and started one: without GPUs it needs --multi_gpu all the same"
        )
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation,
        mixed_precision=precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=some_unused)],
        cpu=not torch.accelerator.is_available(),  # or several processes without GPUs would each believe to be alone
    )
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32  # torch would let convolutions use it unasked
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type.value}; this loop keeps whole networks in every process "
            "(accelerate launch --multi_gpu --num_processes N): they fit any GPU that their activations fit, and the averaged "
            "weights and checkpoints need all parameters in one place"
        )
    return accelerator
