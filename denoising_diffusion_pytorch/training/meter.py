"""Means of what the steps report between two log lines."""

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor

from .run_folder import memory_gib


class Meter:
    """Collects a step's scalars on the device, and the time that steps take and wait for data.

    Args:
        accelerator: over whose processes the means are taken.
        samples_per_step: of all processes.
    """

    def __init__(self, accelerator: Accelerator, samples_per_step: int):
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self._clear()

    def _clear(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, values: dict[str, Tensor], started: float) -> None:
        """A step's detached scalars; `started`: `time.monotonic()` at its beginning."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        self.steps += 1
        self.seconds += time.monotonic() - started

    def read(self) -> dict[str, float]:
        """Means over steps and processes since the last call, samples per second, share of time waited, peak memory."""
        means = {}
        for name, values in self.values.items():
            finite = [value for value in torch.stack(values).float().tolist() if math.isfinite(value)]
            means[name] = sum(finite) / len(finite) if finite else math.nan  # overflowed gradients have no norm
        means |= {"data_wait": self.waited / self.seconds, "memory_gib": memory_gib(self.accelerator.device)}
        local = torch.tensor([*means.values()], device=self.accelerator.device)
        metrics = dict(zip(means, self.accelerator.reduce(local, "mean").tolist(), strict=True))
        metrics["samples_per_second"] = self.steps * self.samples_per_step / self.seconds
        self._clear()
        return metrics
