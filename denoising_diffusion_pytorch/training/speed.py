"""How fast a run is: means between two log lines, the expected duration, the speed of the device."""

import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

try:
    import resource
except ImportError:  # Windows
    resource = None

WARM_UP, TIMED = 10, 20  # a start's first steps compile and fill buffers; the next ones tell how long it will take


class Meter:
    """Means over all processes of what the steps report between two log lines; scalars stay on the device until then."""

    def __init__(self, accelerator: Accelerator, samples_per_step: int):
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self.values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self.taken, self.timed = 0, 0.0  # steps since the start, seconds of the last TIMED - WARM_UP of the first TIMED

    def add(self, values: dict[str, Tensor], started: float) -> None:
        """A step's detached scalars; `started`: `time.monotonic()` at its beginning."""
        for name, value in values.items():
            self.values[name].append(value)
        self.steps += 1
        self.seconds += (seconds := time.monotonic() - started)
        self.taken += 1
        self.timed += seconds if WARM_UP < self.taken <= TIMED else 0.0

    def expectation(self, left: int) -> str:
        """How long `left` more steps will take, in words, once TIMED steps are taken."""
        rate = (TIMED - WARM_UP) / self.timed
        hours, minutes = divmod(math.ceil(left / rate / 60), 60)
        speed = f"{rate * self.samples_per_step:.3g} samples/s, as in steps {WARM_UP + 1} to {TIMED} of this start"
        return f"{left:,} steps left, about {hours} h {minutes} min at {speed}; validation and saving come on top"

    def read(self) -> dict[str, float]:
        """Means over steps and processes since the last call, samples per second, fraction of time waited, peak memory."""
        means = {}
        for name, values in self.values.items():
            finite = [value for value in torch.stack(values).float().tolist() if math.isfinite(value)]
            means[name] = sum(finite) / len(finite) if finite else math.nan  # overflowed gradients have no norm
        means |= {"data_wait": self.waited / self.seconds, "memory_gib": memory_gib(self.accelerator.device)}
        local = torch.tensor([*means.values()], device=self.accelerator.device)
        metrics = dict(zip(means, self.accelerator.reduce(local, "mean").tolist(), strict=True))
        metrics["samples_per_second"] = self.steps * self.samples_per_step / self.seconds
        self.values.clear()
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return metrics


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
