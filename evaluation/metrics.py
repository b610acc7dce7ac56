"""Scores of radio maps, under the conventions of the literature (docs/accuracy.md).

A convention says what is done to the grey levels of prediction and target first (`under_conventions`), and whether NMSE =
sum(error^2) / sum(target^2) and RMSE are means over maps or taken over the whole set. Numbers under different
conventions must not be compared.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from data.units import GAIN_SPAN_DB, apply_noise_floor

from .regions import Regions

RADIUS = 5  # px of the window of SSIM
WINDOW = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()
PERFECT_PSNR = 100.0  # dB, assigned to an exact map so that means stay finite


def under_conventions(gain: np.ndarray, regions: Regions | None = None) -> dict[str, np.ndarray]:
    """Grey levels (H, W) under the conventions of the literature; `masked` needs the regions of the scene."""
    found = {"raw": gain, "thresholded": apply_noise_floor(gain)}  # RadioDiff; RadioUNet, RMDM, RadioFlow, GeoRayMap
    return found | ({"masked": gain * ~regions.picture} if regions else {})  # ControlRadio with --building_mask


def ssim(prediction: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004): Gaussian window 11 px, sigma 1.5, data range 1, 5 px border left out.

    Args:
        prediction, target: (H, W) in [0, 1], sides of at least 11.
    """
    x, y = prediction.astype(np.float64), target.astype(np.float64)
    mean_x, mean_y, squares, products = map(_blurred, (x, y, x * x + y * y, x * y))
    of_means, both_means = mean_x * mean_y, mean_x**2 + mean_y**2
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * of_means + c1) * (2 * (products - of_means) + c2)
    return float((likeness / ((both_means + c1) * (squares - both_means + c2))).mean())


def _blurred(image: np.ndarray) -> np.ndarray:
    """(H, W) -> (H - 10, W - 10); in place, which takes half of the time of scipy's filter."""
    for _ in range(2):
        length = len(image) - 2 * RADIUS
        blurred = WINDOW[RADIUS] * image[RADIUS : RADIUS + length]
        pair = np.empty_like(blurred)
        for k in range(RADIUS):
            np.add(image[k : k + length], image[2 * RADIUS - k :][:length], out=pair)
            pair *= WINDOW[k]
            blurred += pair
        image = blurred.T
    return image


def detail(prediction: np.ndarray, target: np.ndarray) -> float:
    """Power at periods below four pixels, prediction over target: below 1 for a blurred map, NaN for a flat target.

    Args:
        prediction, target: (H, W) grey levels.
    """
    fine = _fine_waves(target.shape)
    power = [float((np.abs(np.fft.rfft2(image.astype(np.float64))[fine]) ** 2).sum()) for image in (prediction, target)]
    return power[0] / power[1] if power[1] > 1e-9 else math.nan  # below: rounding errors


@lru_cache(4)
def _fine_waves(shape: tuple[int, int]) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])) > 0.25  # cycles per pixel


def map_scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """nmse, rmse, ssim, psnr (dB) and `detail` of one map, (H, W) grey levels in [0, 1].

    NMSE and detail are NaN for a target that is zero everywhere.
    """
    error = prediction.astype(np.float64) - target
    mse = float((error**2).mean())
    return {
        "nmse": nmse_of(error, target.astype(np.float64)),
        "rmse": math.sqrt(mse),
        "ssim": ssim(prediction, target),
        "psnr": min(PERFECT_PSNR, -10 * math.log10(mse)) if mse else PERFECT_PSNR,
        "detail": detail(prediction, target),
    }


def nmse_of(error: np.ndarray, target: np.ndarray) -> float:
    """Squared error over squared target, of all values of two arrays; NaN for a target without energy."""
    power = float((target**2).sum())
    return float((error**2).sum()) / power if power else math.nan


def mean_of(values: Sequence[float | None] | np.ndarray) -> float:
    """The mean of the values that are finite; NaN without any. None, as JSON has in place of NaN, is not."""
    known = np.array(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def measure(
    name: str, prediction: np.ndarray, target: np.ndarray, regions: Regions | None = None
) -> dict[str, dict[str, Any]]:
    """All that `Scores` keeps of one map, in JSON types.

    Args:
        prediction, target: (H, W) grey levels in [0, 1].
        regions: of the scene: with it also `rmse_db`, the error over open pixels, nmse_NAME of each of `regions.parts`
            (where both are zero, as in buildings, nothing is contributed), and the convention `masked`.

    Returns:
        `row`, the name and the scores on raw levels; `others`, scores under other conventions; `sums` per convention, of
        squared error, squared target and pixels, and, under `open`, of squared error in dB and open pixels.
    """
    prediction, target = prediction.astype(np.float64), target.astype(np.float64)
    row, others, sums = {"name": name} | map_scores(prediction, target), {}, {}
    if regions:
        squared = (((prediction - target) * GAIN_SPAN_DB) ** 2)[regions.open]
        sums["open"] = [float(squared.sum()), squared.size]
        row["rmse_db"] = math.sqrt(squared.mean()) if squared.size else math.nan
        for part, where in regions.parts.items():
            row[f"nmse_{part}"] = nmse_of((prediction - target)[where], target[where])
    targets = under_conventions(target, regions)
    for convention, p in under_conventions(prediction, regions).items():
        t = targets[convention]
        sums[convention] = [float(((p - t) ** 2).sum()), float((t**2).sum()), p.size]
        if convention != "raw":
            others[convention] = map_scores(p, t)
    return {"row": row, "others": others, "sums": sums}


class Scores:
    """Collects a predictor's scores, one map at a time.

    Attributes:
        rows: one dict per map: its name, and its scores on raw grey levels.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._others: defaultdict[str, list[dict[str, float]]] = defaultdict(list)  # rows of the other conventions
        self._sums: defaultdict[str, Any] = defaultdict(lambda: 0)

    def add(self, *map_and_truth: Any) -> dict[str, Any]:
        """Score one map; returns its row. Arguments as of `measure`."""
        self.take(measure(*map_and_truth))
        return self.rows[-1]

    def take(self, measured: Mapping[str, dict[str, Any]]) -> None:
        """Count what `measure` found."""
        self.rows.append(measured["row"])
        for convention, row in measured["others"].items():
            self._others[convention].append(row)
        for name, values in measured["sums"].items():
            self._sums[name] = self._sums[name] + np.array(values, np.float64)

    def summary(self) -> dict[str, Any]:
        """On raw levels means over maps, of those that have the score: nmse, rmse, ssim, psnr, detail, nmse_PART; over the
        whole set nmse_whole_set, rmse_whole_set, target_power (mean square of the target) and rmse_db. `maps`, and in
        `without_energy` how many of them are zero everywhere and have no nmse. Under `masked` and `thresholded` the same
        of these conventions.
        """
        found: dict[str, Any] = self._of("raw", self.rows)
        if "open" in self._sums and self._sums["open"][1]:
            found["rmse_db"] = math.sqrt(self._sums["open"][0] / self._sums["open"][1])
        without_energy = sum(math.isnan(row["nmse"]) for row in self.rows)
        found |= {"maps": len(self.rows), "without_energy": without_energy}
        return found | {convention: self._of(convention, rows) for convention, rows in self._others.items()}

    def _of(self, convention: str, rows: list[dict[str, Any]]) -> dict[str, float]:
        error, power, pixels = self._sums[convention]
        names = dict.fromkeys(key for row in rows for key in row if key != "name")
        means = {name: mean_of([row.get(name) for row in rows]) for name in names}
        return means | {
            "nmse_whole_set": float(error / power) if power else math.nan,
            "rmse_whole_set": math.sqrt(error / pixels),
            "target_power": float(power / pixels),
        }
