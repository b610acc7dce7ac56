"""The pixel of a position, by one rule."""

from collections.abc import Sequence

import numpy as np


def pixel_of(position: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of the pixels at positions (..., 2) of x and y: floor(x + .5), halves go to the larger number."""
    column, row = np.moveaxis(np.floor(np.asarray(position, np.float64) + 0.5).astype(int), -1, 0)
    return row, column
