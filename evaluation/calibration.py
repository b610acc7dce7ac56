"""Whether a model's samples are as uncertain as they should be: coverage, CRPS, spread against error."""

from typing import Any

import numpy as np

from data.units import GAIN_SPAN_DB, gain_to_uint8

LEVELS = (0.5, 0.8, 0.9, 0.95)  # nominal fractions of the intervals whose coverage is reported
STEP_DB = GAIN_SPAN_DB / 255  # of one grey level


def rank_fractions(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the truth lies among the samples, in (0, 1): uniform if the truth is a sample of the same distribution.

    (samples below the truth + u (1 + samples equal to it)) / (K + 1), u uniform: the randomised PIT of discrete values
    (Czado, Gneiting & Held, 2009), unbiased for any number of samples. `samples` (K, N), `truth` (N,) of the same type.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    return (below + rng.random(truth.shape) * (1 + equal)) / (len(samples) + 1)


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of an ensemble (its unbiased form, Ferro, 2014), in the values' unit.

    mean |x_i - y| - sum_ij |x_i - x_j| / (2 K (K - 1)), K > 1. (K, N), (N,) -> (N,).
    """
    count = len(samples)
    weights = 2 * np.arange(1, count + 1) - count - 1  # of the sorted samples: the pairs' sum in one pass
    pairs = np.tensordot(weights, np.sort(samples, 0), 1) / (count * (count - 1))
    return np.abs(samples - truth).mean(0) - pairs


def measure_samples(samples: np.ndarray, truth: np.ndarray, name: str) -> dict[str, Any]:
    """Calibration of the samples of one map, in JSON types.

    Samples are rounded to 8-bit levels first, as the truth is, so that a map that is known exactly is calibrated too.

    Args:
        samples, truth: (K, N) and (N,) grey levels in [0, 1] of the scored pixels, K > 1.
        name: of the scene; decides how ties are broken.

    Returns:
        `crps`, and the root mean squares `spread`, times sqrt(1 + 1 / K), and `error` of the samples' mean, in dB; the
        fractions of pixels in the intervals, `coverage` by nominal fraction, and the number of `pixels`.
    """
    values, true = gain_to_uint8(samples).astype(np.int16), gain_to_uint8(truth).astype(np.int16)
    away = np.abs(rank_fractions(values, true, np.random.default_rng(list(name.encode()))) - 0.5)
    # the mean of K samples has an error of its own: with this factor spread and error are equal for calibrated samples
    variance = values.var(0, ddof=1) * (1 + 1 / len(values))
    return {
        "crps": float(crps(values, true).mean()) * STEP_DB,
        "spread": float(np.sqrt(variance.mean())) * STEP_DB,
        "error": float(np.sqrt(((values.mean(0) - true) ** 2).mean())) * STEP_DB,
        "coverage": {f"{level:g}": float((away <= level / 2).mean()) for level in LEVELS},
        "pixels": len(true),
    }
