"""Building footprints from a GeoJSON file (RFC 7946), such as an extract of OpenStreetMap, as a layout in metres."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .layout import Layout
from .scene import read_grey

SUFFIXES = (".geojson", ".json")
METRES_PER_DEGREE = 111_320.0  # of latitude
MARGIN = 16  # m of open ground around the footprints
LARGEST = 4096  # m
ADVICE = "export building footprints as polygons, for instance from overpass-turbo.eu"


def read_geojson(content: bytes | str, name: str) -> Layout:
    """The polygons of a GeoJSON text, one pixel per metre, north up.

    Coordinates within ±180 and ±90 that are a few kilometres apart are taken as degrees of longitude and latitude and
    projected around their middle (equirectangular: at 4 km the error is below a metre), all others as metres.

    Args:
        content: the text.
        name: of the file, for errors.

    Raises:
        DataError: no JSON, no polygons, or an area of more than LARGEST metres.
    """
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is no GeoJSON ({type(error).__name__})") from error
    try:
        rings = [np.array([point[:2] for point in ring], np.float64) for ring in _rings(tree)]
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: is no GeoJSON of polygons; {ADVICE}") from error
    rings = [ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring for ring in rings]
    rings = [ring for ring in rings if ring.ndim == 2 and ring.shape[1:] == (2,) and len(ring) >= 3]
    if not rings:
        raise DataError(f"{name}: holds no polygon; {ADVICE}")
    points = np.concatenate(rings)
    if not np.isfinite(points).all():
        raise DataError(f"{name}: holds coordinates that are not finite")
    scale = np.ones(2)
    if (np.abs(points) <= (180, 90)).all() and (np.ptp(points, 0) * METRES_PER_DEGREE <= 3 * LARGEST).all():
        middle = np.deg2rad((points[:, 1].min() + points[:, 1].max()) / 2)
        scale = METRES_PER_DEGREE * np.array([np.cos(middle), 1.0])
    low, high = points.min(0) * scale, points.max(0) * scale
    width, height = np.ceil(high - low + 2 * MARGIN).astype(int)
    if max(width, height) > LARGEST:
        raise DataError(f"{name}: spans {width} m x {height} m; at most {LARGEST} m per side can be read")
    corner = np.array([low[0] - MARGIN, high[1] + MARGIN])  # top left
    return Layout([(ring * scale - corner) * (1, -1) for ring in rings], (int(height), int(width)))


def _rings(tree: Any) -> Iterator[list]:
    """The rings of all polygons below a GeoJSON object, courtyards included."""
    kind = tree["type"]
    if kind == "FeatureCollection":
        for feature in tree["features"]:
            yield from _rings(feature)
    elif kind == "Feature":
        if tree["geometry"] is not None:
            yield from _rings(tree["geometry"])
    elif kind == "GeometryCollection":
        for geometry in tree["geometries"]:
            yield from _rings(geometry)
    elif kind == "Polygon":
        yield from tree["coordinates"]
    elif kind == "MultiPolygon":
        for polygon in tree["coordinates"]:
            yield from polygon


def read_city(path: Path) -> Layout:
    """The layout of a city's file: footprints (.geojson, .json), or a PNG that is non-zero inside buildings.

    Raises:
        DataError: names the file.
    """
    if path.suffix.lower() not in SUFFIXES:
        return Layout.traced(read_grey(path) > 0)
    try:
        return read_geojson(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
