"""Statistics of city layouts: of a RadioMapSeer tree, or of the simulator's random cities.

python scripts/layout_statistics.py --data path/to/RadioMapSeer
python scripts/layout_statistics.py --maps 200 --seed 7
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data import DataError, RadioMapSeer
from data.layout import Layout
from data.simulator import Simulator, line_of_sight, random_city, random_transmitter
from data.simulator.statistics import GAIN_PERCENTILES, PERCENTILES, layout_statistics, merge
from data.units import db_to_gain
from denoising_diffusion_pytorch.cli import natural, positive, run

Triple = tuple[Layout, np.ndarray, tuple[float, float]]


def simulated(maps: int, seed: int) -> Iterator[Triple]:
    """(layout, grey levels, transmitter) of random cities."""
    for index in range(maps):
        rng = np.random.default_rng((seed, index))
        city = random_city(rng)
        tx = random_transmitter(city, rng)
        yield city, db_to_gain(Simulator(city).path_gain(tx)), tx


def measured(root: Path) -> Iterator[Triple]:
    """The same for one scene per map of a tree."""
    dataset = RadioMapSeer(root)
    first = {map_id: index for index, (map_id, _) in reversed(list(enumerate(dataset.scenes)))}
    for index in first.values():
        scene = dataset.scene(index)
        yield scene.layout, scene.gain, scene.tx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="RadioMapSeer tree; one scene per map is used")
    parser.add_argument("--maps", type=positive, help="number of random cities")
    parser.add_argument("--seed", type=natural, default=7)
    arguments = parser.parse_args()
    if (arguments.data is None) == (arguments.maps is None):
        raise DataError("give either --data ROOT or --maps N")
    triples = measured(arguments.data) if arguments.data else simulated(arguments.maps, arguments.seed)
    layouts, visible, levels, means = [], [], [], []
    for layout, gain, tx in tqdm(triples, unit="map", total=arguments.maps):
        layouts.append(layout_statistics(layout))
        visible.append(line_of_sight(layout, tx).sum() / max((~layout.inside).sum(), 1))
        levels.append(gain[gain > 0])
        means.append(gain.mean())
    print(f"{len(layouts)} maps; percentiles " + " / ".join(map(str, PERCENTILES)))
    for name, values in (merge(layouts) | {"line of sight": visible}).items():
        print(
            f"{name:<16}"
            + "".join(f"{value:9.2f}" for value in np.percentile(values, PERCENTILES))
            + f"   mean {np.mean(values):.3f}"
        )
    print("non-zero gain, percentiles " + " / ".join(map(str, GAIN_PERCENTILES)))
    print(" " * 16 + "".join(f"{value:9.3f}" for value in np.percentile(np.concatenate(levels), GAIN_PERCENTILES)))
    print(f"mean gain over all pixels {np.mean(means):.3f}")


if __name__ == "__main__":
    run(main)
