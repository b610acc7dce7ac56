"""The order of samples: an endless seeded stream that can start at any position and be shared among processes."""

from collections.abc import Iterator

import numpy as np

from ..hashing import random_key


class SampleStream:
    """Batch sampler over the global positions 0, 1, 2, ...; position p is sample p % n of epoch p // n.

    Micro-batch m of rank r takes the positions [(m W + r) B, (m W + r + 1) B). The sample at a position depends on the
    seed alone, so W processes with batches of B together see what one process sees with batches of W B, and an
    interrupted run resumes with `start_batch`. Batches may span two epochs; nothing is dropped or repeated.

    Args:
        length: n, at least 1.
        batch_size: B.
        seed: of the shuffle and the samples' keys.
        rank, world_size: r and W.
        start_batch: first micro-batch.
        batches: number of micro-batches, None for endless.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        batches: int | None = None,
    ):
        if length < 1:
            raise ValueError("a stream needs at least one sample")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.start_batch, self.batches = start_batch, batches
        self._epoch, self._order = -1, np.arange(0)

    def __len__(self) -> int:
        """Number of micro-batches; TypeError for an endless stream."""
        if self.batches is None:
            raise TypeError("an endless stream has no length")
        return self.batches

    def _at(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.length)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.length)
        index = int(self._order[offset])
        return index, random_key(self.seed, epoch, index)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches of (index, key)."""
        batch = self.start_batch
        end = None if self.batches is None else self.start_batch + self.batches
        while end is None or batch < end:
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield [self._at(position) for position in range(first, first + self.batch_size)]
            batch += 1
