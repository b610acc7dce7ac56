"""Whether a model's samples are as uncertain as they should be: coverage, CRPS, spread against error."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data.units import GAIN_SPAN_DB, gain_to_uint8

LEVELS = (0.5, 0.8, 0.9, 0.95)  # nominal fractions of the intervals whose coverage is reported
SPREADS = 512  # half grey levels that are told apart
BINS = 20  # of the spread, for the reliability picture
STEP_DB = GAIN_SPAN_DB / 255  # of one grey level


def rank_fractions(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the truth lies among the samples, in (0, 1): uniform if it is one more sample of the same distribution.

    (samples below the truth + u (1 + samples equal to it)) / (K + 1), u uniform: the randomised PIT of discrete values
    (Czado, Gneiting & Held, 2009), unbiased for any number of samples. `samples` (K, N), `truth` (N,) of the same type.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    return (below + rng.random(truth.shape) * (1 + equal)) / (len(samples) + 1)


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of an ensemble (its unbiased form, Ferro, 2014), in the values' unit.

    mean |x_i - y| - sum_ij |x_i - x_j| / (2 K (K - 1)); for one sample the absolute error. (K, N), (N,) -> (N,).
    """
    count = len(samples)
    error = np.abs(samples - truth).mean(0)
    if count == 1:
        return error
    weights = 2 * np.arange(1, count + 1) - count - 1  # of the sorted samples: the pairs' sum in one pass
    return error - np.tensordot(weights, np.sort(samples, 0), 1) / (count * (count - 1))


def measure_samples(samples: np.ndarray, truth: np.ndarray, where: np.ndarray, name: str) -> dict[str, Any]:
    """All that `Calibration` keeps of one map, in JSON types; every score counts each open pixel once.

    Samples are rounded to 8-bit levels first, as the truth is, so that a map that is known exactly is calibrated too.

    Args:
        samples, truth: (K, H, W) and (H, W) grey levels in [0, 1], K > 1.
        where: (H, W) bool, the pixels that count.
        name: of the scene; decides how ties are broken.

    Returns:
        `crps` in dB; `ranks` (2, 100), of pixels whose samples are all alike, and of the others; `spread`: pixels, squared
        error and variance, by the spread in half grey levels, up to the last that there is.
    """
    values = gain_to_uint8(samples[:, where]).astype(np.int16)
    true = gain_to_uint8(truth[where]).astype(np.int16)
    fractions = rank_fractions(values, true, np.random.default_rng(list(name.encode())))
    differ = (values != values[0]).any(0)
    hundredths = (fractions * 100).astype(int).clip(max=99)
    ranks = [np.bincount(hundredths[alike], minlength=100).tolist() for alike in (~differ, differ)]
    # the mean of K samples has an error of its own: with this factor spread and error are equal for calibrated samples
    variance = values.var(0, ddof=1) * (1 + 1 / len(values))
    error = (values.mean(0) - true) ** 2
    bins = (2 * np.sqrt(variance)).astype(int).clip(max=SPREADS - 1)
    spread = [np.bincount(bins, weights).tolist() for weights in (None, error, variance)]
    return {"crps": float(crps(values, true).mean()) * STEP_DB, "ranks": ranks, "spread": spread}


class Calibration:
    """Collects what `measure_samples` finds, one map at a time.

    Attributes:
        crps: dB, of each map.
    """

    def __init__(self) -> None:
        self.crps: list[float] = []
        self._ranks, self._spread = np.zeros((2, 100), np.int64), np.zeros((3, SPREADS))

    def take(self, measured: Mapping[str, Any]) -> None:
        """Count a map's samples."""
        self.crps.append(measured["crps"])
        self._ranks += np.array(measured["ranks"])
        self._spread[:, : len(measured["spread"][0])] += measured["spread"]

    def coverage(self, level: float, *, differing: bool = False) -> float:
        """Fraction of the pixels whose truth lies in the central interval of this nominal fraction; NaN without any."""
        ranks = self._ranks[1] if differing else self._ranks.sum(0)
        if not ranks.sum():
            return float("nan")
        edge = round(100 * (1 - level) / 2, 6)
        whole = int(np.ceil(edge))
        inside = ranks[whole : 100 - whole].sum() + (whole - edge) * (ranks[whole - 1] + ranks[100 - whole])
        return float(inside / ranks.sum())

    def summary(self) -> dict[str, Any]:
        """`crps` in dB, mean over maps; `coverage` by nominal fraction of all pixels, and `coverage_where_samples_differ`, of the
        fraction `differing` of the pixels; `spread`, times sqrt(1 + 1 / K), and `error` of the mean, root mean square, dB;
        `ranks` where samples differ, fractions by hundredths; `by_spread`, [spread, error, pixels] of bins with about equally
        many pixels.
        """
        differing = self._ranks[1] if self._ranks[1].any() else self._ranks[0]
        pixels, error, variance = self._spread
        total = pixels.sum()
        return {
            "crps": float(np.mean(self.crps)),
            "coverage": {f"{level:g}": self.coverage(level) for level in LEVELS},
            "coverage_where_samples_differ": {f"{level:g}": self.coverage(level, differing=True) for level in LEVELS},
            "differing": float(self._ranks[1].sum() / self._ranks.sum()),
            "spread": float(np.sqrt(variance.sum() / total)) * STEP_DB,
            "error": float(np.sqrt(error.sum() / total)) * STEP_DB,
            "ranks": (differing / differing.sum()).tolist(),
            "by_spread": list(self._bins()),
        }

    def _bins(self) -> Iterable[list[float]]:
        edges = np.searchsorted(np.cumsum(self._spread[0]), np.linspace(0, self._spread[0].sum(), BINS + 1)[1:])
        first = 0
        for edge in edges:
            pixels, error, variance = self._spread[:, first : edge + 1].sum(1)
            if pixels:
                yield [*(float(np.sqrt(total / pixels)) * STEP_DB for total in (variance, error)), float(pixels)]
            first = max(first, edge + 1)
