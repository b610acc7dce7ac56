"""A question to all processes and to the device whose answer is heard one step later, so that nothing waits for it."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass
class Question:
    """What was asked about a step.

    Attributes:
        step: its number.
        values: scalars by name that ought to be finite.
        seen: the micro-batches behind them.
        answer: (2,) on the CPU: whether a value was not finite on any process, and how many were told to stop.
        arrived: event behind the copy of the answer from a GPU.
    """

    step: int
    values: dict[str, Tensor]
    seen: list[dict[str, Any]]
    answer: Tensor
    arrived: torch.cuda.Event | None


class Watch:
    """Whether values are finite, and whether a process was told to stop, on all processes.

    Args:
        accelerator: decides device and number of processes.

    Attributes:
        nonfinite: scalar on the device, 1 from the first value on that is not finite: an optimizer that is given it as `found_inf`
            changes nothing any more, long before this process hears of it.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.nonfinite = torch.zeros((), device=accelerator.device)
        self._asked: Question | None = None

    def ask(self, step: int, values: dict[str, Tensor], seen: list[dict[str, Any]], stop: bool) -> None:
        """Ask about a step; `hear` has the answer."""
        bad = torch.stack([~torch.isfinite(value).all() for value in values.values()]).any()
        flags = torch.stack([bad.float(), torch.full((), float(stop), device=bad.device)])
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags, "sum")
        self.nonfinite = torch.maximum(self.nonfinite, flags[0].clamp(max=1))
        on_gpu = bad.device.type == "cuda"
        answer = torch.stack([self.nonfinite, flags[1]]).to("cpu", non_blocking=on_gpu)
        arrived = torch.cuda.Event() if on_gpu else None
        if arrived is not None:
            arrived.record()
        self._asked = Question(step, values, seen, answer, arrived)

    def hear(self) -> Question | None:
        """The question whose answer is due, once; waits for nothing but that answer."""
        asked, self._asked = self._asked, None
        if asked is not None and asked.arrived is not None:
            asked.arrived.synchronize()
        return asked
