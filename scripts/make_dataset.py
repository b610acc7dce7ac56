"""Simulate a data set: random cities with dominant-path radio maps, as a RadioMapSeer tree.

    python scripts/make_dataset.py --out runs/cities --maps 500 --tx 3 --seed 1 [--size 256] [--workers 2]
    python scripts/make_dataset.py --out runs/more --maps 34 --tx 30 --layouts path/to/RadioMapSeer --split train

The second line puts new transmitters into the layouts of a tree. Map N depends on (seed, N) alone, so the files do not
depend on the number of workers. Run the command again to resume after an interruption, or with more --maps to extend
the set; existing files are kept. Outlines, transmitters and pictures are registered to the maps as in RadioMapSeer
(data/geometry/registration.py); dataset.json records how the set was made.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from tqdm import tqdm

from data import DataError, RadioMapSeer
from data.geometry.layout import Layout
from data.geometry.registration import antennas_as_file, outlines_as_file, picture_of
from data.simulator import Simulator, random_city, random_transmitter
from data.units import db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import run

RANDOM = "random"
VERSION = 4  # of the generator and the laws; other versions make other maps from the same seed


def write_aside(path: Path, save: Callable[[Path], object]) -> None:
    """Write to a temporary name and rename, so that a file is never incomplete."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save(aside)
    os.replace(aside, path)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W) uint8 -> a grey PNG."""
    write_aside(path, lambda aside: Image.fromarray(pixels).save(aside, format="PNG"))


def write_json(path: Path, content: object) -> None:
    """Write JSON."""
    write_aside(path, lambda aside: aside.write_text(json.dumps(content) + "\n", encoding="utf-8"))


def scene_files(root: Path, map_id: int, tx: int) -> tuple[Path, Path]:
    """(gain, antenna) of a scene."""
    name = f"{map_id}_{tx}.png"
    return root / "gain" / "DPM" / name, root / "png" / "antennas" / name


def city_files(root: Path, map_id: int) -> tuple[Path, Path, Path]:
    """(outlines, their picture, list of transmitters) of a city."""
    part, name = "buildings_complete", str(map_id)
    return (
        root / "polygon" / part / f"{name}.json",
        root / "png" / part / f"{name}.png",
        root / "antenna" / f"{name}.json",
    )


def is_complete(root: Path, map_id: int, transmitters: int) -> bool:
    """Whether every file of a city is there."""
    scenes = [path for tx in range(transmitters) for path in scene_files(root, map_id, tx)]
    return all(path.exists() for path in (*city_files(root, map_id), *scenes))


@dataclass(frozen=True)
class Recipe:
    """How a city and its maps are made."""

    transmitters: int
    seed: int
    size: int
    layouts: str = RANDOM
    split: str = "train"  # of a tree of layouts

    @property
    def settings(self) -> dict[str, int | str]:
        """What the manifest records."""
        made = {"version": VERSION, "seed": self.seed, "size": self.size, "tx": self.transmitters}
        return made | {"layouts": self.layouts} | ({} if self.layouts == RANDOM else {"split": self.split})

    def city(self, map_id: int, rng: np.random.Generator) -> Layout:
        """A random layout, or one of a tree's."""
        if self.layouts == RANDOM:
            return random_city(rng, self.size)
        known = tree_layouts(self.layouts, self.split)
        return known[map_id % len(known)]


@cache
def tree_layouts(root: str, split: str) -> list[Layout]:
    """The layouts of a RadioMapSeer tree's split, one per map.

    Raises:
        DataError: no such tree or split, or a file that cannot be read.
    """
    tree = RadioMapSeer(root, split=split)
    first = {map_id: index for index, (map_id, _) in reversed(list(enumerate(tree.scenes)))}
    return [tree.scene(first[map_id]).layout for map_id in sorted(first)]


def make_map(root: Path, map_id: int, recipe: Recipe) -> int:
    """Write one city and its maps, except files that exist; returns the number of maps written."""
    rng = np.random.default_rng((recipe.seed, map_id))
    while True:
        city = recipe.city(map_id, rng)
        try:
            positions = [random_transmitter(city, rng) for _ in range(recipe.transmitters)]
        except ValueError as error:  # no open pixel in the middle: draw another city from the same stream
            if recipe.layouts != RANDOM:
                raise DataError(
                    f"{recipe.layouts}: the layout of map {map_id} has no open place in its middle"
                ) from error
            continue
        break
    outline_path, building_path, list_path = city_files(root, map_id)
    if not outline_path.exists():
        write_json(outline_path, outlines_as_file(city))
    if not building_path.exists():
        write_png(building_path, picture_of(city).astype(np.uint8) * 255)
    if not list_path.exists():
        write_json(list_path, antennas_as_file(positions, recipe.size))
    simulator = None
    written = 0
    for index, tx in enumerate(positions):
        gain_path, antenna_path = scene_files(root, map_id, index)
        if not antenna_path.exists():
            antenna = np.zeros((recipe.size, recipe.size), np.uint8)
            antenna[tx[1], tx[0]] = 255
            write_png(antenna_path, antenna)
        if not gain_path.exists():
            simulator = simulator or Simulator(city)
            write_png(gain_path, gain_to_uint8(db_to_gain(simulator.path_gain(tx))))
            written += 1
    return written


def open_folder(root: Path, maps: int, settings: dict[str, int | str]) -> None:
    """Create the tree and its manifest, or check that it was made with the same settings; `maps` may grow.

    Raises:
        DataError: the folder contains something else.
    """
    manifest = root / "dataset.json"
    if manifest.is_file():
        try:
            made = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
            made = {"layouts": RANDOM, "engine": "dominant_path"} | made  # earlier manifests may name another engine
            expected = settings | {"engine": "dominant_path"}
            wrong = {key: made.get(key) for key, value in expected.items() if made.get(key) != value}
            maps = max(maps, int(made.get("maps", 0)))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{manifest}: is not a manifest of this script; choose another --out") from error
        if "version" in wrong:
            raise DataError(f"{root}: was made by version {wrong['version']} of the simulator; choose another --out")
        if wrong:
            listed = ", ".join(f"{key}={value}" for key, value in wrong.items())
            raise DataError(f"{root}: was made with {listed}; use the same, or choose another --out")
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: exists and was not made by this script; choose another --out")
    for folder in ("gain/DPM", "polygon/buildings_complete", "png/buildings_complete", "png/antennas", "antenna"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixel = "g = v / 255, path gain = 99.16 g - 147 dB"
    write_json(manifest, {"settings": settings | {"maps": maps}, "pixel": pixel, "metres_per_pixel": 1})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new tree")
    parser.add_argument("--maps", type=int, required=True, help="number of cities")
    parser.add_argument("--tx", type=int, required=True, help="transmitters per city")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels = metres, a multiple of 16, at least 64")
    parser.add_argument(
        "--layouts",
        default=RANDOM,
        help="a RadioMapSeer tree, whose layouts take the place of random ones",
    )
    parser.add_argument("--split", default="train", help="of that tree (%(default)s)")
    # the CPUs that this process may use, if the system reports them
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cpus, help="processes; default: the available CPUs")
    arguments = parser.parse_args()
    for name in ("maps", "tx", "workers"):
        if getattr(arguments, name) < 1:
            raise DataError(f"--{name} is {getattr(arguments, name)}; at least 1 is needed")
    if arguments.size < 64 or arguments.size % 16:
        raise DataError(f"--size is {arguments.size}; a multiple of 16, at least 64, is needed")
    if arguments.layouts != RANDOM:
        sides = {layout.shape for layout in tree_layouts(arguments.layouts, arguments.split)}
        if sides != {(arguments.size, arguments.size)}:
            raise DataError(f"--size is {arguments.size}; the layouts of {arguments.layouts} are {sorted(sides)[0]}")
    if arguments.seed < 0:
        raise DataError(f"--seed is {arguments.seed}; it must not be negative")
    return arguments


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the command line describes."""
    return Recipe(arguments.tx, arguments.seed, arguments.size, arguments.layouts, arguments.split)


def make_maps(root: Path, missing: list[int], arguments: argparse.Namespace, bar: tqdm) -> int:
    """Make the missing cities in `workers` processes; returns the number of maps written."""
    how = recipe_of(arguments)
    written = 0
    if missing:  # the first city compiles the solver; the others then find it in the cache
        written += make_map(root, missing[0], how)
        bar.update(arguments.tx)
    ignore_interrupt = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: workers finish their city, this process stops the rest
    workers = min(arguments.workers, max(len(missing), 1))
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=ignore_interrupt)
    try:
        for job in as_completed([pool.submit(make_map, root, map_id, how) for map_id in missing[1:]]):
            written += job.result()
            bar.update(arguments.tx)
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed, perhaps out of memory; run again with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def main() -> None:
    arguments = parse_arguments()
    root = arguments.out
    open_folder(root, arguments.maps, recipe_of(arguments).settings)
    missing = [map_id for map_id in range(arguments.maps) if not is_complete(root, map_id, arguments.tx)]
    total = arguments.maps * arguments.tx
    with tqdm(total=total, initial=total - len(missing) * arguments.tx, unit="map", desc="simulating") as bar:
        written = make_maps(root, missing, arguments, bar)
    print(f"{root}: {total} maps of {arguments.maps} cities, {written} of them new")


if __name__ == "__main__":
    run(main)
