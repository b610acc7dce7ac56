"""Coordinate reference systems: which one a GeoJSON file names, and how long its units are on the ground."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError

from ..errors import DataError

WGS_84 = CRS.from_epsg(4326)
GROUND = Geod(ellps="WGS84")
LARGEST_HOUSE = 0.05  # no house is 5 km long, as this would be in degrees, nor so short, as it would be in metres
BEYOND = 4.0  # degrees of latitude by which coordinates may leave a system's area of use: maps of a country often do
SKEW = 3.0  # degrees by which the angle between the axes may differ from a right one on the ground


@dataclass(frozen=True)
class Crs:
    """How coordinates are to be understood.

    Attributes:
        system: degrees, or any unit of a projected system; None for metres of an unknown one.
    """

    system: CRS | None

    @property
    def epsg(self) -> int | None:
        """Code of the EPSG register; None without one."""
        code = self.system.to_epsg(min_confidence=25) if self.system else None
        return 3857 if code == 900913 else code  # the old name of the web's projection

    @property
    def text(self) -> str:
        """Unit or name, and code."""
        name = "degrees" if self.degrees else self.system.name if self.system else "metres"
        return f"{name} (EPSG:{self.epsg})" if self.epsg else name

    @property
    def degrees(self) -> bool:
        """Whether the coordinates are longitude and latitude."""
        return self.system is not None and self.system.is_geographic

    def ground(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        """Ground metres per unit of x and of y (2,) at a point (x, y), and the angle between the axes in degrees."""
        if self.system is None:
            return np.ones(2), 90.0
        step = 1e-4 if self.degrees else 10.0
        lon, lat = transformer(self.system, WGS_84).transform(point[0] + [0, step, 0], point[1] + [0, 0, step])
        azimuth, _, length = GROUND.inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
        return length / step, float((azimuth[0] - azimuth[1]) % 360)

    def metres(self, point: np.ndarray) -> np.ndarray:
        """Ground metres per unit of x and of y, (2,), at a point (x, y)."""
        return self.ground(point)[0]


@lru_cache(16)
def transformer(given: CRS, wanted: CRS) -> Transformer:
    """Of coordinates x, y, or longitude and latitude, from one system to the other."""
    return Transformer.from_crs(given, wanted, always_xy=True)


def conversion(name: str) -> str:
    """The command that brings a file into longitude and latitude."""
    layer = " multipolygons" if name.lower().endswith((".osm", ".pbf")) else ""
    return f"convert it: ogr2ogr -t_srs EPSG:4326 converted.geojson {name}{layer}"


def crs_of(member: Any, name: str) -> CRS | None:
    """The system that a GeoJSON object's `crs` names, without its heights; None for null.

    Raises:
        DataError: it names nothing that is known.
    """
    if member is None:
        return None
    properties = member.get("properties") if isinstance(member, dict) else None
    label = properties.get("name", properties.get("code")) if isinstance(properties, dict) else member
    text = str(label).strip()
    try:
        system = CRS.from_user_input(text)
    except CRSError as error:
        raise DataError(f'{name}: its "crs" ({text[:60]}) is not known here; {conversion(name)}') from error
    return system.sub_crs_list[0] if system.is_compound else system.to_2d()


def choose_crs(system: CRS | None, points: np.ndarray, house: float, name: str) -> Crs:
    """The system of a file's coordinates: that of its label if the numbers agree, otherwise what the numbers look like.

    Args:
        system: of its label; None without one.
        points: (N, 2), all coordinates.
        house: longer side of a typical polygon, in units of the coordinates.
        name: of the file, for errors.

    Raises:
        DataError: a label that the numbers contradict, or whose axes are not at right angles on the ground.
    """
    numbers_are_degrees = (np.abs(points) <= (180, 90)).all(1).mean() > 0.5 and house < LARGEST_HOUSE
    if system is None:
        return Crs(WGS_84 if numbers_are_degrees else None)
    crs = Crs(system)
    label = f"EPSG:{crs.epsg}" if crs.epsg else system.name
    unusable = f'{name}: its "crs" ({label}) cannot be used here; {conversion(name)}'
    if not (system.is_projected or system.is_geographic) or (crs.degrees and system.axis_info[0].unit_name != "degree"):
        raise DataError(unusable)
    (left, bottom), (right, top) = np.percentile(points, [1, 99], axis=0)
    if crs.degrees != numbers_are_degrees or not _in_area(system, (left, right), (bottom, top)):
        raise DataError(
            f'{name}: its "crs" says {label}, whose numbers are {"degrees" if crs.degrees else "metres or feet"}, but '
            f"its coordinates (x {left:.6g} .. {right:.6g}, y {bottom:.6g} .. {top:.6g}) cannot be; "
            'correct or remove "crs"'
        )
    if not abs(crs.ground(np.median(points, axis=0))[1] - 90) < SKEW:
        raise DataError(unusable)
    return crs


def _in_area(system: CRS, x: tuple[float, float], y: tuple[float, float]) -> bool:
    """Whether coordinates lie in a system's area of use, or not far beyond."""
    lon, lat = transformer(system, WGS_84).transform(x, y)
    if not np.isfinite([lon, lat]).all():
        return False
    if system.area_of_use is None:
        return True
    west, south, east, north = system.area_of_use.bounds
    room = BEYOND / max(np.cos(np.deg2rad(np.mean(lat))), 0.01)
    from_west = (np.array(lon) - west + room) % 360
    width = ((east - west) % 360 or 360) + 2 * room
    return bool(min(lat) >= south - BEYOND and max(lat) <= north + BEYOND and (from_west <= width).all())
