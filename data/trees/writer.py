"""Simulated trees in RadioMapSeer's form: one city and its maps at a time, resumable.

Map N depends on (seed, N) alone, so the files do not depend on who writes them, and files that exist are kept.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image

from ..errors import DataError
from ..files import read_json, write_atomically, write_json
from ..geometry.cars import cars_of, picture_of_cars
from ..geometry.layout import Layout
from ..geometry.registration import antennas_as_file, outlines_as_file, picture_of
from ..simulator import Simulator, random_cars, random_city, random_transmitter
from ..units import db_to_gain, gain_to_uint8
from .radiomapseer import BUILDINGS, CARS, RadioMapSeer

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

    def names(self, map_id: int) -> list[str]:
        """Of a city's scenes."""
        return [f"{map_id}_{tx}" for tx in range(self.transmitters)]

    def files(self, root: Path, map_id: int) -> set[Path]:
        """All files of a city."""
        parts = [BUILDINGS, CARS] if self.cars else [BUILDINGS]
        per_city = [f"antenna/{map_id}.json", *(f"polygon/{part}/{map_id}.json" for part in parts)]
        per_city += [f"png/{part}/{map_id}.png" for part in parts]
        per_map = ["png/antennas", *(f"gain/{kind}" for kind in self.simulations)]
        return {
            root / file for file in (*per_city, *(f"{f}/{name}.png" for f in per_map for name in self.names(map_id)))
        }

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
    return [(layout, tree.layout(map_id, CARS, layout.shape) if cars else None) for map_id, layout in layouts.items()]


def open_folder(root: Path, recipe: Recipe) -> None:
    """Write the manifest of a tree, unless it is there, and check that it names the same recipe.

    It is written once and does not say how many cities there are, so that processes on several machines can add to a tree.

    Raises:
        DataError: the folder contains something else.
    """
    manifest, settings = root / "dataset.json", recipe.settings
    # a hidden file may be the manifest of a process that starts at this moment
    begun = root.is_dir() and any(not name.startswith(".") for name in os.listdir(root))
    if not begun:
        content = {"settings": settings, "pixel": PIXEL, "metres_per_pixel": 1}
        with suppress(FileExistsError):
            write_atomically(manifest, lambda aside: write_json(aside, content), if_absent)
    try:
        made = read_json(manifest)["settings"]
        usual = {
            "engine": "dominant_path",
            "cars": False,
            "layouts": RANDOM,
        }  # earlier manifests may name another engine
        made, wanted = usual | made, usual | settings
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{root}: exists and is not a simulated tree (dataset.json); choose another folder") from error
    wrong = ", ".join(f"{key}={made.get(key)}" for key, value in wanted.items() if made.get(key) != value)
    if wrong:
        raise DataError(f"{root}: was made with {wrong}; use the same, or choose another folder")


def if_absent(aside: Path, path: Path) -> None:
    """Rename a file; of several processes on several machines that do so at once, one succeeds, without a lock.

    Raises:
        FileExistsError: `path` exists.
    """
    try:
        os.link(aside, path)
    except OSError:  # `path` exists, or the file system has no links
        path.touch(exist_ok=False)
        os.replace(aside, path)


def incomplete_cities(root: Path, cities: Iterable[int], recipe: Recipe) -> list[int]:
    """Those of the cities that lack a file."""
    there = set(root.rglob("*"))
    return [city for city in cities if not recipe.files(root, city) <= there]


def write_city(root: Path, map_id: int, recipe: Recipe) -> int:
    """Write one city and its maps, except files that exist; returns the number of maps written."""
    city, positions = recipe.city(map_id)
    cars = recipe.cars_on(map_id, city, positions)
    files: dict[str, Any] = {f"antenna/{map_id}.json": antennas_as_file(positions, recipe.size)}
    for part, layout, draw in ((BUILDINGS, city, picture_of), (CARS, cars, picture_of_cars)):
        if layout is not None:
            files[f"polygon/{part}/{map_id}.json"] = outlines_as_file(layout)
            files[f"png/{part}/{map_id}.png"] = draw(layout) * np.uint8(255)
    for (x, y), name in zip(positions, recipe.names(map_id), strict=True):
        files[f"png/antennas/{name}.png"] = np.zeros(city.shape, np.uint8)
        files[f"png/antennas/{name}.png"][y, x] = 255
    for file, content in files.items():
        _write(root / file, content)
    simulator, written = Simulator(city, cars=cars), 0
    for position, name in zip(positions, recipe.names(map_id), strict=True):
        gains = [root / f"gain/{kind}/{name}.png" for kind in recipe.simulations]
        if not all(gain.exists() for gain in gains):
            for gain, path_gain in zip(gains, simulator.path_gains(position), strict=False):
                written += _write(gain, gain_to_uint8(db_to_gain(path_gain)))
    return written


def _write(path: Path, content: Any) -> bool:
    """Write pixels (H, W) uint8 as a grey PNG, anything else as JSON, unless the file exists; returns whether it did."""
    if path.exists():
        return False
    if isinstance(content, np.ndarray):
        write_atomically(path, lambda aside: Image.fromarray(content).save(aside, format="PNG"))
    else:
        write_json(path, content, indent=None)
    return True
