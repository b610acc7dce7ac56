"""Figures of radio maps: dB with a colour bar, buildings in grey, cars in white, the transmitter marked.

`path` is the file to write: PNG, PDF or SVG by its name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data.files import write_atomically
from data.scene import Scene
from data.units import GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB, gain_to_db

from .metrics import nmse_of

BUILDING_GREY, CAR = "0.75", "white"
UNPREDICTED, UNCOVERED = "white", "#d95f5f"
GAIN: dict[str, Any] = {"cmap": "viridis", "vmin": GAIN_MIN_DB, "vmax": GAIN_MAX_DB}
ERROR: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -20, "vmax": 20, "mark": False}  # dB
STD: dict[str, Any] = {"cmap": "magma", "vmin": 0, "vmax": 10, "mark": False}
Part = tuple[slice, slice]  # rows and columns


def _show(axes: Any, values: np.ndarray, scene: Scene, mark: bool = True, **options: Any) -> Any:
    """Draw values (H, W) of a scene, NaN where they are unknown.

    `mark` shows the transmitter and the cars; `options`: `cmap`, `vmin` and `vmax`.
    """
    axes.set_facecolor(UNPREDICTED)
    shown = np.ma.masked_where(scene.buildings | np.isnan(values), values)
    image = axes.imshow(shown, interpolation="nearest", **options)
    if mark and scene.cars is not None:
        _paint(axes, scene.cars.inside, CAR)
    _paint(axes, scene.buildings, BUILDING_GREY)
    axes.autoscale(False)
    if mark and scene.tx is not None:
        axes.plot(*scene.tx, marker="x", color="black", markersize=5, markeredgewidth=1.2)
    return image


def _paint(axes: Any, where: np.ndarray, colour: str) -> None:
    axes.imshow(np.ma.masked_where(~where, where), cmap=ListedColormap([colour]), interpolation="nearest")


def _zoom(axes: Any, values: np.ndarray) -> Part:
    """Show and return the smallest rectangle of (H, W) that holds all values, with metres along the axes."""
    known = ~np.isnan(values)
    rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
    axes.set(xlim=(columns[0] - 0.5, columns[-1] + 0.5), ylim=(rows[-1] + 0.5, rows[0] - 0.5))
    axes.set_xlabel("m", fontsize=8)
    axes.tick_params(labelsize=7)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _mark_points(axes: Any, points: np.ndarray | None, label: str = "") -> None:
    if points is not None and len(points):
        axes.scatter(points[:, 0], points[:, 1], s=3, color="red", linewidths=0)
        axes.set_xlabel(f"{label}{len(points)} measured points", fontsize=8)


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    write_atomically(path, lambda file: figure.savefig(file, dpi=110, format=path.suffix[1:]))


def comparison_figure(
    path: str | Path, rows: Sequence[tuple[Scene, dict[str, Any]]], columns: Sequence[str] = ("sampled",)
) -> None:
    """The truth | each of `columns` | error of the last | spread of its samples, if they are given; one row per scene.

    `rows`: scenes, with (H, W) grey levels by column, and in all rows or none `std` of the last column.
    """
    spread_is_known = rows[0][1].get("std") is not None
    titles = (rows[0][0].truth, *columns, "error", *(["standard deviation"] if spread_is_known else []))
    count, last = len(titles), len(columns) + 1  # the error's column follows the maps
    figure = Figure(figsize=(2.5 * count + 1.2, 2.45 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (scene, maps) in zip(axes, rows, strict=True):
        predicted, real = maps[columns[-1]], scene.gain
        for ax, gain in zip(line[:last], (real, *(maps[key] for key in columns)), strict=True):
            power = _show(ax, gain_to_db(gain), scene, **GAIN)
        for ax in line:
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(scene.name, fontsize=8)
        error = _show(line[last], (predicted - real) * GAIN_SPAN_DB, scene, **ERROR)
        known = np.isfinite(predicted)
        line[last].set_xlabel(f"NMSE {nmse_of(predicted[known], real[known]):.4f}", fontsize=8)
        _mark_points(line[0], scene.measurements)
        if spread_is_known:
            spread = _show(line[-1], maps["std"] * GAIN_SPAN_DB, scene, **STD)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    bars: dict[str, Any] = {"shrink": 0.9, "aspect": 40}
    figure.colorbar(power, ax=axes[:, :last], label="path gain (dB)", location="left", **bars)
    figure.colorbar(error, ax=axes[:, last], label="error (dB)", **bars)
    if spread_is_known:
        figure.colorbar(spread, ax=axes[:, -1], label="standard deviation (dB)", **bars)
    _save(figure, path)


def radio_map_figure(path: str | Path, scene: Scene, gain: np.ndarray, std: np.ndarray | None = None) -> None:
    """One map of a scene in dB and, if given, its uncertainty: (H, W) grey levels and their standard deviation, NaN where
    nothing is predicted.
    """
    columns = 1 if std is None else 2
    figure = Figure(figsize=(6 * columns, 5), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    image = _show(axes[0], gain_to_db(gain), scene, **GAIN)
    _zoom(axes[0], gain)
    _mark_points(axes[0], scene.measurements, "m; ")
    axes[0].set_title(scene.name, fontsize=10)
    figure.colorbar(image, ax=axes[0], label="path gain (dB)")
    if std is not None:
        most = max(1.0, np.nanmax(std) * GAIN_SPAN_DB)
        spread = _show(axes[1], std * GAIN_SPAN_DB, scene, cmap="magma", vmin=0, vmax=most)
        _zoom(axes[1], gain)
        figure.colorbar(spread, ax=axes[1], label="standard deviation (dB)")
    _save(figure, path)


def coverage_figure(
    path: str | Path, server: np.ndarray, gain: np.ndarray, scenes: Sequence[Scene], threshold_db: float
) -> None:
    """Best server and coverage of several transmitters: `server` and `gain` as `evaluation.maps.best_server` gives them, the
    rest as for `write_coverage`.
    """
    figure = Figure(figsize=(11, 5.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    decibels, buildings = gain_to_db(gain), scenes[0].buildings
    unknown = (server == 0) & ~buildings
    uncovered = (server > 0) & (decibels < threshold_db)
    servers = np.where(server > 0, (server - 1) % 20, np.nan)  # colours repeat
    _show(left, servers, scenes[0], mark=False, cmap="tab20", vmin=0, vmax=20)
    image = _show(right, np.where(unknown | uncovered, np.nan, decibels), scenes[0], mark=False, **GAIN)
    _paint(right, uncovered, UNCOVERED)
    for axes in (left, right):
        part = _zoom(axes, gain)
        for number, scene in enumerate(scenes, 1):
            axes.plot(*scene.tx, marker="x", color="black", markersize=5)
            axes.annotate(str(number), scene.tx, xytext=(4, 4), textcoords="offset points", fontsize=8)
    left.set_title("best server", fontsize=10)
    right.set_title(f"covered: at least {threshold_db:g} dB", fontsize=10)
    figure.colorbar(image, ax=right, label="path gain (dB)")
    kinds = (
        ("building", buildings, BUILDING_GREY),
        ("not predicted", unknown, UNPREDICTED),
        ("below the threshold", uncovered, UNCOVERED),
    )
    marks = [Patch(fc=colour, ec="black", label=label) for label, where, colour in kinds if where[part].any()]
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8)
    _save(figure, path)


def curves_figure(path: str | Path, curves: Sequence[tuple[str, list[float], list[float]]], minutes: float) -> None:
    """NMSE along trainings, each a name, minutes and scores; those of one name have one colour."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for name, used, scores in curves:
        label = None if name in colours else name
        colour = colours.setdefault(name, f"C{len(colours)}")
        axes.plot(used, scores, color=colour, marker="o", markersize=3, label=label)
    axes.set(xlabel="minutes", ylabel="NMSE", yscale="log", xlim=(0, minutes))
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    _save(figure, path)
