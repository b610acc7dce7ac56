"""Score the embedded simulator on the scenes of a RadioMapSeer tree.

    python scripts/evaluate_simulator.py --data path/to/RadioMapSeer [--split all]

Uses the tree's buildings and transmitters at native resolution. Reports scores under the three conventions of
data/metrics.py, and CPU seconds per map.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data import RadioMapSeer
from data.evaluation import LEGEND, summarize, table
from data.metrics import Scores
from data.simulator import Simulator
from data.units import db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="RadioMapSeer tree")
    parser.add_argument("--split", default="all")
    parser.add_argument("--simulation_type", default="DPM")
    arguments = parser.parse_args()
    dataset = RadioMapSeer(arguments.data, arguments.simulation_type, arguments.split)
    scene = dataset.scene(0)
    Simulator(scene.layout).path_gain(scene.tx)  # compiles, or reads the compiled code
    scores, seconds, corners = Scores(), [], []
    for index in tqdm(range(len(dataset)), unit="map"):
        scene = dataset.scene(index)
        start = time.process_time()
        simulator = Simulator(scene.layout)
        prepared = time.process_time()
        path_gain = simulator.path_gain(scene.tx)
        seconds.append((prepared - start, time.process_time() - prepared))
        corners.append(len(simulator.corners))
        scores.add(scene.name, gain_to_uint8(db_to_gain(path_gain)) / 255, scene.gain)
    print(f"{dataset.report}\n{table({'simulator': summarize(scores)})}\n{LEGEND}")
    prepare, solve = np.mean(seconds, axis=0)
    slowest = np.sum(seconds, axis=1).max()
    print(
        f"CPU seconds per map: {prepare:.3f} to prepare + {solve:.3f} to solve; "
        f"slowest {slowest:.2f} (up to {max(corners)} corners)"
    )


if __name__ == "__main__":
    run(main)
