"""Cities of one's own: building footprints, such as an extract of OpenStreetMap, as a layout in metres, and pictures."""

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
from ..geometry.cars import cars_from_picture
from ..geometry.georeference import Georeference
from ..geometry.layout import Layout
from ..geometry.outlines import is_building
from ..geometry.registration import fit_outlines, outlines_of
from ..trees.png import decode_grey, read_grey
from .crs import Crs, choose_crs
from .footprints import ADVICE, footprints_of, json_values

SUFFIXES = (".geojson", ".json", ".geojsonl", ".geojsons", ".jsonl", ".ndjson")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
OF_A_TREE = re.compile(r"/png/buildings_(complete|missing\d/\d)/[^/]+$")  # where a RadioMapSeer tree has its pictures
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
        cars: None if none were named.
    """

    layout: Layout
    place: Georeference | None
    notes: list[str] = field(default_factory=list)
    seems_inverted: bool = False
    cars: Layout | None = None

    def add_cars(self, cars: Layout) -> None:
        """Take these cars, except those that stand inside buildings."""
        built = self.layout.inside
        in_the_open = [ring for ring in cars.outlines if not is_building(built, ring).all()]
        self.cars = Layout(in_the_open, cars.shape, inside=cars.inside & ~built)
        left_out = len(cars.outlines) - len(in_the_open)
        self.notes.append(
            f"cars: {len(in_the_open):,}" + (f"; {left_out:,} inside buildings left out" if left_out else "")
        )


def read_city(
    path: Path, around: Sequence[tuple[float, float]] = (), invert: bool = False, cars: Path | None = None
) -> City:
    """The city in a file; arguments and errors as `city_of`, which gets its content.

    Args:
        cars: a picture of the same size, cars white on black, for a city whose coordinates are pixels.
    """
    city = city_of(read_bytes(path), str(path), around, invert)
    if cars is not None and city.place is not None:
        raise DataError(f'{cars}: {path} holds footprints; mark its cars in that file, with "class": "car"')
    shown = None if cars is None else _read_cars(cars, city.layout.shape)
    if OF_A_TREE.search(path.resolve().as_posix()):
        city.layout = Layout(fit_outlines(city.layout.inside), city.layout.shape)
        city.notes.append("a picture of a RadioMapSeer tree; outlines and positions are in the frame of its maps")
    if shown is not None:
        # RadioMapSeer's beside outlines in the frame of its maps; other pictures have a frame of their own
        city.add_cars(cars_from_picture(shown) if city.layout.exact else Layout.traced(shown))
    return city


def _read_cars(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) bool of a picture that show cars."""
    grey = read_grey(path, shape)
    shown = grey > (int(grey.min()) + int(grey.max())) / 2
    if shown.mean() > 0.5:
        raise DataError(f"{path}: shows cars on {shown.mean():.0%} of the map; save it with cars white on black")
    return shown


def city_of(content: bytes, name: str, around: Sequence[tuple[float, float]] = (), invert: bool = False) -> City:
    """The city in a file's content: a PNG, footprints, or a polygon file of RadioMapSeer.

    Args:
        content, name: of the file; its suffix tells pictures.
        around: positions of transmitters, in the coordinates of the footprints, see `read_geojson`.
        invert: the buildings of a picture are its dark pixels.

    Raises:
        DataError: names the file.
    """
    if content[:4] == b"\x89PNG" or Path(name).suffix.lower() in PICTURES:
        return _picture(decode_grey(content, name), invert)
    if invert:
        raise DataError(f"{name}: is no picture; only pictures can be inverted")
    return read_geojson(content, name, around)


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


def read_geojson(content: bytes | str, name: str, around: Sequence[tuple[float, float]] = ()) -> City:
    """The polygons of a GeoJSON text, one pixel per metre, north up, and where they lie.

    Coordinates of any reference system, see `crs.choose_crs`, are scaled to metres by their length on the ellipsoid in the
    middle of the city. What that neglects, the narrowing of degrees towards the poles, moves a corner of a city of 1 km
    by 0.04 m at a latitude of 41 and 0.08 m at 60, of 4 km by 0.6 m and 1.2 m.

    Args:
        content, name: of the file.
        around: x and y of transmitters in the file's coordinates. A city of more than LARGEST metres or MOST_VERTICES
            is cut around them; a smaller one grows if they stand in the open beside it.

    Raises:
        DataError: no JSON, no polygons, odd coordinates, or too large a city.
    """
    values = json_values(content, name)
    if len(values) == 1 and isinstance(values[0], list) and values[0][:1] and isinstance(values[0][0], list):
        layout = Layout(outlines_of(values[0], name, (SIDE, SIDE)), (SIDE, SIDE))
        kind = f"a polygon file of RadioMapSeer, {SIDE} x {SIDE} px; positions are column and row of its maps"
        return City(layout, None, [f"{kind}; {layout.inside.mean():.1%} of it built"])
    found = footprints_of(values, name)
    polygons = np.array(found.polygons)
    bounds = shapely.bounds(polygons).reshape(-1, 2, 2).swapaxes(0, 1)
    house = float(np.median(np.ptp(bounds, 0).max(1)))
    crs = choose_crs(found.system, shapely.get_coordinates(polygons), house, name)
    positions = np.array(around, np.float64).reshape(-1, 2)
    chosen, box = _cut(shapely.get_num_coordinates(polygons), bounds, positions, crs, name)
    shapes, flat = _valid(polygons[chosen], box)
    if len(chosen) < len(found.polygons):
        found.notes.append(f"footprints near enough to the transmitter: {len(chosen):,} of {len(found.polygons):,}")
    if flat:
        found.notes.append(f"polygons left out, because they have no area: {flat:,}")
    place, shape = _place(shapes, positions, crs, name)
    layout = Layout(_outlines(shapes, place), shape)
    built = f"{shape[1]} x {shape[0]} m, {layout.inside.mean():.1%} of it built"
    city = City(layout, place, [f"footprints: {len(shapes):,}, in {crs.text}; {built}", *found.notes])
    if found.cars:
        map_corners = np.array([(place.x, place.y - shape[0] * place.dy), (place.x + shape[1] * place.dx, place.y)])
        city.add_cars(Layout(_outlines(_valid(np.array(found.cars), map_corners)[0], place), shape))
    return city


def _cut(
    vertices: np.ndarray, bounds: np.ndarray, positions: np.ndarray, crs: Crs, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the polygons that are used, and the box (2, 2) outside of which they are cut off.

    `vertices` are their numbers of vertices, `bounds` (2, N, 2) the lowest and the highest x and y of each.
    """
    low, high = bounds
    whole = np.array([low.min(0), high.max(0)])
    width, height = np.ptp(whole, 0) * crs.metres(whole.mean(0))
    if max(width, height) + 2 * MARGIN <= LARGEST and vertices.sum() <= MOST_VERTICES:
        return np.arange(len(vertices)), whole
    if not len(positions):
        what = f"spans {width + 2 * MARGIN:.4g} m x {height + 2 * MARGIN:.4g} m with {vertices.sum():,} vertices"
        most = f"at most {LARGEST} m per side and {MOST_VERTICES:,} vertices can be read"
        raise DataError(f"{name}: {what}; {most}, or a part around a transmitter, if its position is given first")
    scale = crs.metres(positions.mean(0))
    for reach in NEAR:
        box = np.array([positions.min(0) - reach / scale, positions.max(0) + reach / scale])
        near = np.flatnonzero(((low <= box[1]) & (high >= box[0])).all(1))
        if vertices[near].sum() <= MOST_VERTICES:
            break
    x, y = positions[0]
    if not len(near):
        (left, bottom), (right, top) = whole
        spans = f"it spans {left:.7g} .. {right:.7g}, {bottom:.7g} .. {top:.7g} (x and y, or lon and lat)"
        raise DataError(f"{name}: has no building within {reach} m of {x:.9g},{y:.9g}; {spans}")
    if vertices[near].sum() > MOST_VERTICES:
        number = f"{vertices[near].sum():,} vertices within {reach} m of the transmitters"
        raise DataError(f"{name}: has {number}; at most {MOST_VERTICES:,} can be read; simplify its outlines")
    return near, box


def _valid(polygons: np.ndarray, box: np.ndarray) -> tuple[list[shapely.Geometry], int]:
    """Polygons without rings that cross themselves, cut off outside the box, and how many of them have no area."""
    shapes = shapely.make_valid(polygons)
    shapes = shapes[shapely.area(shapes) > 0]
    frame = shapely.box(*box.ravel())
    parts = shapes if shapely.covers(frame, shapes).all() else shapely.intersection(shapes, frame)
    return [part for part in parts if part.area > 0], len(polygons) - len(shapes)


def _place(
    shapes: list[shapely.Geometry], positions: np.ndarray, crs: Crs, name: str
) -> tuple[Georeference, tuple[int, int]]:
    """Where the map of shapes lies, and its shape (H, W); the positions near them lie on it."""
    if not shapes:
        raise DataError(f"{name}: holds no polygon with an area; {ADVICE}")
    bounds = np.array(shapely.total_bounds(shapes)).reshape(2, 2)
    scale = crs.metres(bounds.mean(0))
    away = np.maximum(bounds[0] - positions, positions - bounds[1]) * scale  # in m; negative between the bounds
    corners = np.vstack([bounds, positions[(away <= NEAR[0]).all(1)]])
    low, high = corners.min(0), corners.max(0)
    scale = crs.metres((low + high) / 2)
    width, height = (high - low) * scale + 2 * MARGIN
    if not max(width, height) <= LARGEST:
        raise DataError(f"{name}: spans {width:.4g} m x {height:.4g} m; at most {LARGEST} m per side can be read")
    left, top, dx, dy = map(float, (low[0] - MARGIN / scale[0], high[1] + MARGIN / scale[1], *(1 / scale)))
    return Georeference(left, top, dx, dy, crs.degrees, crs.epsg), (math.ceil(height), math.ceil(width))


def _outlines(shapes: list[shapely.Geometry], place: Georeference) -> list[np.ndarray]:
    """The outlines of shapes in pixels; parts of a building, duplicates and overlaps count once."""
    union = shapely.union_all(shapely.transform(shapes, lambda points: np.column_stack(place.pixels(*points.T))))
    return [
        np.array(ring.coords)[:-1]
        for part in getattr(union, "geoms", [union])
        if isinstance(part, shapely.Polygon) and not part.is_empty
        for ring in (part.exterior, *part.interiors)
    ]
