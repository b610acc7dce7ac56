"""Predicted maps as files: pictures, arrays and GeoTIFF; best server and coverage of several transmitters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.files import write_atomically, write_json
from data.geometry.georeference import Georeference
from data.gis.geotiff import write_geotiff
from data.scene import Scene
from data.trees.png import write_grey
from data.units import GAIN_SPAN_DB, gain_to_db, gain_to_uint8

from .figures import comparison_figure, coverage_figure, radio_map_figure


def write_map(
    folder: Path, name: str, gain: np.ndarray, std: np.ndarray | None = None, georeference: Georeference | None = None
) -> None:
    """A map as NAME.png (grey levels) and NAME.npy (dB), the standard deviation of its samples as NAME_std.npy (dB); with a
    `georeference` on the earth as .tif too. (H, W) grey levels, NaN where nothing is predicted.
    """
    write_grey(folder / f"{name}.png", gain_to_uint8(np.nan_to_num(gain)))
    decibels = {name: gain_to_db(gain)} | ({} if std is None else {f"{name}_std": std * GAIN_SPAN_DB})
    for stem, values in decibels.items():
        _write_array(folder, stem, values.astype(np.float32))
        _write_geotiff(folder, stem, values, georeference)


def _write_array(folder: Path, name: str, values: np.ndarray) -> None:
    write_atomically(folder / f"{name}.npy", lambda file: np.save(file, values))


def _write_geotiff(folder: Path, name: str, values: np.ndarray, georeference: Georeference | None) -> None:
    if georeference is not None:
        write_atomically(folder / f"{name}.tif", lambda file: write_geotiff(file, values, georeference))


def draw_map(folder: Path, scene: Scene, gain: np.ndarray, std: np.ndarray | None = None) -> None:
    """A map as NAME_figure.png, compared with the real one if that is known; arguments as of `write_map`."""
    figure = folder / f"{scene.name}_figure.png"
    if scene.gain is None or std is not None:
        radio_map_figure(figure, scene, gain, std)
    else:
        comparison_figure(figure, [(scene, {"sampled": gain})])


def best_server(gains: np.ndarray, buildings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transmitter received best, (H, W) from 1, 0 in buildings and where nothing is predicted, and its gain, NaN there.

    `gains` (N, H, W) are grey levels, NaN where a map has no value; `buildings` (H, W) is bool.
    """
    filled = np.where(np.isnan(gains) | buildings, -np.inf, gains)
    best = filled.max(axis=0)
    predicted = np.isfinite(best)
    return np.where(predicted, filled.argmax(axis=0) + 1, 0), np.where(predicted, best, np.nan).astype(np.float32)


def write_coverage(
    folder: Path,
    name: str,
    gains: np.ndarray,
    scenes: Sequence[Scene],
    threshold_db: float,
    georeference: Georeference | None = None,
) -> dict[str, Any]:
    """What several transmitters cover together: NAME_coverage.json and .png, NAME_best_server.npy; with `georeference` both
    as .tif (coverage: 1 where covered). Returns the content of the JSON file.

    Args:
        gains: the maps (N, H, W), as of `best_server`.
        scenes: one city, one transmitter each, in the order of their numbers.
        threshold_db: path gain from which a pixel is covered.
    """
    buildings = scenes[0].buildings
    server, gain = best_server(gains, buildings)
    predicted, covered = server > 0, (server > 0) & (gain_to_db(gain) >= threshold_db)
    area = max(int(predicted.sum()), 1)
    summary = {
        "threshold_db": threshold_db,
        "predicted_fraction_of_open_area": float(predicted.sum() / max((~buildings).sum(), 1)),
        "covered_fraction_of_predicted_area": float(covered.sum() / area),
        "fraction_predicted_for_all_transmitters": float((predicted & ~np.isnan(gains).any(0)).sum() / area),
        "transmitters": [
            {"number": number, "name": scene.name, "best_server_fraction": float((server == number).sum() / area)}
            for number, scene in enumerate(scenes, 1)
        ],
    }
    write_json(folder / f"{name}_coverage.json", summary)
    _write_array(folder, f"{name}_best_server", server.astype(np.int16))
    for what, values in (("best_server", server), ("coverage", covered)):
        _write_geotiff(folder, f"{name}_{what}", np.where(predicted, values, np.nan), georeference)
    coverage_figure(folder / f"{name}_coverage.png", server, gain, scenes, threshold_db)
    return summary
