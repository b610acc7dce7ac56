"""Simulate a data set: random cities with dominant-path radio maps, as a RadioMapSeer tree.

    python scripts/make_dataset.py --out runs/cities --maps 500 --tx 3 --seed 1 [--size 256] [--workers 2]

Map N depends on (seed, N) alone, so the files are the same whatever the number of workers. Run it again to go on after an
interruption, or with more --maps to extend the set; files that are there are kept.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import DataError
from data.simulator import Simulator, random_city, random_transmitter
from data.units import db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import run

VERSION = 1  # of the generator and the laws; another one makes other maps from the same seed


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write aside and rename, so that a file is there whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(pixels).save(aside, format="PNG")
    os.replace(aside, path)


def scene_files(root: Path, map_id: int, tx: int) -> tuple[Path, Path]:
    """(gain, antenna) of a scene."""
    name = f"{map_id}_{tx}.png"
    return root / "gain" / "DPM" / name, root / "png" / "antennas" / name


def make_map(root: Path, map_id: int, transmitters: int, seed: int, size: int) -> int:
    """Write one city and its maps, except for what is there already; returns the number of maps written."""
    rng = np.random.default_rng((seed, map_id))
    while True:
        city = random_city(rng, size)
        try:
            positions = [random_transmitter(city.buildings, rng) for _ in range(transmitters)]
        except ValueError:  # nothing open in the middle: another city from the same stream
            continue
        break
    building_path = root / "png" / "buildings_complete" / f"{map_id}.png"
    if not building_path.exists():
        write_png(building_path, city.buildings.astype(np.uint8) * 255)
    simulator = None
    written = 0
    for index, tx in enumerate(positions):
        gain_path, antenna_path = scene_files(root, map_id, index)
        if gain_path.exists() and antenna_path.exists():
            continue
        simulator = simulator or Simulator(city.buildings, city.rings)
        antenna = np.zeros((size, size), np.uint8)
        antenna[tx[1], tx[0]] = 255
        write_png(antenna_path, antenna)
        write_png(gain_path, gain_to_uint8(db_to_gain(simulator.path_gain(tx))))
        written += 1
    return written


def open_folder(root: Path, settings: dict[str, int]) -> None:
    """Create the tree and its manifest, or check that it was made with the same settings.

    Raises:
        DataError: the folder holds something else.
    """
    manifest = root / "dataset.json"
    if manifest.is_file():
        try:
            made = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
            wrong = {key: made[key] for key, value in settings.items() if made[key] != value}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{manifest}: is not a manifest of this script; choose another --out") from error
        if wrong:
            listed = ", ".join(f"{key}={value}" for key, value in wrong.items())
            raise DataError(f"{root}: was made with {listed}; use the same, or choose another --out")
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: exists and was not made by this script; choose another --out")
    for folder in ("gain/DPM", "png/buildings_complete", "png/antennas"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    aside = root / ".dataset.json"
    text = {"settings": settings, "pixel": "g = v / 255, path gain = 99.16 g - 147 dB", "metres_per_pixel": 1}
    aside.write_text(json.dumps(text, indent=1), encoding="utf-8")
    os.replace(aside, manifest)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new tree")
    parser.add_argument("--maps", type=int, required=True, help="number of cities")
    parser.add_argument("--tx", type=int, required=True, help="transmitters a city")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels = metres, a multiple of 16, at least 64")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    arguments = parser.parse_args()
    for name in ("maps", "tx", "workers"):
        if getattr(arguments, name) < 1:
            raise DataError(f"--{name} is {getattr(arguments, name)}; at least 1 is needed")
    if arguments.size < 64 or arguments.size % 16:
        raise DataError(f"--size is {arguments.size}; a multiple of 16, at least 64, is needed")
    if arguments.seed < 0:
        raise DataError(f"--seed is {arguments.seed}; it must not be negative")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    root = arguments.out
    open_folder(root, {"version": VERSION, "seed": arguments.seed, "size": arguments.size, "tx": arguments.tx})
    maps, transmitters = range(arguments.maps), range(arguments.tx)
    missing = [m for m in maps if not all(path.exists() for t in transmitters for path in scene_files(root, m, t))]
    written = 0
    total = arguments.maps * arguments.tx
    with (
        ProcessPoolExecutor(arguments.workers) as pool,
        tqdm(total=total, initial=total - len(missing) * arguments.tx, unit="map", desc="simulating") as bar,
    ):
        if missing:  # the first city compiles the solver; the others then find it in the cache
            written += make_map(root, missing[0], arguments.tx, arguments.seed, arguments.size)
            bar.update(arguments.tx)
        jobs = [pool.submit(make_map, root, m, arguments.tx, arguments.seed, arguments.size) for m in missing[1:]]
        for job in as_completed(jobs):
            written += job.result()
            bar.update(arguments.tx)
    print(f"{root}: {total} maps of {arguments.maps} cities, {written} of them new")


if __name__ == "__main__":
    run(main)
