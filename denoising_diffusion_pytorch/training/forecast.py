"""What an optimizer step needs, before there is a GPU: memory by purpose, and floating point operations.

The real trainer takes real steps on fake tensors, which have shapes but no content: nothing is allocated, and every
operation reports the storages that it would have made. What a process on a GPU needs besides its tensors is `ALLOWANCE`.
"""

import gc
import logging
import math
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..build import build_model
from ..config.schema import Config, TrainerConfig
from .objectives import Batch, make_objectives
from .speed import matmul_peak
from .trainer import Trainer

log = logging.getLogger("radiodiff")
ALLOWANCE = int(
    1.5 * 2**30
)  # bytes of a GPU for CUDA's context, cuDNN's workspaces and the allocator's gaps; an estimate
CARDS = (16, 24, 40, 80)  # GiB
aten = torch.ops.aten
FORMULAS: dict[Any, Callable] = {  # of FLOPs, by operation; torch's lack the attention of CPUs
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad.shape, q.shape, k.shape, v.shape
    ),
    **flop_registry,
}


@dataclass(frozen=True)
class Forecast:
    """Bytes per process, and FLOPs per optimizer step and process.

    `activations` is what the peak holds besides weights, gradients, optimizer and average: what the backward pass needs,
    the batch, and intermediate results. `flops` counts products and convolutions, those that checkpointing repeats
    included.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    peak: int
    flops: int


def forecast(config: Config, stage: str, *, step: int | None = None) -> Forecast:
    """What an optimizer step of a run needs; takes seconds on a CPU, whatever the sizes, and allocates next to nothing.

    Args:
        config: resolved. `mixed_precision: auto` counts as bf16, and fp16 has the sizes of bf16.
        step: of the run, from 0 on; None: its last one, in which everything takes part that ever does.
    """
    accumulation = config.trainer.gradient_accumulation
    settings = config.trainer.model_copy(update={"compile": False, "gradient_accumulation": 1})
    config = config.model_copy(update={"trainer": settings})
    with FakeTensors(), Tally() as tally:
        trainer = random_trainer(config, stage, OnPaper(settings.mixed_precision))
        trainer.step = settings.training_steps - 1 if step is None else step
        active = trainer.active()
        trained = [p for optimization in active for p in optimization.parameters]
        if accumulation > 1:  # every micro-batch but the first one finds gradients, to which it adds
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        before_update: list[int] = []
        active[0].optimizer.register_step_pre_hook(lambda *_: before_update.append(tally.peak))
        gc.collect()
        tally.peak, tally.flops = tally.live, 0
        trainer.train_step(trainer.make_batches(0))
    weights = [*trainer.model.state_dict().values(), *(p for o in active for p in o.objective.parameters())]
    optimizer = size_of(tree_leaves([list(optimization.optimizer.state.values()) for optimization in active]))
    average = size_of([*weights, *trainer.ema.ema_model.state_dict().values()]) - size_of(weights)
    parts = {"weights": size_of(weights), "gradients": size_of(trained), "optimizer": optimizer, "average": average}
    # the first update makes the moments; in every other step they are there from the beginning
    peak = max(before_update[0] + optimizer, tally.peak)
    return Forecast(**parts, activations=peak - sum(parts.values()), peak=peak, flops=tally.flops * accumulation)


def largest_batches(found: Forecast, settings: TrainerConfig) -> dict[int, int]:
    """The largest micro-batch by GiB of a card, from the forecast of `settings`.

    What is there between two micro-batches is fixed, the rest grows linearly: what a forecast with few samples counts
    too much makes the answer smaller.
    """
    fixed = found.weights + found.optimizer + found.average
    fixed += found.gradients if settings.gradient_accumulation > 1 else 0
    per_sample = (found.peak - fixed) / settings.batch_size
    return {card: max(0, math.floor((card * 2**30 - ALLOWANCE - fixed) / per_sample)) for card in CARDS}


def report(config: Config, stage: str) -> str:
    """A forecast in words, and the largest micro-batches that fit cards of usual sizes."""
    size, precision = config.trainer.batch_size, config.trainer.mixed_precision
    found = forecast(config, stage)
    parts = {name: value / 2**30 for name, value in vars(found).items() if name != "flops"}
    peak = parts.pop("peak")
    split = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
    fits = [f"{count or 'none'} in {card} GiB" for card, count in largest_batches(found, config.trainer).items()]
    how = {"no": "full precision", "auto": "bf16"}.get(precision, precision)
    return (
        f"memory of a step on a GPU, {how}, micro-batches of {size}: {peak:.2f} GiB = {split}\n"
        f"largest micro-batches, {ALLOWANCE / 2**30:.1f} GiB kept free for CUDA and fragmentation: {', '.join(fits)}\n"
        f"work of a step: {found.flops / 1e12:.3g} TFLOP per process"
    )


def random_batches(config: Config, count: int, device: torch.device) -> Generator[Batch, None, None]:
    """The same random micro-batch of `count` samples again and again, as `to_device` gives them."""
    data, side = config.data, config.unet_config.image_size

    def random(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=device) * 2 - 1

    batch = {
        "image": random(1, data.image_size, data.image_size),
        "cond": random(len(data.cond_channels), data.cond_size, data.cond_size),
        "ori_mask": torch.zeros(count, 1, data.image_size, data.image_size, device=device),
        "moments": random(2 * config.first_stage_config.embed_dim, side, side) if data.cache_latents else None,
        "names": ["random"] * count,
        "keys": list(range(count)),
    }
    while True:
        yield batch


def random_trainer(config: Config, stage: str, accelerator: Any) -> Trainer:
    """The real trainer of a new network on `random_batches`: it needs no data."""
    model = build_model(config, stage)
    objectives = make_objectives(config, stage, model)

    def batches(_: int) -> Generator[Batch, None, None]:
        return random_batches(config, config.trainer.batch_size, accelerator.device)

    return Trainer(config, stage, model, objectives, batches, accelerator=accelerator)


class OnPaper:
    """Stands in for accelerate's Accelerator: one process on the CPU, whatever this process is part of."""

    device = torch.device("cpu")
    scaler = None
    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, mixed_precision: str):
        self.reduced = mixed_precision != "no"

    def prepare(self, objective: nn.Module) -> nn.Module:
        """The objective as accelerate wraps it: its forward pass in autocast, its outputs in float32."""
        if self.reduced:
            autocast = torch.autocast("cpu", torch.bfloat16)
            for module in objective.modules():
                if isinstance(module, nn.GroupNorm | nn.LayerNorm):  # autocast for GPUs computes these in float32
                    module.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
            objective.forward = convert_outputs_to_fp32(autocast(objective.forward))
        return objective

    def accumulate(self, *_: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


class Tally(TorchDispatchMode):
    """Adds up what operations make and compute while it is entered.

    `live` are the bytes of the storages that they made and that are not freed, `peak` the most so far; `flops` are
    those of products and convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # more than half of all calls
            return result
        if func.overloadpacket in FORMULAS:
            self.flops += FORMULAS[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def freed(_: weakref.ref) -> None:
            del self._seen[key]
            self.live -= size

        self._seen[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


class FakeTensors(FakeTensorMode):
    """Tensors have shapes but no content: asking for a value raises, as does whatever would wait for a device."""

    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        result = super().dispatch(*args, **kwargs)
        # torch moves no parameters that something refers to weakly, as this table does
        self.fake_tensor_converter.meta_converter.tensor_memo.clear()
        return result


def size_of(tensors: Iterable[Any]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


class Utilization:
    """Fraction of the device's peak: FLOPs of a step / time / speed of a large matrix product of the same type.

    The FLOPs are what the networks need, without those that checkpointing repeats (model FLOPs utilization, MFU,
    Chowdhery et al., 2022, as nanoGPT logs it). They are counted on paper, which takes seconds in each phase of a run.
    """

    def __init__(self, config: Config, stage: str, accelerator: Accelerator):
        self.config, self.stage, self.device = config.model_copy(deep=True), stage, accelerator.device
        self.config.unet_config.use_checkpoint = False
        starts = (config.first_stage_config.lossconfig.discr_start, config.diffusion_config.end_to_end.start_step)
        self.starts = [start for start in starts if start is not None]
        self.flops: dict[int, int] = {}  # number of started phases: FLOPs of a step and process
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
        self.peak: float | None = 0.0  # measured when it is first asked for; None: it cannot be

    def of(self, step: int, seconds: float) -> dict[str, float]:
        """`mfu` of the step from `step` to the next, on one process; nothing where it cannot be known."""
        phase = sum(step >= start for start in self.starts)
        try:
            if self.peak == 0:
                self.peak = matmul_peak(self.device, self.dtype)
            if self.peak and phase not in self.flops:
                self.flops[phase] = forecast(self.config, self.stage, step=step).flops
        except RuntimeError as error:  # the device has no room for the product, or lacks the type
            self.peak = None
            log.warning("train/mfu is left out: %s", error)
        return {"mfu": self.flops[phase] / seconds / self.peak} if self.peak else {}
