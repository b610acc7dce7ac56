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
from ..geometry.cars import cars_from_picture
from ..geometry.georeference import Georeference
from ..geometry.layout import Layout
from ..geometry.outlines import is_building
from ..geometry.registration import fit_outlines, outlines_of
from ..trees.png import decode_grey, read_grey
from .footprints import Footprints, epsg_of, footprints_of, metres

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
    datasets = None if shown is None else cars_from_picture(shown)
    if OF_A_TREE.search(path.resolve().as_posix()):
        city.layout = Layout(fit_outlines(city.layout.inside), city.layout.shape)
        city.notes.append("a picture of a RadioMapSeer tree; outlines and positions are in the frame of its maps")
    if shown is not None:
        # RadioMapSeer's beside outlines in the frame of its maps; other pictures have a frame of their own
        city.add_cars(datasets if city.layout.exact else Layout.traced(shown))
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


def _city_of_footprints(found: Footprints, around: np.ndarray, name: str) -> City:
    """Footprints, one pixel per metre, north up, and where they lie; `around` are positions (N, 2).

    Coordinates are scaled to metres by their length on the ellipsoid in the middle of the positions or the city. What that
    neglects, the narrowing of degrees towards the poles, moves what lies 1 km east and north by 0.2 m at a latitude of 50.
    """
    whole = shapely.total_bounds(found.buildings).reshape(2, 2)
    origin = (np.clip(around, *whole) if len(around) else whole).mean(0)
    scale = metres(found.crs, origin) * (1, -1)
    every, cars = (shapely.transform(each, lambda points: (points - origin) * scale) for each in found[:2])
    positions, buildings = (around - origin) * scale, every
    for reach in (0, *NEAR):
        if reach:
            box = shapely.box(*(positions.min(0) - reach), *(positions.max(0) + reach))
            buildings = shapely.intersection(every[shapely.intersects(every, box)], box)
            if not len(buildings):
                spans = " .. ".join(f"{x:.7g},{y:.7g}" for x, y in whole)
                where = f"{around[0, 0]:.9g},{around[0, 1]:.9g}; it spans {spans} (x and y, or lon and lat)"
                raise DataError(f"{name}: has no building within {reach} m of {where}")
        low, high = shapely.total_bounds(buildings).reshape(2, 2)
        beside = positions[((positions > low - NEAR[0]) & (positions < high + NEAR[0])).all(1)]  # in the open
        low, high = np.min([low, *beside], axis=0) - MARGIN, np.max([high, *beside], axis=0) + MARGIN
        (width, height), vertices = high - low, shapely.get_num_coordinates(buildings).sum()
        fits = max(width, height) <= LARGEST and vertices <= MOST_VERTICES
        if fits or not len(around):
            break
    if not fits:
        what = f"spans {width:.4g} m x {height:.4g} m with {vertices:,} vertices"
        most = f"at most {LARGEST} m per side and {MOST_VERTICES:,} vertices can be read"
        raise DataError(f"{name}: {what}; {most}, or a part around a transmitter, if its position is given first")
    degrees, epsg = bool(found.crs and found.crs.is_geographic), epsg_of(found.crs)
    (left, top), (dx, dy) = (origin + low / scale).tolist(), np.abs(1 / scale).tolist()
    place = Georeference(left, top, dx, dy, degrees, epsg)
    shape = math.ceil(height), math.ceil(width)
    layout = Layout(_outlines(buildings, low), shape)
    unit = "degrees" if degrees else found.crs.name if found.crs else "metres"
    unit += f" (EPSG:{epsg})" if epsg else ""
    built = f"{shape[1]} x {shape[0]} m, {layout.inside.mean():.1%} of it built"
    city = City(layout, place, [f"footprints: {len(buildings):,}, in {unit}; {built}", *found.notes])
    if len(buildings) < len(every):
        city.notes.append(f"footprints near enough to the transmitter: {len(buildings):,} of {len(every):,}")
    if len(cars):
        city.add_cars(Layout(_outlines(shapely.intersection(cars, shapely.box(*low, *high)), low), shape))
    return city


def _outlines(shapes: np.ndarray, corner: np.ndarray) -> list[np.ndarray]:
    """The outlines of shapes, from a corner; parts of a building, duplicates and overlaps count once."""
    return [
        np.array(ring.coords)[:-1] - corner
        for part in shapely.get_parts(shapely.union_all(shapes))
        if isinstance(part, shapely.Polygon) and not part.is_empty
        for ring in (part.exterior, *part.interiors)
    ]
