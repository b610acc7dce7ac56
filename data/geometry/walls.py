"""Walls, listed by the pixels that they cross, so that a ray is tested against those near it alone."""

from typing import NamedTuple

import numpy as np

from .outlines import segments_of
from .pixels import pixel_of

SAMPLE_STEP = 0.25  # px between the points that determine which cells a wall crosses
CELL_MARGIN = 0.15  # px by which those points are widened, so that no cell that a wall touches is missed


class Walls(NamedTuple):
    """Wall segments, bucketed by the pixels they cross."""

    segments: np.ndarray  # (S, 4) float64, x0 y0 x1 y1
    start: np.ndarray  # (H * W + 1,) int64, where each pixel's list begins in `items`
    items: np.ndarray  # int64, indices of segments
    height: int
    width: int


def make_walls(rings: list[np.ndarray], shape: tuple[int, int]) -> Walls:
    """Bucket the segments of closed rings into the pixels of an image; pixel (row, column) covers its centre +- 0.5."""
    height, width = shape
    segments = segments_of(rings)
    start, delta = segments[:, :2], segments[:, 2:] - segments[:, :2]
    counts = (np.hypot(*delta.T) / SAMPLE_STEP).astype(np.int64) + 2
    index = np.repeat(np.arange(len(segments)), counts)  # segment of every sample point
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    points = start[index] + delta[index] * (offset / (counts[index] - 1))[:, None]
    corners = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])[:, None] * CELL_MARGIN
    row, column = pixel_of(points + corners)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    keys = (row * width + column) * len(segments) + index
    cells, items = np.divmod(np.unique(keys[inside]), max(len(segments), 1))
    return Walls(segments, np.searchsorted(cells, np.arange(height * width + 1)), items, height, width)
