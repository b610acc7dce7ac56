"""Stop all updates at the first value that is not finite, without making every step wait for the device."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from .objectives import Batch, Optimization

NEVER = 2**62


class FiniteGuard:
    """A flag on the device: set by the first value that is not finite, obeyed by the optimizer, read now and then.

    `found_inf`, a float32 scalar on the device, is 1 once a value was not finite. As the attribute of that name of a fused
    AdamW it makes `step()` change nothing.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.found_inf = torch.zeros((), dtype=torch.float32, device=accelerator.device)
        self._first_step = torch.full((), NEVER, dtype=torch.int64, device=accelerator.device)

    def check(self, step: int, values: dict[str, Tensor]) -> None:
        """Set the flag if one of the scalars of `step`, on any process, is not finite."""
        bad = (~torch.stack([torch.isfinite(value).all() for value in values.values()])).any().float()
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad, "sum").clamp(max=1)
        self._first_step = torch.where(bad > self.found_inf, step, self._first_step)
        self.found_inf = torch.maximum(self.found_inf, bad)

    def nonfinite_step(self) -> int | None:
        """The first step with such a value, None so far; waits for the device."""
        step = int(self._first_step)
        return step if step != NEVER else None


def reproduce(
    step: int,
    batches: Iterable[Batch],
    backward: Callable[[Batch, int], dict[str, Tensor]],
    optimizations: list[Optimization],
    path: Path,
) -> str:
    """Take a step again that had a value which is not finite; returns which value, and in which batch.

    Args:
        batches: its micro-batches; they follow from (seed, step, rank).
        backward: function (batch, number of the micro-batch) -> detached scalars, which adds to the gradients.
        path: file for batches, weights and the names of bad gradients; `torch.load(path, weights_only=True)` reads it.
    """
    for optimization in optimizations:
        optimization.optimizer.zero_grad()
    seen = list(batches)
    values = [{k: float(v) for k, v in backward(batch, number).items()} for number, batch in enumerate(seen)]
    gradients = [
        f"{o.name}.{name}"
        for o in optimizations
        for name, p in o.objective.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {o.name: o.objective.state_dict() for o in optimizations}
    content = {"step": step, "values": values, "batches": seen, "nonfinite_gradients": gradients, "objectives": weights}
    torch.save(content, path)
    terms = [name for name in values[0] if not all(math.isfinite(each[name]) for each in values)]
    terms += [f"the gradients of {len(gradients)} weights"] if gradients else []
    what = ", ".join(terms) or "a value that was finite when the step was taken again here"
    names = ", ".join([name for batch in seen for name in batch["names"]][:32])
    return (
        f"non-finite at step {step}: {what}, in the batch {names}; nothing was updated; weights and batch are in {path}"
    )
