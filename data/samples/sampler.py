"""The order of samples: an endless seeded stream that can start at any position and be shared among processes."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import count

import numpy as np

from ..hashing import random_key


@dataclass(eq=False)
class SampleStream:
    """Batch sampler of (index, key) over the global positions 0, 1, 2, ...; position p is sample p % n of epoch p // n.

    Micro-batch m of rank r takes the positions [(m W + r) B, (m W + r + 1) B). The sample at a position depends on the
    seed alone, so W processes with batches of B together see what one process sees with batches of W B, and an
    interrupted run resumes with `start_batch`. Batches may span two epochs; nothing is dropped or repeated.
    """

    length: int  # n, at least 1
    batch_size: int  # B
    seed: int = 0  # of the shuffle and the samples' keys
    _: KW_ONLY
    rank: int = 0  # r
    world_size: int = 1  # W
    start_batch: int = 0  # first micro-batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        last, order = -1, np.arange(0)
        for batch in count(self.start_batch):
            first, items = (batch * self.world_size + self.rank) * self.batch_size, []
            for position in range(first, first + self.batch_size):
                epoch, offset = divmod(position, self.length)
                if epoch != last:
                    last, order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.length)
                index = int(order[offset])
                items.append((index, random_key(self.seed, epoch, index)))
            yield items
