"""Scores of radio maps, under the conventions of the literature (docs/accuracy.md).

A convention says what is done to the grey levels of prediction and target first, and whether NMSE = sum(error^2) /
sum(target^2) and RMSE are means over maps or taken over the whole set. Numbers under different conventions must not be
compared.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from data.units import GAIN_SPAN_DB, apply_noise_floor

from .calibration import measure_samples
from .regions import REGION_NAMES, Regions

PERFECT_PSNR = 100.0  # dB, assigned to an exact map so that means stay finite


def ssim(prediction: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004): Gaussian window 11 px, sigma 1.5, data range 1, 5 px border left out.
    (H, W) in [0, 1], sides of at least 11.
    """
    x, y = prediction.astype(np.float64), target.astype(np.float64)
    blurred = (gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5] for image in (x, y, x * x + y * y, x * y))
    mean_x, mean_y, squares, products = blurred
    of_means, both_means = mean_x * mean_y, mean_x**2 + mean_y**2
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * of_means + c1) * (2 * (products - of_means) + c2)
    return float((likeness / ((both_means + c1) * (squares - both_means + c2))).mean())


def map_scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """nmse, rmse, ssim and psnr (dB) of one map, (H, W) grey levels in [0, 1]; `target_power` is its mean square.

    NMSE is NaN for a target that is zero everywhere.
    """
    mse = float(((prediction - target) ** 2).mean())
    return {
        "nmse": nmse_of(prediction, target),
        "rmse": math.sqrt(mse),
        "ssim": ssim(prediction, target),
        "psnr": min(PERFECT_PSNR, -10 * math.log10(mse)) if mse else PERFECT_PSNR,
        "target_power": float((target**2).mean()),
        "pixels": target.size,
    }


def nmse_of(prediction: np.ndarray, target: np.ndarray) -> float:
    """Squared error over squared target, of all values of two arrays; NaN for a target without energy."""
    power = float((target**2).sum())
    return float(((prediction - target) ** 2).sum()) / power if power else math.nan


def measure(
    name: str,
    prediction: np.ndarray,
    target: np.ndarray,
    regions: Regions | None = None,
    samples: np.ndarray | None = None,
) -> dict[str, Any]:
    """All scores of one map, in JSON types.

    Args:
        prediction, target: (H, W) grey levels in [0, 1].
        regions: of the scene.
        samples: (K, H, W), whose mean is the prediction; scored where the scene is uncertain; need `regions`.

    Returns:
        `name`, `map_scores` on raw levels, and under `thresholded` those of RadioUNet's convention. With regions also
        `rmse_db`, the error over open pixels, and their number, `open`; nmse_NAME of each of `regions.parts` (where both are
        zero, as in buildings, nothing is contributed); `nmse_by_region`, fractions of the target's energy that add up to the NMSE;
        and the convention `masked`. With samples `calibration` (`measure_samples`).
    """
    prediction, target = prediction.astype(np.float64), target.astype(np.float64)
    row: dict[str, Any] = {"name": name} | map_scores(prediction, target)
    if regions:
        error, power = (prediction - target) ** 2, float((target**2).sum()) or math.nan
        inside = error[regions.open]
        row["rmse_db"] = math.sqrt(inside.mean()) * GAIN_SPAN_DB if inside.size else math.nan
        row["open"] = inside.size
        for part, where in regions.parts.items():
            row[f"nmse_{part}"] = nmse_of(prediction[where], target[where])
        if regions.parts:
            errors = np.bincount(regions.region.ravel(), error.ravel(), len(REGION_NAMES)) / power
            row["nmse_by_region"] = dict(zip(REGION_NAMES, errors.tolist(), strict=True))
        row["masked"] = map_scores(prediction * ~regions.picture, target * ~regions.picture)  # ControlRadio
    row["thresholded"] = map_scores(apply_noise_floor(prediction), apply_noise_floor(target))  # RadioUNet, RMDM, ...
    if samples is not None:
        row["calibration"] = measure_samples(samples[:, regions.uncertain], target[regions.uncertain], name)
    return row


def mean_of(values: Sequence[float | None] | np.ndarray) -> float:
    """The mean of the finite values; NaN if there are none. None, which JSON has in place of NaN, counts as NaN."""
    known = np.array(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def pooled(rows: Sequence[Mapping[str, Any]], key: str, weight: str = "pixels", power: int = 1) -> float:
    """Power mean of a score over all pixels, from its values per map and their numbers of pixels (`weight`); NaN without any."""
    sums = [(row[weight] * row[key] ** power, row[weight]) for row in rows if row[weight]]
    total, pixels = np.sum(sums, axis=0) if sums else (math.nan, 1)
    return float((total / pixels) ** (1 / power))


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of a set of maps, at least one, from what `measure` found for each.

    On raw levels means over maps, of those that have the score: nmse, rmse, ssim, psnr, nmse_PART; over the whole set
    nmse_whole_set, rmse_whole_set, target_power (mean square of the target) and rmse_db. `maps`, and in `without_energy`
    how many of them are zero everywhere and have no nmse. Under `masked` and `thresholded` the same of these
    conventions; `nmse_by_region`; under `calibration` the mean of crps, the rest over all pixels.
    """
    found = _of_convention(rows)
    found |= {"maps": len(rows), "without_energy": sum(math.isnan(row["nmse"]) for row in rows)}
    parts = {key: [row[key] for row in rows] for key, value in rows[0].items() if isinstance(value, dict)}
    if "rmse_db" in found:
        found["rmse_db"] = pooled(rows, "rmse_db", "open", 2)
        found["nmse_by_region"] = _means(parts.pop("nmse_by_region", []))
    if "calibration" in parts:
        found["calibration"] = _of_calibration(parts.pop("calibration"))
    return found | {convention: _of_convention(of_maps) for convention, of_maps in parts.items()}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over maps, of what is not a count; not all maps have all scores."""
    names = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, float))
    return {name: mean_of([row.get(name) for row in rows]) for name in names}


def _of_convention(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rmse, power = pooled(rows, "rmse", power=2), pooled(rows, "target_power")
    nmse = rmse**2 / power if power else math.nan
    return _means(rows) | {"nmse_whole_set": nmse, "rmse_whole_set": rmse, "target_power": power}


def _of_calibration(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"crps": mean_of([row["crps"] for row in rows])}
    for key in ("spread", "error"):
        found[key] = pooled(rows, key, power=2)
    coverage = [row["coverage"] | {"pixels": row["pixels"]} for row in rows]
    return found | {"coverage": {level: pooled(coverage, level) for level in rows[0]["coverage"]}}
