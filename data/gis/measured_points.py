"""Measured points from other people's text files."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS, Transformer

from ..errors import DataError
from ..files import decoded, read_bytes
from ..geometry.georeference import Georeference, extent
from ..units import GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB, db_to_gain
from .footprints import WGS_84

# names of columns, in lower case, with _ for what is no letter or digit; the first that a file has are taken
LON_LAT = (("longitude", "latitude"), ("lon", "lat"), ("lng", "lat"))
PIXELS = ("column", "row")
GAIN = ["gain_db", "gain", "path_gain_db", "path_gain"]
LOSS = ["path_loss_db", "path_loss", "pathloss_db", "pathloss"]
POWER = ["rsrp_dbm", "rsrp", "rssi_dbm", "rssi", "rx_power_dbm", "rx_power", "power_dbm", "dbm"]
EXPECTED = "its first line must name the columns, such as x,y,gain_db or longitude,latitude,rsrp"
UNKNOWN = 2147483647  # by Android


def read_measurements(
    path: Path, shape: tuple[int, int], place: Georeference | None = None, eirp_dbm: float | None = None
) -> tuple[np.ndarray, str]:
    """Measured points from a text file; arguments and errors as `measurements_of`, which gets its content."""
    return measurements_of(read_bytes(path), str(path), shape, place, eirp_dbm)


def measurements_of(
    content: bytes, name: str, shape: tuple[int, int], place: Georeference | None = None, eirp_dbm: float | None = None
) -> tuple[np.ndarray, str]:
    """Measured points from a text whose first line names the columns.

    Points outside the map and rows without a value are left out.

    Args:
        content, name: of the file.
        shape: (H, W) of the map.
        place: where the map lies; None: x and y are column and row.
        eirp_dbm: of the transmitter; what turns received power in dBm into path gain.

    Returns:
        (N, 3) float32 of column, row and grey level, and what was read, in words.

    Raises:
        DataError: names the file, and the row if it is one.
    """
    table = _table(content, name)
    usable = [*(LON_LAT if place and (place.degrees or place.epsg) else ()), ("x", "y"), PIXELS]
    axes = next((pair for pair in usable if {*pair} <= {*table}), None)
    column = next((name for name in GAIN + LOSS + POWER if name in table), None)
    if axes is None or column is None:
        kinds = "gain_db, path_loss_db, rsrp or dbm" if axes else " or ".join(",".join(pair) for pair in usable)
        raise DataError(f"{name}: has the columns {', '.join(table)[:99]}, but not {kinds}; {EXPECTED}")
    if (column in POWER) != (eirp_dbm is not None):
        what = "is received power in dBm; give" if eirp_dbm is None else "is no received power in dBm; do not give"
        raise DataError(f"{name}: {column} {what} the transmitter's EIRP, which makes path gain of it")
    x, y, value = (table[each] for each in (*axes, column))
    if axes in LON_LAT and place and place.epsg:
        x, y = Transformer.from_crs(WGS_84, CRS.from_epsg(place.epsg), always_xy=True).transform(x, y)
    if place and axes != PIXELS:
        x, y = (x - place.x) / place.dx, (place.y - y) / place.dy
    gain = -value if column in LOSS else value - (eirp_dbm or 0)
    known = np.isfinite([x, y, gain]).all(0)
    inside = known & (x >= -0.5) & (x < shape[1] - 0.5) & (y >= -0.5) & (y < shape[0] - 0.5)
    said = " (taken as -gain)" if column in LOSS else ""
    said += "" if eirp_dbm is None else f" (dBm, minus the EIRP of {eirp_dbm:g} dBm)"
    note = f"{inside.sum()} measured points from the columns {', '.join((*axes, column))}{said}"
    for what, count in (("outside the map", (known & ~inside).sum()), ("without a value", (~known).sum())):
        note += f"; {what} and left out: {count}" if count else ""
    if not inside.any():
        raise DataError(f"{name}: none of its points lies inside the map ({extent(shape, place)}): {note}")
    for number in np.flatnonzero(inside):
        _check_gain(f"{name}: row {number + 1}", gain[number], column)
    return np.column_stack([x, y, db_to_gain(gain)])[inside].astype(np.float32), note


def _table(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The columns of a text, NaN where there is no number, by their names in lower case; the first of equal names."""
    lines = [line.partition("#")[0] for line in decoded(content).splitlines()]
    lines = [line for line in lines if line.strip()]
    separator = next((one for one in ";\t|," if lines and one in lines[0]), None)
    rows = [*csv.reader(lines, delimiter=separator)] if separator else [line.split() for line in lines]
    heads = [re.sub("[^a-z0-9]+", "_", head.lower()).strip("_") for head in rows[0]] if rows else []
    for number, row in enumerate(rows):
        if any(row[len(heads) :]):
            remedy = "if commas are decimal points, separate fields by semicolons"
            raise DataError(f"{name}: row {number} has more fields than the first line; {remedy}")
    table: dict[str, np.ndarray] = {}
    for column, head in enumerate(heads):
        table.setdefault(head, np.array([_number(row[column]) if column < len(row) else np.nan for row in rows[1:]]))
    return table


def _number(text: str) -> float:
    """With a decimal point or comma; NaN for anything else."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return np.nan
    return np.nan if value == UNKNOWN else value


def _check_gain(where: str, gain: float, column: str = "gain_db") -> None:
    if not GAIN_MIN_DB - GAIN_SPAN_DB <= gain <= GAIN_MAX_DB:
        raise DataError(
            f"{where}: {column} is {gain:g} as path gain, which is a negative number of dB, at most {GAIN_MAX_DB:g}; "
            "is it a path loss, or received power in dBm?"
        )


def check_measurements(
    points: Sequence[tuple[str, Any]], shape: tuple[int, int], place: Georeference | None = None
) -> np.ndarray:
    """Measured points, each with where it comes from, checked: (N, 3) float32; other arguments as `read_measurements`.

    Raises:
        DataError: a point that is no x, y and path gain in dB, outside the map, or impossible.
    """
    checked = []
    for where, point in points:
        try:
            x, y, gain = (float(value) for value in point)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: is no row of numbers x,y,gain_db") from error
        column, row = (x, y) if place is None else place.pixels(x, y)
        if not (0 <= column <= shape[1] - 1 and 0 <= row <= shape[0] - 1):
            raise DataError(f"{where}: {x:g},{y:g} is outside the map ({extent(shape, place)})")
        _check_gain(where, gain)
        checked.append((column, row, float(db_to_gain(gain))))
    return np.array(checked, np.float32).reshape(-1, 3)
