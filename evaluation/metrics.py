"""Scores of radio maps, under the three conventions of the literature.

Raw (RadioDiff): grey levels g as they are; NMSE = MSE / mean(target^2), RMSE, SSIM and PSNR for each map, averaged
over maps. Thresholded (RadioUNet, RMDM, RadioFlow): g' = max(g - 0.2, 0) / 0.8 first; RadioUNet sums errors over the
whole set, GeoRayMap averages NMSE over maps. Numbers under different conventions must not be compared.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from data.units import apply_noise_floor

PERFECT_PSNR = 100.0  # dB, assigned to an exact map so that means stay finite


def ssim(prediction: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004): Gaussian window 11 px, sigma 1.5, data range 1, 5 px border left out.

    Args:
        prediction, target: (H, W) in [0, 1], sides of at least 11.
    """
    x, y = prediction.astype(np.float64), target.astype(np.float64)

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, truncate=3.5)  # radius 5

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(value[5:-5, 5:-5].mean())


def detail(prediction: np.ndarray, target: np.ndarray) -> float:
    """Power at periods below four pixels, prediction over target: below 1 for a blurred map, NaN for a flat target.

    Args:
        prediction, target: (H, W) grey levels.
    """
    fine = (
        np.hypot(np.fft.fftfreq(target.shape[0])[:, None], np.fft.rfftfreq(target.shape[1])) > 0.25
    )  # cycles per pixel
    power = [float((np.abs(np.fft.rfft2(image.astype(np.float64))[fine]) ** 2).sum()) for image in (prediction, target)]
    return power[0] / power[1] if power[1] > 1e-9 else math.nan  # below: rounding errors


def map_scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """nmse, rmse, ssim, psnr (dB) and `detail` of one map, (H, W) grey levels in [0, 1].

    NMSE and detail are NaN for a target that is zero everywhere.
    """
    error = prediction.astype(np.float64) - target
    mse, power = float((error**2).mean()), float((target.astype(np.float64) ** 2).mean())
    return {
        "nmse": mse / power if power else math.nan,
        "rmse": math.sqrt(mse),
        "ssim": ssim(prediction, target),
        "psnr": min(PERFECT_PSNR, -10 * math.log10(mse)) if mse else PERFECT_PSNR,
        "detail": detail(prediction, target),
    }


def _share(error: np.ndarray, target: np.ndarray, where: np.ndarray) -> float:
    """Squared error over squared target on the pixels `where`; NaN without power there."""
    power = float((target[where].astype(np.float64) ** 2).sum())
    return float((error[where] ** 2).sum()) / power if power else math.nan


class Scores:
    """Collects scores, one map at a time.

    Attributes:
        rows: one dict per map: name and raw scores.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._thresholded: list[dict[str, float]] = []
        self._sums = np.zeros(3)  # squared error, squared target, pixels; thresholded, over the whole set

    def add(
        self, name: str, prediction: np.ndarray, target: np.ndarray, parts: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, float]:
        """Score one map, (H, W) grey levels in [0, 1]; returns its raw scores.

        With `parts`, masks (H, W) bool by name, also nmse_NAME of each; pixels where prediction and target are zero,
        such as buildings, contribute nothing.
        """
        raw = map_scores(prediction, target)
        for part, where in (parts or {}).items():
            raw[f"nmse_{part}"] = _share(prediction.astype(np.float64) - target, target, where)
        self.rows.append({"name": name} | raw)
        p, t = apply_noise_floor(prediction.astype(np.float64)), apply_noise_floor(target.astype(np.float64))
        self._thresholded.append(map_scores(p, t))
        self._sums += ((p - t) ** 2).sum(), (t**2).sum(), p.size
        return raw

    def summary(self) -> dict[str, Any]:
        """Means over maps under the raw convention, and under the key `thresholded` those of the thresholded one."""

        def means(rows: list[dict]) -> dict[str, float]:
            keys = [key for key in rows[0] if key != "name"]
            columns = {key: np.array([row[key] for row in rows]) for key in keys}
            return {k: float(np.nanmean(v)) if np.isfinite(v).any() else math.nan for k, v in columns.items()}

        error, power, pixels = self._sums
        whole = {
            "nmse_whole_set": float(error / power) if power else math.nan,
            "rmse_whole_set": math.sqrt(error / pixels),
        }
        return means(self.rows) | {"maps": len(self.rows), "thresholded": means(self._thresholded) | whole}
