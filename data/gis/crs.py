"""Coordinate reference systems: which one a GeoJSON file names, and how long its units are on the ground."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

WGS_84 = 4326
MERCATOR = {3857, 3785, 900913, 102100, 102113}  # web maps: an ellipsoid's latitudes on a sphere
EQUATOR, ECCENTRICITY = 6_378_137.0, 0.0066943799901  # radius in m and squared eccentricity of WGS 84
MERCATOR_END = np.pi * EQUATOR
LARGEST_HOUSE = 0.05  # no house is 5 km long, as this would be in degrees, nor so short, as it would be in metres
NAMES = {"crs84": WGS_84, "crs84h": WGS_84, "wgs84": WGS_84, "wgs 84": WGS_84, "crs83": 4269, "crs27": 4267}
COMPOUND = {
    7415: 28992,
    5554: 25831,
    5555: 25832,
    5556: 25833,
    5698: 2154,
    7405: 27700,
}  # with heights: what lies below
GRIDS = {  # where coordinates of some grids lie: x from, to; y from, to
    2056: (2.4e6, 2.9e6, 1.0e6, 1.4e6),
    2154: (0, 1.3e6, 6.0e6, 7.2e6),
    21781: (4.0e5, 9.0e5, 0, 4.0e5),
    27700: (0, 7.0e5, 0, 1.3e6),
    28992: (0, 3.0e5, 3.0e5, 6.4e5),
    31370: (0, 3.0e5, 0, 3.0e5),
    5514: (-9.1e5, -4.0e5, -1.25e6, -9.0e5),
}
UTM = r"(326|327|258)\d\d"


@dataclass(frozen=True)
class Crs:
    """How coordinates are to be understood.

    Attributes:
        epsg: code of the EPSG register; None for metres of an unknown system.
        unit: `degrees` of longitude and latitude, `metres`, or metres of the web's `mercator` projection.
    """

    epsg: int | None
    unit: str

    def metres(self, y: float) -> np.ndarray:
        """Ground metres per unit of x and of y, (2,), at a given y; on the ellipsoid of WGS 84."""
        if self.unit == "metres":
            return np.ones(2)
        mercator = self.unit == "mercator"
        latitude = 2 * np.arctan(np.exp(y / EQUATOR)) - np.pi / 2 if mercator else np.deg2rad(np.clip(y, -89.9, 89.9))
        squeeze = np.sqrt(1 - ECCENTRICITY * np.sin(latitude) ** 2)
        per_radian = EQUATOR * np.array([np.cos(latitude) / squeeze, (1 - ECCENTRICITY) / squeeze**3])
        return per_radian * ([1, np.cos(latitude)] / np.array(EQUATOR) if mercator else np.pi / 180)


def lon_lat_to_mercator(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Degrees -> coordinates of EPSG:3857."""
    return EQUATOR * np.deg2rad(lon), EQUATOR * np.arctanh(np.sin(np.deg2rad(lat)))


def conversion(name: str) -> str:
    """The command that brings a file into longitude and latitude."""
    layer = " multipolygons" if name.lower().endswith((".osm", ".pbf")) else ""
    return f"convert it: ogr2ogr -t_srs EPSG:4326 converted.geojson {name}{layer}"


def code_of(member: Any, name: str) -> int | None:
    """The EPSG code of a GeoJSON object's `crs`; None for null.

    Raises:
        DataError: it names nothing that is known here.
    """
    if member is None:
        return None
    properties = member.get("properties") if isinstance(member, dict) else None
    said = properties.get("name", properties.get("code")) if isinstance(properties, dict) else member
    text = str(said).strip()
    found = re.search(r"(?:epsg|esri)\b[^,+]*?(\d{4,6})(?=$|[,+])", text, re.I) or re.fullmatch(r"(\d{4,6})", text)
    if found:
        code = int(found[1])
        return COMPOUND.get(code, 3857 if code in MERCATOR else code)
    last = re.split(r"[:/#]", text)[-1].lower()
    if last in NAMES:
        return NAMES[last]
    raise DataError(f'{name}: its "crs" ({text[:60]}) is not known here; {conversion(name)}')


def choose_crs(code: int | None, points: np.ndarray, house: float, name: str) -> Crs:
    """The system of a file's coordinates: that of its label if the numbers agree, otherwise what the numbers look like.

    Args:
        code: EPSG code of its label; None without one.
        points: (N, 2), all coordinates.
        house: longer side of a typical polygon, in units of the coordinates.
        name: of the file, for errors.

    Raises:
        DataError: a label that is neither in metres nor in degrees, or that the numbers contradict.
    """
    numbers_are_degrees = (np.abs(points) <= (180, 90)).all(1).mean() > 0.5 and house < LARGEST_HOUSE
    if code is None:
        return Crs(WGS_84, "degrees") if numbers_are_degrees else Crs(None, "metres")
    unit = "mercator" if code in MERCATOR else _unit_of(code)
    if unit is None:
        raise DataError(
            f'{name}: EPSG:{code}, which its "crs" names, is neither in degrees nor known to be in metres (feet are '
            f"not, nor are projections that stretch); {conversion(name)}"
        )
    (left, bottom), (right, top) = np.percentile(points, [1, 99], axis=0)
    bounds = (-MERCATOR_END, MERCATOR_END, -MERCATOR_END, MERCATOR_END) if unit == "mercator" else GRIDS.get(code)
    if re.fullmatch(UTM, str(code)):
        bounds = (0.5e5, 9.5e5, -1e7, 1e7)
    impossible = bounds and not (bounds[0] <= left and right <= bounds[1] and bounds[2] <= bottom and top <= bounds[3])
    if impossible or (unit == "degrees") != numbers_are_degrees:
        raise DataError(
            f'{name}: its "crs" says EPSG:{code}, whose numbers are {"degrees" if unit == "degrees" else "metres"}, but '
            f"its coordinates (x {left:.6g} .. {right:.6g}, y {bottom:.6g} .. {top:.6g}) cannot be; "
            'correct or remove "crs"'
        )
    return Crs(code, unit)


def _unit_of(code: int) -> str | None:
    """`degrees` or `metres` by the table beside this module; None for everything else."""
    return next((unit for unit, codes in _units().items() if any(low <= code <= high for low, high in codes)), None)


@lru_cache(1)
def _units() -> dict[str, list[tuple[int, int]]]:
    """First and last codes of ranges, by unit."""
    units: dict[str, list[tuple[int, int]]] = {}
    for line in Path(__file__).with_name("epsg.txt").read_text(encoding="utf-8").splitlines():
        if line[:1].isalpha():
            codes = units[line] = []
        elif not line.startswith("#"):
            codes += [(int(part.split("-")[0]), int(part.split("-")[-1])) for part in line.split()]
    return units
