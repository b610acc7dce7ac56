"""Simulated trees in RadioMapSeer's form: one city and its maps at a time, resumable.

City N depends on (seed, N) alone, so the files do not depend on who writes them, and files that exist are kept.
"""

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import shapely

from ..errors import DataError
from ..files import read_json, write_json
from ..geometry.cars import cars_of, picture_of_cars
from ..geometry.layout import Layout
from ..geometry.registration import antennas_as_file, outlines_as_file, picture_of
from ..hashing import digest
from ..simulator import Simulator, random_cars, random_city, random_transmitter
from ..units import db_to_gain, gain_to_uint8
from .png import write_grey
from .radiomapseer import BUILDINGS, CARS, RadioMapSeer, layout_files

RANDOM = "random"
VERSION = 4  # of the generator and the path-loss model; another version makes other maps from the same seed
BESIDE = 0.5  # m, between a transmitter and a car, at least: none stands in a car in RadioMapSeer


@dataclass(frozen=True)
class Recipe:
    """How a city and its maps are made."""

    transmitters: int  # per city
    seed: int
    size: int  # side of the maps in pixels = metres
    layouts: str = RANDOM  # or a RadioMapSeer tree, whose layouts take the place of random ones
    split: str = "train"  # of that tree
    cars: bool = False  # make each map without cars and with them

    def __post_init__(self) -> None:
        for layout, _ in self.known:
            if layout.shape != (self.size, self.size):
                raise DataError(f"maps of {self.size} px requested; the layouts of {self.layouts} are {layout.shape}")

    @property
    def known(self) -> list[tuple[Layout, Layout | None]]:
        """The layouts that take the place of random ones, and their cars."""
        return [] if self.layouts == RANDOM else tree_layouts(self.layouts, self.split, self.cars)

    @property
    def settings(self) -> dict[str, int | str]:
        made = {"version": VERSION, "seed": self.seed, "size": self.size, "tx": self.transmitters}
        known = [outlines_as_file(each) for pair in self.known for each in pair if each is not None]
        split = {"split": self.split, "outlines": digest(known)} if known else {}
        cars = {"cars": True} if self.cars else {}
        return made | {"layouts": self.layouts} | split | cars

    @property
    def gains(self) -> list[str]:
        """The folders of the maps, one each per transmitter."""
        return ["gain/DPM", "gain/carsDPM"] if self.cars else ["gain/DPM"]

    def files(self, root: Path, city_id: int) -> set[Path]:
        files = [f"antenna/{city_id}.json"]
        for part in (BUILDINGS, CARS) if self.cars else (BUILDINGS,):
            files += layout_files(part, city_id)
        for folder in ("png/antennas", *self.gains):
            files += [f"{folder}/{city_id}_{tx}.png" for tx in range(self.transmitters)]
        return {root / file for file in files}

    def city(self, city_id: int) -> tuple[Layout, list[tuple[int, int]], Layout | None]:
        """A city's layout, its transmitters, and its cars except those at a transmitter; None for a recipe without cars."""
        rng = np.random.default_rng((self.seed, city_id))
        city, cars = self.known[city_id] if self.known else (None, None)
        while True:
            layout = city or random_city(rng, self.size)
            try:
                transmitters = [random_transmitter(layout, rng) for _ in range(self.transmitters)]
                break
            except ValueError as error:  # no open pixel in the middle: draw another city from the same stream
                if city:
                    raise DataError(f"{self.layouts}: city {city_id} has no open pixel in its centre") from error
        if not self.cars:
            return layout, transmitters, None
        cars = cars or random_cars(layout, np.random.default_rng((self.seed, city_id, 1)))
        places = shapely.multipoints(transmitters)
        kept = [ring for ring in cars.outlines if shapely.distance(shapely.Polygon(ring), places) > BESIDE]
        return layout, transmitters, cars_of(kept, layout.shape)


@cache
def tree_layouts(root: str, split: str, cars: bool) -> list[tuple[Layout, Layout | None]]:
    """The layouts of a RadioMapSeer tree's split, one per city, each with its `cars` if the tree shows them."""
    tree = RadioMapSeer(root, split=split)
    first = {city_id: index for index, (city_id, _) in reversed(list(enumerate(tree.scenes)))}
    layouts = {city_id: tree.scene(first[city_id]).layout for city_id in sorted(first)}
    return [(layout, tree.layout(city_id, CARS, layout.shape) if cars else None) for city_id, layout in layouts.items()]


def open_folder(root: Path, recipe: Recipe) -> None:
    """Write the manifest of a tree, unless it is there; DataError if it names another recipe, or there is another tree.

    It is written once and does not say how many cities there are, so that processes on several machines can add to a tree.
    """
    manifest, settings = root / "dataset.json", recipe.settings
    # a hidden file may be the manifest of a process that starts at this moment
    if not root.is_dir() or all(name.startswith(".") for name in os.listdir(root)):
        aside = root / f".{secrets.token_hex(8)}.json"
        content = {"settings": settings, "pixel": "g = v / 255, path gain = 99.16 g - 147 dB", "metres_per_pixel": 1}
        write_json(aside, content)
        try:  # of several processes that begin at this moment, the first one's stays
            os.link(aside, manifest)
        except OSError:  # it is there, or the file system has no links
            if not manifest.exists():
                write_json(manifest, content)
        aside.unlink()
    # earlier manifests may name another engine, and have no digest of outlines
    usual = {"engine": "dominant_path", "cars": False, "layouts": RANDOM, "outlines": settings.get("outlines")}
    try:
        theirs = read_json(manifest)["settings"]
        made, wanted = usual | theirs, usual | settings
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{root}: exists and is not a simulated tree (dataset.json); choose another folder") from error
    if settings.get("outlines") and theirs.get("outlines") == settings["outlines"]:  # the same, perhaps elsewhere now
        wanted["layouts"] = made["layouts"]
    wrong = ", ".join(f"{key}={made.get(key)}" for key, value in wanted.items() if made.get(key) != value)
    if wrong:
        raise DataError(f"{root}: was made with {wrong}; use the same, or choose another folder")


def incomplete_cities(root: Path, cities: Iterable[int], recipe: Recipe) -> list[int]:
    """The cities that lack a file."""
    folders = {path.parent for path in recipe.files(root, 0)}  # any of which may be a link
    there = {path for folder in folders for path in folder.glob("*")}
    return [city for city in cities if not recipe.files(root, city) <= there]


def write_city(root: Path, city_id: int, recipe: Recipe) -> int:
    """Write one city and its maps, except files that exist; returns the number of maps written."""
    city, transmitters, cars = recipe.city(city_id)
    _write(root / f"antenna/{city_id}.json", antennas_as_file(transmitters, recipe.size))
    for part, layout, draw in ((BUILDINGS, city, picture_of), (CARS, cars, picture_of_cars)):
        if layout is not None:
            _write(root / f"polygon/{part}/{city_id}.json", outlines_as_file(layout))
            _write(root / f"png/{part}/{city_id}.png", draw(layout) * np.uint8(255))
    simulator, written = Simulator(city, cars=cars), 0
    for number, (x, y) in enumerate(transmitters):
        antenna = np.zeros(city.shape, np.uint8)
        antenna[y, x] = 255
        _write(root / f"png/antennas/{city_id}_{number}.png", antenna)
        paths = [root / folder / f"{city_id}_{number}.png" for folder in recipe.gains]
        if not all(path.exists() for path in paths):
            for path, path_gain in zip(paths, simulator.path_gains((x, y)), strict=False):  # the second only with cars
                written += _write(path, gain_to_uint8(db_to_gain(path_gain)))
    return written


def _write(path: Path, content: np.ndarray | list) -> bool:
    """Write pixels (H, W) uint8 as a grey PNG, or a list as JSON, unless the file exists; returns whether it did not."""
    if path.exists():
        return False
    if isinstance(content, np.ndarray):
        write_grey(path, content)
    else:
        write_json(path, content, indent=None)
    return True
