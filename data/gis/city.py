"""A user's cities: pictures and building footprints, such as an extract of OpenStreetMap, as a layout in metres."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely

from ..errors import DataError
from ..files import decoded, read_bytes
from ..geometry.cars import cars_from_picture, look_like_radiomapseer
from ..geometry.georeference import Georeference
from ..geometry.layout import Layout
from ..geometry.outlines import is_building, united
from ..geometry.registration import fit_outlines
from ..trees.png import decode_grey, read_grey
from .footprints import Footprints, epsg_of, footprints_of, metres

MARGIN = 16  # m of open ground around the footprints
MAX_SIDE = 4096  # m
MAX_VERTICES = 50_000
OF_A_TREE = re.compile(r"/png/buildings_(complete|missing\d/\d)/[^/]+$")  # where RadioMapSeer has its pictures
NEAR = 512  # m around the transmitters that are kept of a larger city


@dataclass
class City:
    """A city as it was read."""

    layout: Layout  # one pixel per metre, north up
    georeference: Georeference | None  # where it lies; None for pictures, whose coordinates are column and row
    notes: list[str] = field(default_factory=list)  # what was read and what was left out, a sentence each
    seems_inverted: bool = False  # more than half of a picture is built
    cars: Layout | None = None  # None if none were given

    def add_cars(self, cars: Layout) -> None:
        """Take these cars, except those that stand inside buildings."""
        built = self.layout.inside
        in_the_open = [ring for ring in cars.outlines if not is_building(built, ring).all()]
        self.cars = Layout(in_the_open, cars.shape, inside=cars.inside & ~built)
        self.notes.append(f"cars: {len(in_the_open):,} of {len(cars.outlines):,} are outside of buildings")


def read_city(
    path: Path, around: Sequence[tuple[float, float]] = (), invert: bool = False, cars: Path | None = None
) -> City:
    """`city_of` a file; `cars` is a picture of the same size, white inside cars, for a city that is a picture."""
    city = city_of(read_bytes(path), str(path), around, invert)
    in_tree = any(OF_A_TREE.search(each.as_posix()) for each in (path.absolute(), path.resolve()))  # through a link too
    if cars is not None:
        if city.georeference is not None:
            raise DataError(f'{cars}: {path} holds footprints; mark its cars in that file, with "class": "car"')
        shown = _white(read_grey(cars, city.layout.shape))
        if shown.mean() > 0.5:
            raise DataError(f"{cars}: shows cars on {shown.mean():.0%} of the map; save it with cars white on black")
        of_dataset = cars_from_picture(shown)
        in_tree = in_tree or look_like_radiomapseer(of_dataset)  # a copy, whatever its name
    if in_tree:
        city.layout = Layout(fit_outlines(city.layout.inside), city.layout.shape)
        city.notes.append("a picture of RadioMapSeer; outlines and positions are in the frame of its maps")
    if cars is not None:
        city.add_cars(of_dataset if in_tree else Layout.traced(shown))
    return city


def print_city(city: City, path: Path) -> None:
    """What was read of a city, and whether it seems to be inverted."""
    for note in city.notes:
        print(f"{path.name}: {note}")
    if city.seems_inverted:
        print(f"{path.name}: more than half of it is built; if that is wrong, add or leave out --invert")


def city_of(content: bytes, name: str, around: Sequence[tuple[float, float]] = (), invert: bool = False) -> City:
    """The city in a file's content, a PNG or footprints as GeoJSON; a DataError names the file.

    A city of more than MAX_SIDE metres or MAX_VERTICES is cut `around` transmitters, in the coordinates of the footprints;
    a smaller one is extended if they stand outside it. `invert`: the buildings of a picture are its dark pixels.
    """
    if content.startswith(b"\x89PNG"):
        built = _white(decode_grey(content, name)) != invert
        notes = [f"{built.shape[1]} x {built.shape[0]} px, {built.mean():.1%} of them built"]
        return City(Layout.traced(built), None, notes, seems_inverted=bool(built.mean() > 0.5))
    if invert:
        raise DataError(f"{name}: is not a PNG; only pictures can be inverted")
    try:
        value = json.loads(decoded(content))
    except (ValueError, RecursionError) as error:
        remedy = "a city is a PNG or GeoJSON; ogr2ogr converts other formats"
        raise DataError(f"{name}: is neither a PNG nor JSON; {remedy}") from error
    return _city_of_footprints(footprints_of(value, name), np.array(around, np.float64).reshape(-1, 2), name)


def _white(grey: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool above the middle of the grey levels that a picture holds."""
    low, high = int(grey.min()), int(grey.max())
    return grey > ((low + high) / 2 if low < high else 0)


def _city_of_footprints(found: Footprints, around: np.ndarray, name: str) -> City:
    """Footprints, one pixel per metre, north up, and where they lie; `around` are positions (N, 2).

    Coordinates are scaled to metres by their length on the ellipsoid in the middle of the positions or the city. This
    neglects that degrees narrow towards the poles: a point 1 km east and north moves by 0.2 m at a latitude of 50 degrees.
    """
    whole = shapely.total_bounds(found.buildings).reshape(2, 2)
    origin = (np.clip(around, *whole) if len(around) else whole).mean(0)
    scale = metres(found.crs, origin) * (1, -1)
    every, cars = (shapely.transform(each, lambda points: (points - origin) * scale) for each in found[:2])
    positions, buildings = (around - origin) * scale, every
    low, high, fits = _span(every, positions)
    if len(around) and not fits:
        box = shapely.box(*(positions.min(0) - NEAR), *(positions.max(0) + NEAR))
        buildings = shapely.intersection(every[shapely.intersects(every, box)], box)
        if not len(buildings):
            spans = " .. ".join(f"{x:.7g},{y:.7g}" for x, y in whole)
            raise DataError(f"{name}: has no building within {NEAR} m of the transmitters; it spans {spans}")
        low, high, fits = _span(buildings, positions)
    width, height = high - low
    if not fits:
        what = f"spans {width:.4g} m x {height:.4g} m with {shapely.get_num_coordinates(buildings).sum():,} vertices"
        raise DataError(f"{name}: {what}; cut it to at most {MAX_SIDE} m per side and {MAX_VERTICES:,} vertices")
    degrees = bool(found.crs and found.crs.is_geographic)
    epsg = epsg_of(found.crs, origin) if found.crs else None
    (left, top), (dx, dy) = (origin + low / scale).tolist(), np.abs(1 / scale).tolist()
    layout = Layout([ring - low for ring in united(buildings)], (math.ceil(height), math.ceil(width)))
    unit = (found.crs.name if found.crs else "metres") + (f" (EPSG:{epsg})" if epsg else "")
    built = f"{layout.shape[1]} x {layout.shape[0]} m, {layout.inside.mean():.1%} of it built"
    notes = [f"footprints: {len(buildings):,} of {len(every):,}, in {unit}; {built}", *found.notes]
    city = City(layout, Georeference(left, top, dx, dy, degrees, epsg), notes)
    if len(cars):
        shown = united(shapely.intersection(cars, shapely.box(*low, *high)))
        city.add_cars(Layout([ring - low for ring in shown], layout.shape))
    return city


def _span(buildings: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Corners of a map of the buildings and the positions near them, with MARGIN around, and whether it is small enough."""
    low, high = shapely.total_bounds(buildings).reshape(2, 2)
    beside = positions[((positions > low - NEAR) & (positions < high + NEAR)).all(1)]
    low, high = np.min([low, *beside], axis=0) - MARGIN, np.max([high, *beside], axis=0) + MARGIN
    return low, high, (high - low).max() <= MAX_SIDE and shapely.get_num_coordinates(buildings).sum() <= MAX_VERTICES
