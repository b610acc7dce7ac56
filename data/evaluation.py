"""Several predictors scored on the same scenes: one table, with its uncertainty."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import bootstrap

from .measurements import pixels_of
from .metrics import Scores
from .scene import Scene
from .units import NOISE_FLOOR

NEAR = 10  # px
COLUMNS = {  # heading: (key of a summary, digits)
    "NMSE": ("nmse", 4),
    "RMSE": ("rmse", 4),
    "SSIM": ("ssim", 4),
    "PSNR": ("psnr", 2),
    "detail": ("detail", 2),
    "NMSE LOS": ("nmse_los", 4),
    "NMSE NLOS": ("nmse_nlos", 4),
    "NMSE near": ("nmse_near", 4),
    "NMSE far": ("nmse_far", 4),
    "CRPS dB": ("calibration.crps", 2),
    "NMSE 0.2": ("thresholded.nmse_whole_set", 4),
    "NMSE 0.2 per map": ("thresholded.nmse", 4),
    "RMSE 0.2": ("thresholded.rmse_whole_set", 4),
    "SSIM 0.2": ("thresholded.ssim", 4),
}
LEGEND = (
    "Raw grey levels v / 255, means over maps; in brackets the 95 % bootstrap interval over maps. Detail: power finer "
    "than four pixels, as a share of the real map's. LOS and NLOS: open pixels that see the transmitter and those that "
    "do not; near and far: within ten pixels of a measured point, and farther. CRPS: of the draws. 0.2: RadioUNet's "
    "convention, levels max(g - 0.2, 0) / 0.8, errors summed over the whole set; 0.2 per map and SSIM 0.2: the same "
    "levels, means over maps. Numbers under different conventions must never be compared."
)


def measured_parts(scene: Scene) -> dict[str, np.ndarray]:
    """Masks (H, W) `near` measured points and `far` from them; empty without any."""
    if scene.measurements is None or not len(scene.measurements):
        return {}
    away = np.ones(scene.layout.shape, bool)
    column, row = pixels_of(scene.measurements, len(away), len(away))
    away[row, column] = False
    near = ndimage.distance_transform_edt(away) <= NEAR
    return {"near": near, "far": ~near}


def error_shares(prediction: np.ndarray, scene: Scene, visible: np.ndarray) -> dict[str, float]:
    """Where a map's squared error lies; the shares add up to the map's NMSE.

    Each pixel counts once, for the first place in the list that it belongs to.

    Args:
        prediction: (H, W) grey levels in [0, 1].
        scene: with its ground truth.
        visible: (H, W) bool, pixels in line of sight.
    """
    error = (prediction.astype(np.float64) - scene.gain) ** 2
    power = max(float((scene.gain.astype(np.float64) ** 2).sum()), 1e-12)
    inside = scene.buildings
    places = {
        "inside buildings": inside,
        "outage (zero in the open)": scene.gain == 0,
        "beside a wall": ndimage.binary_dilation(inside, np.ones((3, 3))),
        "line of sight": visible,
        "deep shadow (below -127 dB)": scene.gain < NOISE_FLOOR,
        "other shadow": np.ones_like(inside),
    }
    shares, counted = {}, np.zeros_like(inside)
    for name, place in places.items():
        shares[name] = float(error[place & ~counted].sum()) / power
        counted |= place
    return shares


def interval(values: Sequence[float], level: float = 0.95) -> list[float] | None:
    """Bootstrap interval of the mean over maps, [low, high]; None for fewer than two."""
    known = np.array([value for value in values if np.isfinite(value)])
    if len(known) < 2:
        return None
    if known.min() == known.max():
        return [float(known[0])] * 2
    found = bootstrap((known,), np.mean, confidence_level=level, n_resamples=2000, method="percentile", rng=0)
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def summarize(scores: Scores) -> dict:
    """`Scores.summary` with the interval of its NMSE."""
    return scores.summary() | {"nmse_interval": interval([row["nmse"] for row in scores.rows])}


def _has(row: dict, key: str) -> bool:
    first, _, rest = key.partition(".")
    return first in row and (not rest or _has(row[first], rest))


def _cells(name: str, row: dict, columns: dict[str, tuple[str, int]]) -> list[str]:
    def text(key: str, digits: int) -> str:
        value: Any = row
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"

    cells = [text(*column) for column in columns.values()]
    if row["nmse_interval"]:
        cells[0] += " [{:.4f}, {:.4f}]".format(*row["nmse_interval"])
    return [name, *cells]


def table(rows: dict[str, dict], markdown: bool = False) -> str:
    """Several named summaries as one table, for the terminal or in Markdown; columns that none of them has are left out."""
    columns = {title: (key, d) for title, (key, d) in COLUMNS.items() if any(_has(row, key) for row in rows.values())}
    lines = [["", *columns], *(_cells(name, row, columns) for name, row in rows.items())]
    if markdown:
        lines.insert(1, ["---"] * len(lines[0]))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{LEGEND}\n"
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def write_csv(path: Path, scores: dict[str, Scores]) -> None:
    """One row per predictor and map."""
    rows = [{"predictor": name} | row for name, each in scores.items() for row in each.rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: dict) -> None:
    """Indented JSON; numbers that are not finite become null."""

    def finite(value):
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(finite(content), indent=1), encoding="utf-8")
