"""Simulate a data set: random cities with dominant-path radio maps, as a RadioMapSeer tree.

    python scripts/make_dataset.py --out runs/cities --maps 500 --tx 3 --seed 1 [--size 256] [--workers 2]

Map N depends on (seed, N) alone, so the files are the same whatever the number of workers. Run it again to go on after
an interruption, or with more --maps to extend the set; files that are there are kept. Beside the pictures of
RadioMapSeer (8-bit, one channel), antenna/MAP.json lists the transmitters [x, y] of a map and dataset.json says how
the set was made.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import DataError
from data.simulator import Simulator, random_city, random_transmitter
from data.units import db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import run

VERSION = 2  # of the generator and the laws; another one makes other maps from the same seed


def write_aside(path: Path, save: Callable[[Path], object]) -> None:
    """Write aside and rename, so that a file is there whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save(aside)
    os.replace(aside, path)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W) uint8 -> a grey PNG."""
    write_aside(path, lambda aside: Image.fromarray(pixels).save(aside, format="PNG"))


def write_json(path: Path, content: object) -> None:
    """Anything that json can write."""
    write_aside(path, lambda aside: aside.write_text(json.dumps(content) + "\n", encoding="utf-8"))


def scene_files(root: Path, map_id: int, tx: int) -> tuple[Path, Path]:
    """(gain, antenna) of a scene."""
    name = f"{map_id}_{tx}.png"
    return root / "gain" / "DPM" / name, root / "png" / "antennas" / name


def city_files(root: Path, map_id: int) -> tuple[Path, Path]:
    """(buildings, list of transmitters) of a city."""
    return root / "png" / "buildings_complete" / f"{map_id}.png", root / "antenna" / f"{map_id}.json"


def is_complete(root: Path, map_id: int, transmitters: int) -> bool:
    """Whether every file of a city is there."""
    scenes = [path for tx in range(transmitters) for path in scene_files(root, map_id, tx)]
    return all(path.exists() for path in (*city_files(root, map_id), *scenes))


def make_map(root: Path, map_id: int, transmitters: int, seed: int, size: int) -> int:
    """Write one city and its maps, except for what is there already; returns the number of maps written."""
    rng = np.random.default_rng((seed, map_id))
    while True:
        city = random_city(rng, size)
        try:
            positions = [random_transmitter(city, rng) for _ in range(transmitters)]
        except ValueError:  # nothing open in the middle: another city from the same stream
            continue
        break
    building_path, list_path = city_files(root, map_id)
    if not building_path.exists():
        write_png(building_path, city.buildings.astype(np.uint8) * 255)
    if not list_path.exists():
        write_json(list_path, positions)
    simulator = None
    written = 0
    for index, tx in enumerate(positions):
        gain_path, antenna_path = scene_files(root, map_id, index)
        if not antenna_path.exists():
            antenna = np.zeros((size, size), np.uint8)
            antenna[tx[1], tx[0]] = 255
            write_png(antenna_path, antenna)
        if not gain_path.exists():
            simulator = simulator or Simulator(city.buildings, city.polygons)
            write_png(gain_path, gain_to_uint8(db_to_gain(simulator.path_gain(tx))))
            written += 1
    return written


def open_folder(root: Path, maps: int, settings: dict[str, int]) -> None:
    """Create the tree and its manifest, or check that it was made with the same settings; `maps` may grow.

    Raises:
        DataError: the folder holds something else.
    """
    manifest = root / "dataset.json"
    if manifest.is_file():
        try:
            made = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
            wrong = {key: made[key] for key, value in settings.items() if made[key] != value}
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
    for folder in ("gain/DPM", "png/buildings_complete", "png/antennas", "antenna"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixel = "g = v / 255, path gain = 99.16 g - 147 dB"
    write_json(manifest, {"settings": settings | {"maps": maps}, "pixel": pixel, "metres_per_pixel": 1})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new tree")
    parser.add_argument("--maps", type=int, required=True, help="number of cities")
    parser.add_argument("--tx", type=int, required=True, help="transmitters a city")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels = metres, a multiple of 16, at least 64")
    # the CPUs that this process may use, where the system tells
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cpus, help="processes; the CPUs at hand by default")
    arguments = parser.parse_args()
    for name in ("maps", "tx", "workers"):
        if getattr(arguments, name) < 1:
            raise DataError(f"--{name} is {getattr(arguments, name)}; at least 1 is needed")
    if arguments.size < 64 or arguments.size % 16:
        raise DataError(f"--size is {arguments.size}; a multiple of 16, at least 64, is needed")
    if arguments.seed < 0:
        raise DataError(f"--seed is {arguments.seed}; it must not be negative")
    return arguments


def make_maps(root: Path, missing: list[int], arguments: argparse.Namespace, bar: tqdm) -> int:
    """Make the missing cities in `workers` processes; returns the number of maps written."""
    how = (arguments.tx, arguments.seed, arguments.size)
    written = 0
    if missing:  # the first city compiles the solver; the others then find it in the cache
        written += make_map(root, missing[0], *how)
        bar.update(arguments.tx)
    ignore_interrupt = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: workers finish their city, this process stops the rest
    pool = ProcessPoolExecutor(min(arguments.workers, max(len(missing), 1)), None, signal.signal, ignore_interrupt)
    try:
        for job in as_completed([pool.submit(make_map, root, map_id, *how) for map_id in missing[1:]]):
            written += job.result()
            bar.update(arguments.tx)
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed, out of memory perhaps; run again with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def main() -> None:
    arguments = parse_arguments()
    root = arguments.out
    settings = {"version": VERSION, "seed": arguments.seed, "size": arguments.size, "tx": arguments.tx}
    open_folder(root, arguments.maps, settings)
    missing = [map_id for map_id in range(arguments.maps) if not is_complete(root, map_id, arguments.tx)]
    total = arguments.maps * arguments.tx
    with tqdm(total=total, initial=total - len(missing) * arguments.tx, unit="map", desc="simulating") as bar:
        written = make_maps(root, missing, arguments, bar)
    print(f"{root}: {total} maps of {arguments.maps} cities, {written} of them new")


if __name__ == "__main__":
    run(main)
