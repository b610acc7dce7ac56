"""Summaries of several predictors as text: the main scores on a terminal, in at most 80 columns; all scores in files."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.trees.splits import city_name

from .metrics import mean_of

COLUMNS = {  # heading: (key of a summary, digits)
    "NMSE": ("nmse", 4),
    "RMSE": ("rmse", 4),
    "SSIM": ("ssim", 4),
    "PSNR": ("psnr", 2),
    "RMSE dB": ("rmse_db", 2),
    "NMSE LOS": ("nmse_los", 4),
    "NMSE NLOS": ("nmse_nlos", 4),
    "CRPS dB": ("calibration.crps", 2),
    "90 % interval": ("calibration.coverage.0.9", 3),
    "NMSE set": ("nmse_whole_set", 4),
    "RMSE set": ("rmse_whole_set", 4),
    "NMSE masked": ("masked.nmse", 4),
    "NMSE masked, set": ("masked.nmse_whole_set", 4),
    "RMSE masked, set": ("masked.rmse_whole_set", 4),
    "SSIM masked": ("masked.ssim", 4),
    "NMSE 0.2": ("thresholded.nmse", 4),
    "NMSE 0.2, set": ("thresholded.nmse_whole_set", 4),
    "RMSE 0.2, set": ("thresholded.rmse_whole_set", 4),
    "SSIM 0.2": ("thresholded.ssim", 4),
}
SHORT = {name: COLUMNS[name] for name in ("NMSE", "RMSE dB", "SSIM")}
LEGEND = (
    "Grey levels v / 255, means over maps, with the 95 % interval of a bootstrap over cities. RMSE dB: over open pixels "
    "of the whole set. LOS and NLOS: pixels that see the transmitter and those that do not. CRPS and 90 % interval (the "
    "fraction of the pixels not certainly built whose value lies in it): of the samples. Set: errors summed over the "
    "whole set, not means over maps. Masked: prediction and target times (1 - building picture). 0.2: levels max(g - 0.2, 0) / 0.8. "
    "Numbers under different conventions must not be compared."
)
WIDTH = 80
Rows = Mapping[str, Mapping[str, Any]]  # `Evaluation.summaries`


def interval(values: Sequence[float] | np.ndarray, names: Sequence[str]) -> list[float] | None:
    """95 % bootstrap interval of the mean over scenes with these names, [low, high], of the values that are finite.

    Cities are drawn, each with all its scenes, because scenes of one city are alike. None for fewer than two cities.
    """
    from scipy.stats import bootstrap  # slow to import

    known = np.isfinite(values)
    cities, city = np.unique([city_name(name) for name in np.array(names)[known]], return_inverse=True)
    if len(cities) < 2:
        return None
    sums, counts = np.bincount(city, np.array(values)[known]), np.bincount(city)

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    options: dict[str, Any] = {"paired": True, "n_resamples": 2000, "method": "percentile", "rng": 0}
    found = bootstrap((sums, counts), mean, **options).confidence_interval
    return [float(found.low), float(found.high)]


def difference(values: np.ndarray, names: Sequence[str]) -> str:
    """The mean over scenes of differences, and its interval."""
    bounds = interval(values, names)
    return f"{mean_of(values):+.4f}" + (f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]" if bounds else "")


def entry(summary: Mapping[str, Any], key: str) -> float | None:
    """A number of a summary by its key, whose parts are joined by dots; None where it is not there or not finite."""
    value: Any = summary
    for part in key.split(".", 2):
        value = value.get(part) if value else None
    return None if value is None or not np.isfinite(value) else float(value)


def powers(summary: Mapping[str, Any]) -> str:
    """The mean power of the targets under each convention, which tells the convention of a published row: RMSE^2 / NMSE."""
    found = {"raw": summary, "masked": summary["masked"], "0.2": summary["thresholded"]}
    powers = ", ".join(f"{name} {row['target_power']:.3f}" for name, row in found.items())
    return f"Mean power of the targets: {powers}."


def table(
    rows: Mapping[tuple[str, ...], Mapping[str, Any]],
    columns: Mapping[str, tuple[str, int]] = COLUMNS,
    heads: Sequence[str] = ("",),
) -> list[list[str]]:
    """Headings, and one line per summary, without columns that are empty in all; the keys of `rows` go below `heads`."""
    used = {n: c for n, c in columns.items() if any(entry(row, c[0]) is not None for row in rows.values())}
    lines = [[*heads, *used]]
    for first, row in rows.items():
        cells = []
        for key, digits in used.values():
            value, bounds = entry(row, key), row.get("nmse_interval") if key == "nmse" else None
            text = "-" if value is None else f"{value:.{digits}f}"
            cells.append(text + (f" [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""))
        lines.append([*first, *cells])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table; the first line is its head."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rest))


def wrapped(*sentences: str) -> str:
    """Each sentence on lines of its own."""
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(sentence, WIDTH, **options) for sentence in sentences)


def terminal_report(rows: Rows, notes: Iterable[str]) -> str:
    """The table of all predictors, then where the first one's error lies, and the calibration of samples."""
    lines = table({(name,): row for name, row in rows.items()}, SHORT)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    first, summary = next(iter(rows.items()))
    regions = ", ".join(f"{name} {value:.4f}" for name, value in summary["nmse_by_region"].items())
    sentences = [f"NMSE of {first} by region: {regions}."] if regions else []
    for name, row in rows.items():
        if found := row.get("calibration"):
            numbers = ", ".join(f"{key} {found[key.lower()]:.2f} dB" for key in ("CRPS", "spread", "error"))
            covered = ", ".join(f"{float(level):.0%}: {fraction:.1%}" for level, fraction in found["coverage"].items())
            sentences.append(f"{name}: {numbers}; intervals cover {covered} of the pixels not certainly built.")
    return "\n".join(["", *aligned, "", wrapped(*sentences, powers(summary), *notes)])


def markdown_report(rows: Rows, facts: Mapping[str, Any]) -> str:
    """What was scored, and the table of all scores."""
    head = ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
    whole = markdown(table({(name,): row for name, row in rows.items()}))
    return f"{head}\n\n{whole}\n\n{powers(next(iter(rows.values())))} {LEGEND}\n"
