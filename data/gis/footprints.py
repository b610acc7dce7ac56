"""Building footprints as GeoJSON (RFC 7946): which features are buildings, and what their coordinates mean on the ground."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError, ProjError

from ..errors import DataError
from ..files import decoded

WGS_84 = CRS.from_epsg(4326)
HOUSE = (0.1, 0.05)  # in m, what is shorter is no house, and in degrees, what is longer
FARTHEST = 1e9  # no system has such coordinates; some programs write them for what they do not know
TAGS, KINDS = ["building", "building:part"], ["type", "class"]  # properties that say what a feature is
BUILDING, CAR = ["building", "buildings", "building_part"], ["car", "cars", "vehicle", "vehicles"]  # in words
NOT = ["", "no", "none", "null", "false", "0", "0.0"]
HEIGHTS = ["height", "building:levels"]
EXPECTED = "a city is a PNG, GeoJSON, or a polygon file of RadioMapSeer; ogr2ogr converts other formats"


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
    tags, shapes, crs = _read_features(content, name)
    says = np.array([_says(each, BUILDING, TAGS) for each in tags], bool)
    others = ~np.array([_says(each, CAR) for each in tags], bool)
    cars = ~says & ~others
    chosen = says if says.any() else others
    if not chosen.any():
        what = f"only cars ({cars.sum():,}), no building" if cars.any() else "no polygon"
        raise DataError(f"{name}: holds {what}; export building footprints, for instance from overpass-turbo.eu")
    notes = []
    if 0 < says.sum() < (others | says).sum():
        of_all = f"{says.sum():,} of {(others | says).sum():,}"
        notes.append(f"features that say they are buildings: {of_all}; the others are left out")
    heights = sorted({key for each in tags for key in HEIGHTS if each.get(key) is not None})
    if heights:
        notes.append(f"{', '.join(heights)}: not used; every building counts as 25 m high")
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


def _read_features(content: bytes, name: str) -> tuple[list[dict[str, Any]], np.ndarray, CRS | None]:
    """Properties, by names in lower case, and valid shape of every feature with an area, and the system that the file names.

    Raises:
        DataError: no JSON.
    """
    text = decoded(content)
    try:
        try:
            values = [json.loads(text)]
        except json.JSONDecodeError:  # one feature per line, or per record of a sequence (RFC 8142)
            values = [json.loads(line) for line in text.replace("\x1e", "").splitlines() if line.strip()]
        features = [feature for value in values for feature in _features(value)]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is no GeoJSON ({' '.join(str(error).split())}); {EXPECTED}") from error
    if not features:
        raise DataError(f"{name}: holds no GeoJSON feature; {EXPECTED}")
    label = next((value["crs"] for value in values if isinstance(value, dict) and value.get("crs")), None)
    shapes = shapely.make_valid(np.array([_shape(geometry) for _, geometry in features], object))
    used = shapely.area(shapes) > 0
    tags = [{str(key).lower(): value for key, value in properties.items()} for properties, _ in features]
    return [each for each, use in zip(tags, used, strict=True) if use], shapes[used], _crs(label)


def _features(value: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Properties and geometry of every feature of a GeoJSON object; a geometry is one without properties."""
    if not isinstance(value, dict):
        return
    if value.get("type") == "FeatureCollection":
        features = value.get("features")
        for feature in features if isinstance(features, list) else []:
            yield from _features(feature)
    elif value.get("type") == "Feature":
        properties = value.get("properties")
        yield properties if isinstance(properties, dict) else {}, value.get("geometry")
    elif "coordinates" in value or "geometries" in value:
        yield {}, value


def _shape(geometry: Any) -> shapely.Geometry | None:
    """None for what is malformed, and for coordinates that nothing on the earth has."""
    try:
        shape = shapely.geometry.shape(geometry)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, shapely.errors.ShapelyError):
        return None
    return shape if (np.abs(shapely.get_coordinates(shape)) < FARTHEST).all() else None


def _crs(label: Any) -> CRS | None:
    """The system that a "crs" member names, without its heights; None for one that is unknown."""
    try:
        crs = CRS.from_user_input(str(label["properties"]["name"]))
    except (CRSError, KeyError, TypeError):
        return None
    return crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()


def _says(properties: dict[str, Any], words: list[str], tags: Sequence[str] = ()) -> bool:
    """Whether a feature has one of these tags, or has one of these words as its type or class."""
    said = {key: str(properties[key]).strip().lower() for key in (*tags, *KINDS) if key in properties}
    return any(text not in NOT if key in tags else text in words for key, text in said.items())


def _polygons(shapes: np.ndarray) -> np.ndarray:
    """The polygons in shapes and collections of them."""
    while (shapely.get_type_id(shapes) > shapely.GeometryType.POLYGON).any():
        shapes = shapely.get_parts(shapes)
    return shapes[shapely.area(shapes) > 0]
