"""Cities of one's own: building footprints, such as an extract of OpenStreetMap, as a layout in metres, and pictures."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely

from ..crop import SIDE
from ..errors import DataError
from ..files import read_bytes
from ..geometry.georeference import Georeference
from ..geometry.layout import Layout
from ..geometry.registration import outlines_of
from ..trees.png import decode_grey
from .footprints import Footprints, footprints_of

SUFFIXES = (".geojson", ".json", ".geojsonl", ".geojsons", ".jsonl", ".ndjson", ".gpkg", ".zip", ".fgb", ".osm", ".pbf")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
MARGIN = 16  # m of open ground around the footprints
LARGEST = 4096  # m
MOST_VERTICES = 50_000
NEAR = (512, 256)  # m around the transmitters that are kept of a larger city; less if it is dense


@dataclass
class City:
    """A city as it was read.

    Attributes:
        layout: one pixel per metre, north up.
        place: where it lies; None for pictures and RadioMapSeer's files, whose coordinates are column and row.
        notes: what was read and what was left out, a sentence each.
        seems_inverted: more than half of a picture is built.
    """

    layout: Layout
    place: Georeference | None
    notes: list[str] = field(default_factory=list)
    seems_inverted: bool = False


def read_city(path: Path, around: Sequence[tuple[float, float]] = (), invert: bool = False) -> City:
    """The city in a file; arguments and errors as `city_of`, which gets its content."""
    return city_of(read_bytes(path), str(path), around, invert)


def city_of(content: bytes, name: str, around: Sequence[tuple[float, float]] = (), invert: bool = False) -> City:
    """The city in a file's content: a PNG, footprints, or a polygon file of RadioMapSeer.

    Args:
        content, name: of the file; its suffix tells pictures.
        around: positions of transmitters, in the coordinates of the footprints. A city of more than LARGEST metres or
            MOST_VERTICES is cut around them; a smaller one grows if they stand in the open beside it.
        invert: the buildings of a picture are its dark pixels.

    Raises:
        DataError: names the file.
    """
    if content[:4] == b"\x89PNG" or Path(name).suffix.lower() in PICTURES:
        return _picture(decode_grey(content, name), invert)
    if invert:
        raise DataError(f"{name}: is no picture; only pictures can be inverted")
    if re.match(rb"\s*\[\s*\[", content):
        return _city_of_radiomapseer(content, name)
    return _city_of_footprints(footprints_of(content, name), np.array(around, np.float64).reshape(-1, 2), name)


def _picture(grey: np.ndarray, invert: bool) -> City:
    """A city whose buildings are the pixels (H, W) above the middle of the grey levels that it holds."""
    low, high = int(grey.min()), int(grey.max())
    threshold = (low + high) / 2 if low < high else 0
    built = (grey > threshold) != invert
    notes = [f"{grey.shape[1]} x {grey.shape[0]} px, {built.mean():.1%} of them built"]
    between = (grey > low) & (grey < high)
    if between.any():
        notes.append(
            f"{len(np.unique(grey[between]))} grey levels between {low} and {high} ({between.mean():.1%} of the pixels), "
            f"as a PNG made from a JPEG has them; pixels above {threshold:g} are taken as buildings"
        )
    return City(Layout.traced(built), None, notes, seems_inverted=bool(built.mean() > 0.5))


def _city_of_radiomapseer(content: bytes, name: str) -> City:
    try:
        rings = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is no polygon file of RadioMapSeer ({error})") from error
    layout = Layout(outlines_of(rings, name, (SIDE, SIDE)), (SIDE, SIDE))
    kind = f"a polygon file of RadioMapSeer, {SIDE} x {SIDE} px; positions are column and row of its maps"
    return City(layout, None, [f"{kind}; {layout.inside.mean():.1%} of it built"])


def _city_of_footprints(found: Footprints, positions: np.ndarray, name: str) -> City:
    """Footprints, one pixel per metre, north up, and where they lie.

    Coordinates are scaled to metres by their length on the ellipsoid in the middle of the city. What that neglects, the
    narrowing of degrees towards the poles, moves a corner of a city of 1 km by 0.04 m at a latitude of 41 and 0.08 m at
    60, of 4 km by 0.6 m and 1.2 m.
    """
    polygons, count = _near(found, positions, name), len(found.buildings)
    place, shape = _place(polygons, positions, found, name)
    layout = Layout(_outlines(polygons, place), shape)
    built = f"{shape[1]} x {shape[0]} m, {layout.inside.mean():.1%} of it built"
    if len(polygons) < count:
        found.notes.append(f"footprints near enough to the transmitter: {len(polygons):,} of {count:,}")
    return City(layout, place, [f"footprints: {len(polygons):,}, in {found.unit}; {built}", *found.notes])


def _near(found: Footprints, positions: np.ndarray, name: str) -> np.ndarray:
    """All polygons, or of too large a city what lies around the positions (N, 2)."""
    polygons, whole = found.buildings, shapely.total_bounds(found.buildings).reshape(2, 2)
    size = np.ptp(whole, 0) * found.metres(whole.mean(0)) + 2 * MARGIN
    for reach in NEAR if len(positions) else ():
        if size.max() <= LARGEST and shapely.get_num_coordinates(polygons).sum() <= MOST_VERTICES:
            break
        room, size = reach / found.metres(positions.mean(0)), np.zeros(2)
        box = shapely.box(*(positions.min(0) - room), *(positions.max(0) + room))
        polygons = shapely.intersection(found.buildings[shapely.intersects(found.buildings, box)], box)
        if not len(polygons):
            (x, y), ((left, bottom), (right, top)) = positions[0], whole
            spans = f"it spans {left:.7g} .. {right:.7g}, {bottom:.7g} .. {top:.7g} (x and y, or lon and lat)"
            raise DataError(f"{name}: has no building within {reach} m of {x:.9g},{y:.9g}; {spans}")
    return polygons


def _place(
    polygons: np.ndarray, positions: np.ndarray, found: Footprints, name: str
) -> tuple[Georeference, tuple[int, int]]:
    """Where the map of polygons lies, and its shape (H, W); the positions near them lie on it."""
    bounds = shapely.total_bounds(polygons).reshape(2, 2)
    away = np.maximum(bounds[0] - positions, positions - bounds[1]) * found.metres(bounds.mean(0))
    corners = np.vstack([bounds, positions[(away <= NEAR[0]).all(1)]])
    low, high = corners.min(0), corners.max(0)
    scale = found.metres((low + high) / 2)
    (width, height), vertices = (high - low) * scale + 2 * MARGIN, shapely.get_num_coordinates(polygons).sum()
    if not (max(width, height) <= LARGEST and vertices <= MOST_VERTICES):
        what = f"spans {width:.4g} m x {height:.4g} m with {vertices:,} vertices"
        most = f"at most {LARGEST} m per side and {MOST_VERTICES:,} vertices can be read"
        raise DataError(f"{name}: {what}; {most}, or a part around a transmitter, if its position is given first")
    left, top, dx, dy = map(float, (low[0] - MARGIN / scale[0], high[1] + MARGIN / scale[1], *(1 / scale)))
    return Georeference(left, top, dx, dy, found.degrees, found.epsg), (math.ceil(height), math.ceil(width))


def _outlines(polygons: np.ndarray, place: Georeference) -> list[np.ndarray]:
    """The outlines of polygons in pixels; parts of a building, duplicates and overlaps count once."""
    union = shapely.union_all(shapely.transform(polygons, lambda points: np.column_stack(place.pixels(*points.T))))
    return [
        np.array(ring.coords)[:-1]
        for part in shapely.get_parts(union)
        if isinstance(part, shapely.Polygon) and not part.is_empty
        for ring in (part.exterior, *part.interiors)
    ]
