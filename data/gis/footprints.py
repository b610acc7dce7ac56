"""Building footprints as GeoJSON (RFC 7946): which features are buildings, and what their coordinates mean on the ground."""

from typing import Any, NamedTuple

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError, ProjError

from ..errors import DataError
from .geotiff import EPSG_CODES

WGS_84 = CRS.from_epsg(4326)
HOUSE = (0.1, 0.05)  # smallest size of a house in m, largest in degrees
FARTHEST = 1e9  # no system has such coordinates; some programs write them for unknown ones
NOT = ("", "no", "none", "false", "0")  # values that negate a tag
CARS = ("car", "vehicle")
CONVERT = "convert it: ogr2ogr -t_srs EPSG:4326 converted.geojson"


class Footprints(NamedTuple):
    """What a file holds."""

    buildings: np.ndarray  # (N,) polygons in the file's coordinates
    cars: np.ndarray  # the same
    crs: CRS | None  # their reference system; None for metres of an unknown one
    notes: list[str]


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


def epsg_of(crs: CRS, point: np.ndarray) -> int | None:
    """EPSG code of a system, if a point (x, y) has the same place under that code, to about 1 cm; else None, also for codes
    that do not fit into a GeoTIFF.
    """
    code = crs.to_epsg(min_confidence=25) or 4326  # what has no number may be WGS 84 by another name
    if code not in EPSG_CODES:
        return None
    there, here = (
        Transformer.from_crs(each, WGS_84, always_xy=True).transform(*point) for each in (crs, CRS.from_epsg(code))
    )
    return code if np.allclose(there, here, rtol=0, atol=1e-7) else None


def footprints_of(content: Any, name: str) -> Footprints:
    """The footprints in a file's JSON; if any feature says that it is a building, only such features are buildings.

    DataError if there is no building, or coordinates cannot be in the file's reference system.
    """
    features = content.get("features") if isinstance(content, dict) else None
    features = [each for each in features if isinstance(each, dict)] if isinstance(features, list) else [content]
    shapes = shapely.make_valid(np.array([_shape(each) for each in features], object))
    has_area = shapely.area(shapes) > 0
    shapes, tags = shapes[has_area], [_tags(features[number]) for number in np.flatnonzero(has_area)]
    says = np.array([each.get("building", "no") not in NOT or each.get("class") == "building" for each in tags], bool)
    cars = ~says & np.array([each.get("class") in CARS for each in tags], bool)
    chosen = says if says.any() else ~cars
    if not chosen.any():
        what = f"only cars ({cars.sum():,}), no building" if cars.any() else "no polygon of GeoJSON"
        raise DataError(f"{name}: holds {what}; export building footprints, for instance from overpass-turbo.eu")
    left_out = (~cars & ~chosen).sum()
    notes = [f"left out: {left_out:,} features without a building tag"] if left_out else []
    named = content.get("crs") if isinstance(content, dict) else None
    buildings, crs = _polygons(shapes[chosen]), _crs(named)
    bounds = shapely.bounds(buildings)
    house, middle = np.median((bounds[:, 2:] - bounds[:, :2]).max(1)), np.median(bounds, axis=0)[:2]
    if crs is None or crs.is_geographic:  # GeoJSON that names no system should be in degrees, but some is not
        degrees = (np.abs(bounds) <= (180, 90, 180, 90)).all(1).mean() > 0.5 and house < HOUSE[1]
        if crs is None and not degrees and named:
            notes.append(f'its "crs" is unknown: coordinates count as metres; if they are not, {CONVERT} {name}')
        crs = (crs or WGS_84) if degrees else None
    elif not HOUSE[0] < house * metres(crs, middle).max() < np.inf:
        what = f"coordinates such as {middle[0]:.7g},{middle[1]:.7g} cannot be in its system, {crs.name}"
        raise DataError(f"{name}: {what}; {CONVERT} {name}")
    return Footprints(buildings, _polygons(shapes[cars]), crs, notes)


def _tags(feature: dict[str, Any]) -> dict[str, str]:
    found = feature.get("properties")
    return {str(k).lower(): str(v).strip().lower() for k, v in found.items()} if isinstance(found, dict) else {}


def _shape(feature: Any) -> shapely.Geometry | None:
    """The shape of a feature or a geometry; None if it is malformed, or its coordinates are impossible on the earth."""
    try:
        shape = shapely.geometry.shape(feature.get("geometry", feature))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError, shapely.errors.ShapelyError):
        return None
    return shape if (np.abs(shapely.get_coordinates(shape)) < FARTHEST).all() else None


def _crs(named: Any) -> CRS | None:
    """The system that a "crs" member names, by name or EPSG code, without its heights; None for one that is unknown."""
    try:
        properties = named if isinstance(named, str) else named["properties"]
        name = properties if isinstance(properties, str) else properties.get("name", properties.get("code"))
        return CRS.from_user_input(name if isinstance(name, int) else str(name)).to_2d()
    except (CRSError, KeyError, TypeError, AttributeError):
        return None


def _polygons(shapes: np.ndarray) -> np.ndarray:
    while (shapely.get_type_id(shapes) > shapely.GeometryType.POLYGON).any():
        shapes = shapely.get_parts(shapes)
    return shapes[shapely.area(shapes) > 0]
