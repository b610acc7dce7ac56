"""Measured points as channels of the condition, and as a correction of a simulated map."""

from functools import lru_cache

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

from .geometry.georeference import pixel_of

MEASURED = ("measured_gain", "measured")  # the two channels of measured points
SIMULATED = "simulated"  # the channel that measured points correct
POINT_CHANNELS = frozenset((*MEASURED, SIMULATED))  # channels that measured points change
REACH = 15.0  # m, decay length of the weight of a measured value
PRIOR = 0.02  # weight of the value known without points, in 1 / m: that of a point at about 16 m


def spread_points(
    points: np.ndarray | None, side: int, size: int, known: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Measured points interpolated to every pixel: values (size, size) float32 and their confidence in [0, 1).

    The mean of the points' values, each weighted by exp(-d / REACH) / d with d its distance in metres, and of the value
    `known` without them, weighted by PRIOR: inverse-distance weighting (Shepard, 1968) of the differences to what is
    known, as a normalised convolution (Knutsson & Westin, 1993). The confidence is the points' fraction of the weights.

    Args:
        points: (N, 3) of x, y and grey level in a map of `side` pixels = metres; None for none.
        known: (size, size), or one value.
    """
    known, points = np.broadcast_to(known, (size, size)), np.zeros((0, 3)) if points is None else points
    column, row = pixels_of(points, side, size)
    impulses = np.zeros((2, size, size))
    np.add.at(impulses[0], (row, column), points[:, 2] - known[row, column])
    np.add.at(impulses[1], (row, column), 1)
    spectrum, length = _weights(side / size, size)
    difference, weight = irfft2(rfft2(impulses, (length, length)) * spectrum, (length, length))[:, :size, :size]
    total = weight.clip(0) + PRIOR
    return (known + difference / total).astype(np.float32), (weight.clip(0) / total).astype(np.float32)


def pixels_of(points: np.ndarray, side: int, size: int) -> np.ndarray:
    """Columns and rows, (2, N) int, of points of a map of `side` pixels in one of `size`."""
    row, column = pixel_of((points[:, :2] + 0.5) * size / side - 0.5)
    return np.stack([column, row]).clip(0, size - 1)


@lru_cache(4)
def _weights(metres_per_pixel: float, size: int) -> tuple[np.ndarray, int]:
    """Spectrum of a point's weights, zero beyond 5 REACH, and the transform's length, at which they do not wrap around."""
    length = next_fast_len(size + int(5 * REACH / metres_per_pixel), real=True)
    offset = np.minimum(np.arange(length), length - np.arange(length)) * metres_per_pixel
    distance = np.hypot(offset, offset[:, None])
    weights = np.exp(-distance / REACH) / np.maximum(distance, 0.1)  # 0.1 m at the point
    return rfft2(np.where(distance < 5 * REACH, weights, 0)), length


def corrected(simulation: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """A simulated map (S, S), one pixel per metre, corrected by measured points (N, 3) of x, y and grey level, if there are any.

    Points where nothing is simulated are left out: they lie in buildings, or seem to, and say nothing about the street.
    """
    if points is None:
        return simulation
    column, row = pixels_of(points, len(simulation), len(simulation))
    points = points[simulation[row, column] > 0]
    return spread_points(points, len(simulation), len(simulation), simulation)[0].clip(0, 1)
