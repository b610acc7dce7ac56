"""Measured points from other people's text files."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyproj import CRS

from ..errors import DataError
from ..files import decoded, read_bytes
from ..geometry.georeference import Georeference, extent
from ..units import GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB, db_to_gain
from .crs import WGS_84, transformer

DELIMITERS = (";", "\t", "|", ",", "")
EXAMPLE = "such as x,y,gain_db or longitude,latitude,rsrp"
AXES: dict[str, list[tuple[set[str], set[str]]]] = {  # names of x and of y, and words that may be a part of them
    "longitude and latitude": [(set(), {"lon", "long", "lng", "longitude"}), (set(), {"lat", "latitude"})],
    "easting and northing": [
        ({"e", "east", "utm_x", "utm_e"}, {"easting"}),
        ({"n", "north", "utm_y", "utm_n"}, {"northing"}),
    ],
    "column and row": [({"column", "col"}, set()), ({"row"}, set())],
    "x and y": [(set(), {"x"}), (set(), {"y"})],
}
QUANTITIES: list[tuple[str, set[str], set[str]]] = [  # the same for values; the first that is found is taken
    ("gain", {"gain", "path_gain", "pathgain", "pg", "channel_gain"}, set()),
    ("loss", {"path_loss", "pathloss", "pl", "loss", "attenuation"}, set()),
    ("power", set(), {"rsrp"}),
    ("power", {"rx_power", "received_power", "rxpower", "prx", "p_rx", "power", "rx_level", "level"}, {"rssi", "rscp"}),
    ("power", {"signal", "signal_strength", "signal_level", "received_signal_strength", "rx", "rxlev"}, {"dbm"}),
]
OTHERS = {"tx", "eirp", "noise", "threshold"}  # words in names of columns that hold nothing measured
MISSING = {"", "nan", "na", "n/a", "null", "none", "-", "--", "?"}
NOTHING = 1e8  # phones write 2147483647 for what they do not know


class Table(NamedTuple):
    """The columns of a file of measured points that are read."""

    delimiter: str  # between fields; '' for white space
    names: list[str]  # of x, y and value, as in the file
    columns: list[int]  # their numbers
    axes: str  # what x and y are, a key of AXES
    quantity: str  # what the value is, a key of QUANTITIES
    width: int  # number of all columns


def read_measurements(
    path: Path, shape: tuple[int, int], place: Georeference | None = None, eirp_dbm: float | None = None
) -> tuple[np.ndarray, str]:
    """Measured points from a text file; arguments and errors as `measurements_of`, which gets its content."""
    return measurements_of(read_bytes(path), str(path), shape, place, eirp_dbm)


def measurements_of(
    content: bytes, name: str, shape: tuple[int, int], place: Georeference | None = None, eirp_dbm: float | None = None
) -> tuple[np.ndarray, str]:
    """Measured points from a text whose first line names the columns; separators, units and spellings are recognised.

    Points outside the map and rows without a value are left out.

    Args:
        content, name: of the file.
        shape: (H, W) of the map.
        place: where the map lies; None: x and y are column and row.
        eirp_dbm: of the transmitter; what turns received power in dBm into path gain.

    Returns:
        (N, 3) float32 of column, row and grey level, and what was read, in words.

    Raises:
        DataError: names the file, and the line if it is one.
    """
    lines = decoded(content).splitlines()
    start, table = _header(lines, place, name)
    if table.quantity == "power" and eirp_dbm is None:
        raise DataError(
            f"{name}: {table.names[2]} is received power in dBm; give the transmitter's EIRP too, which makes path gain of it"
        )
    if table.quantity != "power" and eirp_dbm is not None:
        raise DataError(f"{name}: {table.names[2]} needs no EIRP; name the column dbm if it is received power")
    numbers, rows = _rows(lines, start, table, name)
    if not len(rows):
        raise DataError(f"{name}: has a header, but no rows")
    known = np.isfinite(rows).all(1)
    x, y, value = rows[known].T
    column, row = _pixels(x, y, table.axes, place)
    inside = (column >= -0.5) & (column < shape[1] - 0.5) & (row >= -0.5) & (row < shape[0] - 0.5)
    said = {"gain": "", "loss": " (taken as -gain)", "power": f" (dBm, minus the EIRP of {eirp_dbm or 0:g} dBm)"}
    note = f"{int(inside.sum())} measured points from the columns {', '.join(table.names)}{said[table.quantity]}"
    for what, count in (("outside the map", int((~inside).sum())), ("without a value", int((~known).sum()))):
        note += f"; {what} and left out: {count}" if count else ""
    if not inside.any():
        raise DataError(f"{name}: none of its points lies inside the map ({extent(shape, place)}): {note}")
    gain = {"gain": value, "loss": -value, "power": value - (eirp_dbm or 0)}[table.quantity]
    for number, one in zip(numbers[known][inside], gain[inside], strict=True):
        _check_gain(f"{name}: line {number}", float(one), table.names[2])
    return np.column_stack([column, row, db_to_gain(gain)])[inside].astype(np.float32), note


def _header(lines: Sequence[str], place: Georeference | None, name: str) -> tuple[int, Table]:
    """Number of the first line below the header, and its columns."""
    for number, line in enumerate(lines):
        text = line.strip()
        comment = text.startswith(("#", "%", "//"))
        if not text or re.fullmatch(r'"?sep=..?"?', text):
            continue
        header = text.lstrip("#%/ ")
        found = {delimiter: _columns(header, delimiter, place) for delimiter in DELIMITERS}
        table = next((table for table in found.values() if isinstance(table, Table)), None)
        if table is not None:
            return number + 1, table
        if not comment:
            reason = found[max(DELIMITERS, key=lambda delimiter: len(_split(header, delimiter)))]
            raise DataError(f"{name}: {reason}; its first line must name the columns, {EXAMPLE}")
    raise DataError(f"{name}: holds no line; its first line must name the columns, {EXAMPLE}")


def _columns(header: str, delimiter: str, place: Georeference | None) -> Table | str:
    """The columns of a header whose fields this delimiter separates; in words what is missing."""
    names = _split(header if delimiter else re.sub(r"\s+([(\[])", r"\1", header), delimiter)
    plain = [_plain(field) for field in names]
    values = [
        (number, quantity)
        for quantity, whole, part in QUANTITIES
        for number in _named(plain, whole, part)
        if quantity == "power" or "dbm" not in plain[number]
    ]
    if not values:
        return "has no column of path gain, path loss or received power"
    pairs = {}
    for axes, both in AXES.items():
        found = [next(_named(plain, *words), None) for words in both]
        if None not in found and len({*found, values[0][0]}) == 3:
            pairs[axes] = found
    if not pairs:
        return "has no columns of positions, such as x and y or longitude and latitude"
    usable = _usable_axes(place)
    axes = next((axes for axes in usable if axes in pairs), None)
    if axes is None:
        return f"has positions in {' and '.join(pairs)}, but the city's are {usable[0]}"
    columns = [*pairs[axes], values[0][0]]
    return Table(delimiter, [names[number] for number in columns], columns, axes, values[0][1], len(names))


def _named(plain: Sequence[tuple[str, str]], whole: set[str], part: set[str]) -> Iterator[int]:
    """Numbers of the columns whose name is one of `whole`, or has one of `part` among its words or as its unit."""
    for number, (base, unit) in enumerate(plain):
        words = {*base.split("_"), unit}
        if (base in whole or words & part) and not words & OTHERS:
            yield number


def _usable_axes(place: Georeference | None) -> list[str]:
    """What positions can be on a map, the best first."""
    if place is None:
        return ["column and row", "x and y"]
    lon_lat = ["longitude and latitude"] if place.degrees or place.epsg else []
    return [*(lon_lat if place.degrees else ["easting and northing"]), "x and y", *lon_lat, "column and row"]


def _pixels(x: np.ndarray, y: np.ndarray, axes: str, place: Georeference | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a file -> columns and rows."""
    if place is None or axes == "column and row":
        return x, y
    if axes == "longitude and latitude" and place.epsg:
        x, y = transformer(WGS_84, CRS.from_epsg(place.epsg)).transform(x, y)
    return (x - place.x) / place.dx, (place.y - y) / place.dy


def _plain(field: str) -> tuple[str, str]:
    """A column's name in lower case without its unit, and the unit: `RSRP [dBm]` -> rsrp, dbm."""
    text = field.strip().strip("\"'").lower()
    bracket = re.search(r"[(\[](.*?)[)\]]", text)
    base = re.sub(r"[^a-z0-9]+", "_", re.sub(r"[(\[].*", "", text)).strip("_")
    suffix = re.fullmatch(r"(.+)_(dbm|db|deg|m)", base)
    if suffix:
        base = suffix[1]
    return base, bracket[1].strip() if bracket else suffix[2] if suffix else ""


def _split(line: str, delimiter: str) -> list[str]:
    """The fields of a line, without quotation marks."""
    if not delimiter:
        return [field.strip("\"'") for field in line.split()]
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _rows(lines: Sequence[str], start: int, table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the lines (N,), and x, y and value (N, 3), NaN where there is none."""
    numbers, rows = [], []
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip() or line.lstrip().startswith(("#", "%", "//")):
            continue
        fields = _split(line.strip() if table.delimiter != "\t" else line, table.delimiter)
        if any(fields[table.width :]):
            remedy = "if commas are decimal points, separate fields by semicolons"
            raise DataError(f"{name}: line {number}: has {len(fields)} fields, the first line {table.width}; {remedy}")
        try:
            rows.append([_number(fields[column]) for column in table.columns])
        except (ValueError, IndexError) as error:
            raise DataError(f"{name}: line {number}: is no row of numbers {','.join(table.names)}") from error
        numbers.append(number)
    return np.array(numbers, int), np.array(rows, np.float64).reshape(-1, 3)


def _number(text: str) -> float:
    """A number with a point or a comma, perhaps with its unit; NaN for a missing one."""
    text = re.sub(r"\s*(dbm?|deg|m|°)$", "", text.strip().lower()).replace("\u2212", "-")
    if text in MISSING:
        return np.nan
    if "," in text and "." in text:  # the last of them is the decimal one
        text = text.replace("." if text.rfind(",") > text.rfind(".") else ",", "")
    value = float(text.replace(",", "."))
    return value if abs(value) < NOTHING else np.nan


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
