"""Simulate a data set: random cities with dominant-path radio maps, as a RadioMapSeer tree.

    python scripts/make_dataset.py --out runs/cities --maps 500 --tx 3 --seed 1 [--size 256] [--workers 2]
    python scripts/make_dataset.py --out runs/more --maps 34 --tx 30 --layouts path/to/RadioMapSeer --split train

The second line puts new transmitters into the layouts of a tree. Map N depends on (seed, N) alone, so the files do not
depend on the number of workers. Run the command again to resume after an interruption, or with more --maps to extend
the set; existing files are kept. Outlines, transmitters and pictures are registered to the maps as in RadioMapSeer
(data/geometry/registration.py); dataset.json records how the set was made.
"""

import argparse
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data import DataError
from data.trees.writer import RANDOM, Recipe, is_complete, open_folder, write_city
from denoising_diffusion_pytorch.cli import natural, positive, run


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new tree")
    parser.add_argument("--maps", type=positive, required=True, help="number of cities")
    parser.add_argument("--tx", type=positive, required=True, help="transmitters per city")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels = metres, a multiple of 16, at least 64")
    parser.add_argument("--layouts", default=RANDOM, help="a RadioMapSeer tree, in place of random layouts")
    parser.add_argument("--split", default="train", help="of that tree (%(default)s)")
    # the CPUs that this process may use, if the system reports them
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=positive, default=cpus, help="processes; default: the available CPUs")
    arguments = parser.parse_args()
    if arguments.size < 64 or arguments.size % 16:
        parser.error(f"--size is {arguments.size}; a multiple of 16, at least 64, is needed")
    return arguments


def make_maps(root: Path, missing: list[int], recipe: Recipe, workers: int, bar: tqdm) -> int:
    """Make the missing cities in several processes; returns the number of maps written."""
    written = 0
    if missing:  # the first city compiles the solver; the others then find it in the cache
        written += write_city(root, missing[0], recipe)
        bar.update(recipe.transmitters)
    ignore_interrupt = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: workers finish their city, this process stops the rest
    pool = ProcessPoolExecutor(min(workers, max(len(missing), 1)), initializer=signal.signal, initargs=ignore_interrupt)
    try:
        for job in as_completed([pool.submit(write_city, root, map_id, recipe) for map_id in missing[1:]]):
            written += job.result()
            bar.update(recipe.transmitters)
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed, perhaps out of memory; run again with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def main() -> None:
    arguments = parse_arguments()
    root, maps = arguments.out, arguments.maps
    recipe = Recipe(arguments.tx, arguments.seed, arguments.size, arguments.layouts, arguments.split)
    open_folder(root, maps, recipe)
    missing = [map_id for map_id in range(maps) if not is_complete(root, map_id, recipe)]
    total = maps * arguments.tx
    with tqdm(total=total, initial=total - len(missing) * arguments.tx, unit="map", desc="simulating") as bar:
        written = make_maps(root, missing, recipe, arguments.workers, bar)
    print(f"{root}: {total} maps of {maps} cities, {written} of them new")


if __name__ == "__main__":
    run(main)
