"""Simulated trees in RadioMapSeer's form: one city and its maps at a time, resumable.

Map N depends on (seed, N) alone, so the files do not depend on who writes them, and files that exist are kept.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from ..errors import DataError
from ..files import if_absent, read_json, write_atomically, write_json
from ..geometry.cars import cars_of, picture_of_cars
from ..geometry.layout import Layout
from ..geometry.registration import antennas_as_file, outlines_as_file, picture_of
from ..simulator import Simulator, random_cars, random_city, random_transmitter
from ..units import db_to_gain, gain_to_uint8
from .listing import BUILDINGS, CARS, TreePaths, stems
from .radiomapseer import RadioMapSeer

RANDOM = "random"
VERSION = 4  # of the generator and the path-loss model; other versions make other maps from the same seed
BESIDE = 0.5  # m, between a transmitter and a car, at least: none stands in a car in RadioMapSeer
PIXEL = "g = v / 255, path gain = 99.16 g - 147 dB"


@dataclass(frozen=True)
class Recipe:
    """How a city and its maps are made.

    Attributes:
        transmitters: per city.
        seed: of everything.
        size: side of the maps in pixels = metres.
        layouts, split: RANDOM, or a RadioMapSeer tree whose layouts take the place of random ones, and its split.
        cars: whether each map is made without cars and with them.
    """

    transmitters: int
    seed: int
    size: int
    layouts: str = RANDOM
    split: str = "train"
    cars: bool = False

    def __post_init__(self) -> None:
        sides = {layout.shape for layout, _ in self.known or ()} - {(self.size, self.size)}
        if sides:
            raise DataError(f"maps of {self.size} px are wanted; the layouts of {self.layouts} are {sorted(sides)[0]}")

    @property
    def known(self) -> list[tuple[Layout, Layout | None]] | None:
        """The layouts that take the place of random ones, and their cars."""
        return None if self.layouts == RANDOM else tree_layouts(self.layouts, self.split, self.cars)

    @property
    def settings(self) -> dict[str, int | str]:
        """What the manifest records."""
        made = {"version": VERSION, "seed": self.seed, "size": self.size, "tx": self.transmitters}
        split, cars = {"split": self.split} if self.layouts != RANDOM else {}, {"cars": True} if self.cars else {}
        return made | {"layouts": self.layouts} | split | cars

    @property
    def simulations(self) -> list[str]:
        """The folders in gain/."""
        return ["DPM", "carsDPM"] if self.cars else ["DPM"]

    @property
    def maps(self) -> int:
        """Per city."""
        return self.transmitters * len(self.simulations)

    def city(self, map_id: int) -> tuple[Layout, list[tuple[int, int]]]:
        """The layout of a map and the places of its transmitters."""
        rng, known = np.random.default_rng((self.seed, map_id)), self.known
        while True:
            city = known[map_id % len(known)][0] if known else random_city(rng, self.size)
            try:
                return city, [random_transmitter(city, rng) for _ in range(self.transmitters)]
            except ValueError as error:  # no open pixel in the middle: draw another city from the same stream
                if known:
                    raise DataError(f"{self.layouts}: map {map_id}'s layout has no open place in its middle") from error

    def cars_on(self, map_id: int, city: Layout, transmitters: list[tuple[int, int]]) -> Layout | None:
        """The cars of a map, those of its layout or random ones, except where a transmitter stands; None without cars."""
        if not self.cars:
            return None
        cars = self.known[map_id % len(self.known)][1] if self.known else None
        if cars is None:
            cars = random_cars(city, np.random.default_rng((self.seed, map_id, 1)))
        places = shapely.multipoints(transmitters)
        kept = [ring for ring in cars.outlines if shapely.distance(shapely.Polygon(ring), places) > BESIDE]
        return cars_of(kept, city.shape)


@cache
def tree_layouts(root: str, split: str, cars: bool) -> list[tuple[Layout, Layout | None]]:
    """The layouts of a RadioMapSeer tree's split, one per map, each with its `cars` if the tree shows them.

    Raises:
        DataError: no such tree or split, or a file that cannot be read.
    """
    tree = RadioMapSeer(root, split=split)
    first = {map_id: index for index, (map_id, _) in reversed(list(enumerate(tree.scenes)))}
    layouts = {map_id: tree.scene(first[map_id]).layout for map_id in sorted(first)}
    return [(layout, tree.cars(map_id, layout.shape) if cars else None) for map_id, layout in layouts.items()]


def open_folder(root: Path, recipe: Recipe) -> None:
    """Write the manifest of a tree, unless it is there, and check that it names the same recipe.

    It is written once and does not say how many cities there are, so that processes on several machines can add to a tree.

    Raises:
        DataError: the folder contains something else.
    """
    manifest, settings = root / "dataset.json", recipe.settings
    # a hidden file may be the manifest of a process that starts at this moment
    begun = root.is_dir() and any(not name.startswith(".") for name in os.listdir(root))
    if begun and not manifest.is_file():
        raise DataError(f"{root}: exists and is not a simulated tree; choose another folder")
    if not begun:
        content = {"settings": settings, "pixel": PIXEL, "metres_per_pixel": 1}
        with suppress(FileExistsError):
            write_atomically(manifest, lambda aside: write_json(aside, content), if_absent)
    try:
        made = read_json(manifest)["settings"]
        usual = {"engine": "dominant_path", "cars": False}  # earlier manifests may name another engine
        made, expected = usual | {"layouts": RANDOM} | made, usual | settings
        wrong = {key: made.get(key) for key, value in expected.items() if made.get(key) != value}
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: is not the manifest of a simulated tree; choose another folder") from error
    if "version" in wrong:
        raise DataError(f"{root}: was made by version {wrong['version']} of the simulator; choose another folder")
    if wrong:
        listed = ", ".join(f"{key}={value}" for key, value in wrong.items())
        raise DataError(f"{root}: was made with {listed}; use the same, or choose another folder")


def incomplete_cities(root: Path, cities: Iterable[int], recipe: Recipe) -> list[int]:
    """Those of the cities that lack a file; each folder is listed once."""
    paths, parts = TreePaths(root), [BUILDINGS, CARS] if recipe.cars else [BUILDINGS]
    per_city = [paths.antennas(0), *(draw(0, part) for draw in (paths.outlines, paths.picture) for part in parts)]
    per_map = [paths.antenna_picture("0_0"), *(TreePaths(root, kind).gain("0_0") for kind in recipe.simulations)]
    whole, mapped = (set.intersection(*(stems(p.parent, p.suffix) for p in each)) for each in (per_city, per_map))
    return [city for city in cities if str(city) not in whole or not mapped.issuperset(_names(city, recipe))]


def _names(map_id: int, recipe: Recipe) -> list[str]:
    return [f"{map_id}_{tx}" for tx in range(recipe.transmitters)]


def write_city(root: Path, map_id: int, recipe: Recipe) -> int:
    """Write one city and its maps, except files that exist; returns the number of maps written."""
    paths = TreePaths(root)
    city, positions = recipe.city(map_id)
    cars = recipe.cars_on(map_id, city, positions)
    for part, layout, draw in ((BUILDINGS, city, picture_of), (CARS, cars, picture_of_cars)):
        if layout is None:
            continue
        if not paths.outlines(map_id, part).exists():
            write_json(paths.outlines(map_id, part), outlines_as_file(layout), indent=None)
        if not paths.picture(map_id, part).exists():
            write_png(paths.picture(map_id, part), draw(layout) * np.uint8(255))
    if not paths.antennas(map_id).exists():
        write_json(paths.antennas(map_id), antennas_as_file(positions, recipe.size), indent=None)
    simulator, written = None, 0
    for (x, y), name in zip(positions, _names(map_id, recipe), strict=True):
        antenna, gains = paths.antenna_picture(name), [TreePaths(root, kind).gain(name) for kind in recipe.simulations]
        if not antenna.exists():
            dot = np.zeros(city.shape, np.uint8)
            dot[y, x] = 255
            write_png(antenna, dot)
        if all(gain.exists() for gain in gains):
            continue
        simulator = simulator or Simulator(city, cars=cars)
        for gain, path_gain in zip(gains, simulator.path_gains((x, y)), strict=False):
            if not gain.exists():
                write_png(gain, gain_to_uint8(db_to_gain(path_gain)))
                written += 1
    return written


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W) uint8 -> a grey PNG."""
    write_atomically(path, lambda aside: Image.fromarray(pixels).save(aside, format="PNG"))
