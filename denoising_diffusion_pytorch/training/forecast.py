"""Forecast of the memory and the floating point operations of an optimizer step, without a GPU.

The real trainer takes a step on fake tensors, which have shapes but no content: nothing is allocated, and every operation
reports the storages that it would have made. `ALLOWANCE` is what a process on a GPU needs in addition to its tensors.
"""

import gc
import math
import weakref
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..build import build_model
from ..config.schema import Config
from .objectives import Batch, make_objectives
from .trainer import Trainer

GIB = 2**30
ALLOWANCE = int(1.5 * GIB)  # for CUDA's context, cuDNN's workspaces and the allocator's gaps; an estimate
CARDS = (16, 24, 40, 80)  # GiB
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # whose FLOPs are missing in torch's table
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
FORMULAS: dict[Any, Callable] = {
    ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
    BACKWARD: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape),
    **flop_registry,
}


class Forecast(NamedTuple):
    """Per process: bytes between two micro-batches (`fixed`) and at the peak, and FLOPs per optimizer step."""

    fixed: int
    peak: int
    flops: int  # of products and convolutions, including those that checkpointing repeats


def forecast(config: Config, stage: str) -> Forecast:
    """What the last optimizer step of a run needs, in which all objectives take part. The forecast takes seconds on a CPU,
    for any size, and allocates next to nothing. `config` is resolved; `mixed_precision: auto` counts as bf16, and
    fp16 has the sizes of bf16.
    """
    accumulation, reduced = config.trainer.gradient_accumulation, config.trainer.mixed_precision != "no"
    settings = config.trainer.model_copy(update={"compile": False, "gradient_accumulation": 1})
    config = config.model_copy(update={"trainer": settings})
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if reduced else "no")
    with FakeTensors(), Tally() as tally:
        trainer = random_trainer(config, stage, accelerator)
        trainer.step = settings.training_steps - 1
        if reduced:
            norms_in_float32(trainer)
        for optimization in trainer.active():  # an update makes the moments
            for parameter in optimization.parameters:
                parameter.grad = torch.zeros_like(parameter)
            optimization.optimizer.step()
            if accumulation == 1:  # else every micro-batch but the first one finds gradients, to which it adds
                optimization.optimizer.zero_grad()
        setattr(trainer, "require_finite", lambda *_: None)  # noqa: B010 - fake tensors have no values
        gc.collect()
        fixed = tally.peak = tally.live
        update, tally.flops = tally.flops, 0
        trainer.train_step(trainer.make_batches(0))
    return Forecast(fixed, tally.peak, (tally.flops - update) * accumulation + update)


def norms_in_float32(trainer: Trainer) -> None:
    """Let normalisation layers compute as in autocast for GPUs; autocast for CPUs leaves them in bf16."""
    for module in (module for o in trainer.optimizations for module in o.objective.modules()):
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))


def largest_batch(found: Forecast, batch_size: int, card: int) -> int:
    """The largest micro-batch that fits a GPU of `card` GiB, extrapolated from the forecast for `batch_size`."""
    per_sample = (found.peak - found.fixed) / batch_size
    return max(0, math.floor((card * GIB - ALLOWANCE - found.fixed) / per_sample))


def report(config: Config, stage: str) -> str:
    """A forecast in words, and the largest micro-batches that fit GPUs of common sizes."""
    size, precision = config.trainer.batch_size, config.trainer.mixed_precision
    found = forecast(config, stage)
    fits = [f"{largest_batch(found, size, card) or 'none'} in {card} GiB" for card in CARDS]
    how = {"no": "full precision", "auto": "bf16"}.get(precision, precision)
    return (
        f"memory of a step on a GPU, {how}, micro-batches of {size}: {found.peak / GIB:.2f} GiB, "
        f"{found.fixed / GIB:.2f} of it for any size\n"
        f"largest micro-batches, {ALLOWANCE / GIB:.1f} GiB kept free for CUDA and fragmentation: {', '.join(fits)}\n"
        f"work of a step: {found.flops / 1e12:.3g} TFLOP per process"
    )


def random_trainer(config: Config, stage: str, accelerator: Any) -> Trainer:
    """The real trainer of a new network, always on the same random micro-batch: it needs no data."""
    model = build_model(config, stage)
    objectives = make_objectives(config, stage, model)
    data, count, side = config.data, config.trainer.batch_size, config.unet_config.image_size

    def random(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=accelerator.device) * 2 - 1

    def batches(_: int) -> Generator[Batch, None, None]:
        batch = {
            "image": random(1, data.image_size, data.image_size),
            "cond": random(len(data.cond_channels), data.cond_size, data.cond_size),
            "ori_mask": torch.zeros(count, 1, data.image_size, data.image_size, device=accelerator.device),
            "moments": random(2 * config.first_stage_config.embed_dim, side, side) if data.cache_latents else None,
            "names": ["random"] * count,
            "keys": list(range(count)),
        }
        while True:
            yield batch

    return Trainer(config, stage, model, objectives, batches, accelerator=accelerator)


class Tally(TorchDispatchMode):
    """Counts while it is entered: bytes of storages that are `live`, their `peak`, `flops` of products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in FORMULAS:
            self.flops += FORMULAS[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        if func is not torch.ops.prim.device.default:  # more than half of all calls
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
    """Tensors have shapes but no content: asking for a value raises, as does any operation that waits for a device."""

    def dispatch(self, *args: Any, **kwargs: Any) -> Any:
        result = super().dispatch(*args, **kwargs)
        # torch does not move parameters with weak references, such as this table's
        self.fake_tensor_converter.meta_converter.tensor_memo.clear()
        return result
