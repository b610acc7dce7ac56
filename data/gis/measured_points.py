"""Measured points from CSV files."""

import csv
from pathlib import Path

import numpy as np
from pyproj import CRS, Transformer

from ..errors import DataError
from ..files import decoded, read_bytes
from ..geometry.georeference import Georeference, extent
from ..units import GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB, db_to_gain
from .footprints import WGS_84


def read_measurements(
    path: Path, shape: tuple[int, int], georeference: Georeference | None = None, eirp_dbm: float | None = None
) -> tuple[np.ndarray, str]:
    """(N, 3) float32 of column, row and grey level from a CSV file, and what was read; a DataError names the file.

    Its first line names the columns `x`, `y` (column and row, or coordinates of the `georeference` of the map) or `lon`, `lat`,
    and `gain_db`, or `dbm`, received power, where the transmitter's EIRP is given; others are not read. Points outside the
    map of shape (H, W) and rows without a value are left out.
    """
    value = "gain_db" if eirp_dbm is None else "dbm"
    text = decoded(read_bytes(path))
    try:
        rows = csv.DictReader(text.lower().splitlines(), skipinitialspace=True)
        names = rows.fieldnames or []
        on_earth = georeference is not None and georeference.epsg is not None and {"lon", "lat"} <= {*names}
        columns = ("lon", "lat", value) if on_earth else ("x", "y", value)
        every = list(rows)
        if any("".join(row.get(None, [])).strip() for row in every):
            raise ValueError("a line has more values than the first one has names")
        if repeated := [name for name in columns if names.count(name) > 1]:
            raise ValueError(f"several columns are named {repeated[0]}")
        table = np.array([[float(row.get(name) or "nan") for name in columns] for row in every]).reshape(-1, 3)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: is not a table of comma-separated numbers with decimal points ({error})") from error
    if not {*columns} <= {*names}:
        other = "dbm with the transmitter's EIRP" if eirp_dbm is None else "gain_db without an EIRP"
        wanted = f"x,y (or lon,lat of a city that lies on the earth) and {value}, or {other}"
        raise DataError(f"{path}: its first line must name the columns {wanted}; it has {', '.join(names)[:99]}")
    x, y, measured = table.T
    if georeference is not None:
        if on_earth:
            x, y = Transformer.from_crs(WGS_84, CRS.from_epsg(georeference.epsg), always_xy=True).transform(x, y)
        x, y = (x - georeference.x) / georeference.dx, (georeference.y - y) / georeference.dy
    gain = measured - (eirp_dbm or 0)
    inside = np.isfinite(gain) & (x >= -0.5) & (x < shape[1] - 0.5) & (y >= -0.5) & (y < shape[0] - 0.5)
    note = f"{inside.sum()} measured points from the columns {', '.join(columns)}"
    note += "" if eirp_dbm is None else f" (minus the EIRP of {eirp_dbm:g} dBm)"
    note += f"; left out, outside the map or without a value: {(~inside).sum()}"
    if not inside.any():
        raise DataError(f"{path}: none of its points lies inside the map ({extent(shape, georeference)}): {note}")
    return grey_levels(np.column_stack([x, y, gain])[inside], str(path)), note


def grey_levels(points: np.ndarray, where: str) -> np.ndarray:
    """Points (N, 3) of column, row and path gain in dB with grey levels, float32; DataError for an impossible gain."""
    gain = points[:, 2]
    wrong = gain[(gain < GAIN_MIN_DB - GAIN_SPAN_DB) | (gain > GAIN_MAX_DB)]
    if len(wrong):
        hint = f"which is negative, at most {GAIN_MAX_DB:g} dB; is it a path loss, or received power in dBm?"
        raise DataError(f"{where}: {wrong[0]:g} is not a path gain, {hint}")
    return np.column_stack([points[:, :2], db_to_gain(gain)]).astype(np.float32)
