"""Simulate a dataset: random cities with dominant-path radio maps, as a RadioMapSeer tree.

    python scripts/make_dataset.py --out runs/cities --cities 500 --tx 3 --seed 1 [--size 256] [--workers 2]
    python scripts/make_dataset.py --out runs/more --cities 34 --tx 30 --layouts path/to/RadioMapSeer --split train [--cars]

The second line puts new transmitters into the layouts of a tree. --cars makes each map without cars (gain/DPM) and with
them (gain/carsDPM). Cars are the tree's, else random ones along streets. City N depends on (seed, N) alone, so the
files do not depend on the number of workers, nor on the parts: `--part 1/20` to `--part 20/20` may run at once, on any
machines that share the folder (scripts/slurm/make_dataset.sbatch). Run the command again to resume after an
interruption, or with more --cities to extend the set; existing files are kept. dataset.json records how it was made.
"""

import argparse
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data import DataError
from data.trees.writer import RANDOM, Recipe, incomplete_cities, open_folder, write_city
from data.workers import start_worker, usable_processors
from denoising_diffusion_pytorch.cli import natural, positive, run


def part(text: str) -> tuple[int, int]:
    """(I, N) of I/N, as a type of argparse."""
    found = re.fullmatch("([0-9]+)/([0-9]+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, for example 1/20")
    return number, count


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new tree")
    parser.add_argument("--cities", "--maps", type=positive, required=True, help="number of cities")
    parser.add_argument("--tx", type=positive, required=True, help="transmitters per city")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--size", type=int, default=256, help="side in pixels = metres, a multiple of 16, at least 64")
    parser.add_argument("--layouts", default=RANDOM, help="a RadioMapSeer tree, in place of random layouts")
    parser.add_argument("--split", help="split of the tree of --layouts (train)")
    parser.add_argument("--cars", action="store_true", help="make each map without cars and with them")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="I/N", help="only every Nth city, from the Ith")
    parser.add_argument("--workers", type=positive, default=usable_processors(), help="default: one per available CPU")
    arguments = parser.parse_args()
    if arguments.size < 64 or arguments.size % 16:
        parser.error(f"--size is {arguments.size}; it must be a multiple of 16, at least 64")
    if arguments.split and arguments.layouts == RANDOM:
        parser.error("--split needs --layouts")
    arguments.split = arguments.split or "train"
    return arguments


def make_maps(root: Path, missing: list[int], recipe: Recipe, workers: int, bar: tqdm) -> int:
    """Make the missing cities in several processes; returns the number of maps written."""
    written = 0
    pool = ProcessPoolExecutor(min(workers, len(missing) or 1), initializer=start_worker)
    try:
        for cities in (missing[:1], missing[1:]):  # the first city compiles the solver; the others find it in the cache
            for job in as_completed([pool.submit(write_city, root, city, recipe) for city in cities]):
                written += job.result()
                bar.update()
    except BrokenProcessPool as error:
        raise DataError("a worker process was killed, perhaps out of memory; run again with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def main() -> None:
    arguments = parse_arguments()
    root, count, (number, parts) = arguments.out, arguments.cities, arguments.part
    recipe = Recipe(arguments.tx, arguments.seed, arguments.size, arguments.layouts, arguments.split, arguments.cars)
    known = recipe.known
    if known and count > len(known):
        raise DataError(f"--cities is {count}, but {recipe.layouts} has {len(known)} cities; more --tx make more maps")
    open_folder(root, recipe)
    if arguments.cars and known:
        own = sum(cars is not None for _, cars in known)
        print(f"{own} of {len(known)} layouts in {arguments.layouts} have cars; the others get random ones")
    cities = range(number - 1, count, parts)
    missing = incomplete_cities(root, cities, recipe)
    with tqdm(total=len(cities), initial=len(cities) - len(missing), unit="city", desc="simulating") as bar:
        written = make_maps(root, missing, recipe, arguments.workers, bar)
    what = f"part {number} of {parts}: " if parts > 1 else ""
    total = len(cities) * arguments.tx * len(recipe.gains)
    print(f"{root}: {what}{total} maps of {len(cities)} cities, {written} of them new")
    lacking = len(incomplete_cities(root, range(count), recipe))  # others may write to the folder
    print(f"{lacking} of the {count} cities are not complete yet" if lacking else f"all {count} cities are complete")


if __name__ == "__main__":
    run(main)
