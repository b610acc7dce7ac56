"""How fast a run is: means between two log lines, peak memory, the speed of the device."""

import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache

import torch
from accelerate import Accelerator
from torch import Tensor

try:
    import resource
except ImportError:  # Windows
    resource = None


class Meter:
    """Means over all processes of what the steps report between two log lines; scalars stay on the device until then."""

    def __init__(self, accelerator: Accelerator, samples_per_step: int):
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self.values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, values: dict[str, Tensor], seconds: float) -> None:
        """A step's detached scalars and its duration."""
        for name, value in values.items():
            self.values[name].append(value)
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    def read(self) -> dict[str, float]:
        """Means over steps and processes since the last call, samples per second, fraction of time waited, peak memory."""
        means = {}
        for name, values in self.values.items():
            stacked = torch.stack(values).float()
            means[name] = stacked[stacked.isfinite()].mean().item()  # overflowed gradients have no norm
        means |= {"data_wait": self.waited / self.seconds, "memory_gib": memory_gib(self.accelerator.device)}
        local = torch.tensor([*means.values()], device=self.accelerator.device)
        metrics = dict(zip(means, self.accelerator.reduce(local, "mean").tolist(), strict=True))
        metrics["samples_per_second"] = self.steps * self.samples_per_step / self.seconds
        self.values.clear()
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return metrics


@lru_cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether the device supports bfloat16 natively; on other devices it is up to sixteen times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # torch has no public function for this yet
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def memory_gib(device: torch.device) -> float:
    """Peak memory so far, GiB: of the GPU's allocator, else of this process; NaN where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return math.nan
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large matrix product: the fastest of five, after one to warm up."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: a @ b, 5))


def seconds_of(work: Callable[[], object], repeats: int) -> list[float]:
    """Durations after one warm-up run."""
    work()
    times = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - started)
    return times


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
