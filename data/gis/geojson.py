"""Building footprints from a GeoJSON file (RFC 7946), such as an extract of OpenStreetMap, as a layout in metres."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from ..errors import DataError
from ..geometry.layout import Layout
from ..trees.png import read_grey
from .geotiff import Georeference

SUFFIXES = (".geojson", ".json")
METRES_PER_DEGREE = 111_320.0  # of latitude
MARGIN = 16  # m of open ground around the footprints
LARGEST = 4096  # m
MOST_VERTICES = 50_000
ADVICE = "export building footprints as polygons, for instance from overpass-turbo.eu"


def read_geojson(content: bytes | str, name: str) -> tuple[Layout, Georeference]:
    """The polygons of a GeoJSON text, one pixel per metre, north up, and where they lie.

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
        polygons = [
            [np.array([point[:2] for point in ring], np.float64) for ring in rings] for rings in _polygons(tree)
        ]
        points = np.concatenate([ring.reshape(-1, 2) for rings in polygons for ring in rings])
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"{name}: holds no polygons that can be read; {ADVICE}") from error
    if not np.isfinite(points).all():
        raise DataError(f"{name}: holds coordinates that are not finite")
    if len(points) > MOST_VERTICES:
        raise DataError(f"{name}: has {len(points):,} vertices; at most {MOST_VERTICES:,} can be read")
    scale = np.ones(2)
    if (np.abs(points) <= (180, 90)).all() and (np.ptp(points, 0) * METRES_PER_DEGREE <= 3 * LARGEST).all():
        middle = np.deg2rad((points[:, 1].min() + points[:, 1].max()) / 2)
        scale = METRES_PER_DEGREE * np.array([np.cos(middle), 1.0])
    low, high = points.min(0) * scale, points.max(0) * scale
    width, height = high - low + 2 * MARGIN
    if not max(width, height) <= LARGEST:
        raise DataError(f"{name}: spans {width:.4g} m x {height:.4g} m; at most {LARGEST} m per side can be read")
    corner = np.array([low[0] - MARGIN, high[1] + MARGIN])  # top left
    shapes = [
        shapely.Polygon(outer, holes).buffer(0)  # of zero width: repairs rings that cross themselves
        for outer, *holes in ([(ring * scale - corner) * (1, -1) for ring in rings] for rings in polygons)
        if len(outer) >= 3
    ]
    union = shapely.union_all(shapes)  # parts of a building, duplicates and overlaps count once
    outlines = [
        np.array(ring.coords)[:-1]
        for part in getattr(union, "geoms", [union])
        if isinstance(part, shapely.Polygon) and not part.is_empty
        for ring in (part.exterior, *part.interiors)
    ]
    if not outlines:
        raise DataError(f"{name}: holds no polygon; {ADVICE}")
    (x, y), (dx, dy) = corner / scale, 1 / scale
    place = Georeference(float(x), float(y), float(dx), float(dy), degrees=bool((scale != 1).any()))
    return Layout(outlines, (math.ceil(height), math.ceil(width))), place


def _polygons(tree: Any) -> Iterator[list]:
    """The polygons below a GeoJSON object, each its outer ring and its courtyards."""
    kind = tree["type"]
    if kind == "FeatureCollection":
        for feature in tree["features"]:
            yield from _polygons(feature)
    elif kind == "Feature":
        if tree["geometry"] is not None:
            yield from _polygons(tree["geometry"])
    elif kind == "GeometryCollection":
        for geometry in tree["geometries"]:
            yield from _polygons(geometry)
    elif kind == "Polygon":
        yield tree["coordinates"]
    elif kind == "MultiPolygon":
        yield from tree["coordinates"]


def read_city(path: Path) -> tuple[Layout, Georeference | None]:
    """The layout of a city's file: footprints (.geojson, .json), or a PNG that is non-zero inside buildings.

    Returns:
        the layout, and where footprints lie; None for a PNG.

    Raises:
        DataError: names the file.
    """
    if path.suffix.lower() not in SUFFIXES:
        return Layout.traced(read_grey(path) > 0), None
    try:
        return read_geojson(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
