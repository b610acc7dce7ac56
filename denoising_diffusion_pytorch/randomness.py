"""Random numbers that belong to a sample, not to a process.

Every sample of a batch carries an integer key. Its time, its noise and its sample of the posterior come from a generator
seeded by this key, so they do not depend on the batch size, the number of processes, the device, or the step at which a
run was interrupted.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

KEY_STRIDE = 0x1E3779B97F4A7C15  # between the keys of two samples of one map: odd, and not a difference of maps' keys


def sample_keys(keys: Sequence[int] | Tensor, number: int) -> list[int]:
    """The keys of the maps' sample `number`; sample 0 has the maps' own keys."""
    return [(int(key) + number * KEY_STRIDE) % 2**63 for key in keys]


def seed_global(*numbers: int) -> None:
    """Seed torch's global generators by several numbers, all of whose bits count."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1)


class KeyedRandom:
    """Random numbers for the B samples of a batch, from one CPU generator per sample.

    Args:
        keys: B integers (any sign; taken modulo 2^63); all bits count.
        device: device of the results.
    """

    def __init__(self, keys: Sequence[int] | Tensor, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        # torch's CPU generator uses only the lowest 32 bits of a seed: they must depend on the whole key
        seeds = [int(np.random.SeedSequence(int(key) % 2**63).generate_state(1)[0]) for key in keys]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def rand(self) -> Tensor:
        """Uniform in [0, 1), (B,)."""
        return self._moved(torch.cat([torch.rand(1, generator=g) for g in self.generators]))

    def randn(self, *shape: int) -> Tensor:
        """Standard normal, (B, *shape)."""
        return self._moved(torch.stack([torch.randn(shape, generator=g) for g in self.generators]))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal of x's shape (B, ...)."""
        return self.randn(*x.shape[1:])

    def _moved(self, x: Tensor) -> Tensor:
        """Copy to the device, from pinned memory: any other copy waits for all work that is queued on a GPU."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x.to(self.device)
