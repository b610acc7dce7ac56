"""Building footprints: which features are buildings, and what their coordinates mean on the ground."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from ..errors import DataError

WGS_84 = CRS.from_epsg(4326)
HOUSE = (0.1, 0.05)  # in m, what is shorter is no house, and in degrees, what is longer
FARTHEST = 1e9  # no system has such coordinates; some programs write them for what they do not know
TAGS, KINDS = ["building", "building:part"], ["type", "class"]  # properties that say what a feature is
BUILDING, CAR = ["building", "buildings", "building_part"], ["car", "cars", "vehicle", "vehicles"]  # in words
NOT = ["", "no", "none", "false", "0", "0.0"]
HEIGHTS = ["height", "building:levels"]


class Footprints(NamedTuple):
    """What a file holds."""

    buildings: np.ndarray  # (N,) polygons in the file's coordinates
    cars: np.ndarray  # the same
    crs: CRS | None  # their reference system; None for metres of an unknown one
    notes: list[str]


def epsg_of(crs: CRS | None) -> int | None:
    """Code of the EPSG register; None without one."""
    code = crs.to_epsg(min_confidence=25) if crs else None
    return 3857 if code == 900913 else code  # the old name of the web's projection


def metres(crs: CRS | None, point: np.ndarray) -> np.ndarray:
    """Ground metres per unit of x and of y, (2,), at a point (x, y); NaN in a system that is nowhere on the ground."""
    if crs is None:
        return np.ones(2)
    step = 1e-4 if crs.is_geographic else 10.0
    try:
        to_degrees = Transformer.from_crs(crs, WGS_84, always_xy=True)
    except ProjError:
        return np.full(2, np.nan)
    lon, lat = to_degrees.transform(point[0] + [0, step, 0], point[1] + [0, 0, step])
    return Geod(ellps="WGS84").inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])[2] / step


def footprints_of(content: bytes, name: str) -> Footprints:
    """The footprints in a file's content; where any of them says that it is a building, only those are buildings.

    Raises:
        DataError: no building, or coordinates that cannot be in the file's reference system.
    """
    from .gdal import read_features  # slow to import: after all other errors

    frame = read_features(content, name, [*TAGS, *KINDS, *HEIGHTS])
    frame = frame[(frame.bounds.abs() < FARTHEST).all(axis=1)]  # False also where there are no coordinates
    shapes, notes = shapely.make_valid(np.array(frame.geometry)), []
    frame, shapes = frame[shapely.area(shapes) > 0], shapes[shapely.area(shapes) > 0]
    says, others = _says(frame, BUILDING, TAGS), ~_says(frame, CAR)
    cars = ~says & ~others
    chosen = says if says.any() else others
    if not chosen.any():
        what = f"only cars ({cars.sum():,}), no building" if cars.any() else "no polygon"
        raise DataError(f"{name}: holds {what}; export building footprints, for instance from overpass-turbo.eu")
    if 0 < says.sum() < (others | says).sum():
        of_all = f"{says.sum():,} of {(others | says).sum():,}"
        notes.append(f"features that say they are buildings: {of_all}; the others are left out")
    heights = [key for key in frame if key.lower() in HEIGHTS and frame[key].notna().any()]
    if heights:
        notes.append(f"{', '.join(heights)}: not used; every building counts as 25 m high")
    crs = frame.crs and (frame.crs.sub_crs_list[0] if frame.crs.is_compound else frame.crs.to_2d())  # without heights
    buildings = _polygons(shapes[chosen])
    bounds = shapely.bounds(buildings)
    house, middle = np.median((bounds[:, 2:] - bounds[:, :2]).max(1)), np.median(bounds, axis=0)[:2]
    if crs is None or crs.is_geographic:  # GeoJSON that names no system should be in degrees, but not everybody's is
        degrees = (np.abs(bounds) <= (180, 90, 180, 90)).all(1).mean() > 0.5 and house < HOUSE[1]
        crs = (crs or WGS_84) if degrees else None
    elif not HOUSE[0] < house * metres(crs, middle).max() < np.inf:
        what = f"coordinates such as {middle[0]:.7g},{middle[1]:.7g} cannot be in its system, {crs.name}"
        raise DataError(f"{name}: {what}; convert it: ogr2ogr -t_srs EPSG:4326 converted.geojson {name}")
    return Footprints(buildings, _polygons(shapes[cars]), crs, notes)


def _says(frame: Any, words: list[str], tags: Sequence[str] = ()) -> np.ndarray:
    """Which features (N,) of a GeoDataFrame have one of these tags, or have one of these words as their type or class."""
    texts = [(key.lower(), frame[key].astype("string").fillna("").str.lower()) for key in frame if key != "geometry"]
    said = [~text.isin(NOT) if key in tags else text.isin(words) for key, text in texts if key in (*tags, *KINDS)]
    return np.any([np.zeros(len(frame)), *said], axis=0)


def _polygons(shapes: np.ndarray) -> np.ndarray:
    """The polygons in shapes and collections of them."""
    while (shapely.get_type_id(shapes) > shapely.GeometryType.POLYGON).any():
        shapes = shapely.get_parts(shapes)
    return shapes[shapely.area(shapes) > 0]
