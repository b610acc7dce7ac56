"""Score the embedded simulator on the scenes of a RadioMapSeer tree.

    python scripts/evaluate_simulator.py --data path/to/RadioMapSeer [--split all] [--figure FILE.png]

Uses the tree's buildings and transmitters at native resolution. Reports scores under the three conventions of
data/metrics.py, how well each kind of path is met, and CPU seconds per map; draws real | simulated | error of four maps.
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
from data.figures import comparison_figure
from data.metrics import Scores
from data.scene import Scene
from data.simulator import Simulator
from data.simulator.propagation import Paths
from data.units import GAIN_SPAN_DB, db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import new_picture, run

CLOSE_DB = 0.5  # a grey level is 0.39 dB
SHOWN = (0.25, 0.5, 0.75, 1.0)  # quantiles of the maps' NMSE that the figure shows


def kinds_of(paths: Paths, open_ground: np.ndarray) -> dict[str, np.ndarray]:
    """Open pixels (H, W) bool by the kind of their dominant path."""
    around = open_ground & ~paths.over_roofs
    return {
        "line of sight": around & (paths.bends == 0),
        "one bend": around & (paths.bends == 1),
        "two bends": around & (paths.bends == 2),
        "three bends or more": around & (paths.bends > 2),
        "over roofs": open_ground & paths.over_roofs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="RadioMapSeer tree")
    parser.add_argument("--split", default="all")
    parser.add_argument("--simulation_type", default="DPM")
    parser.add_argument("--figure", type=new_picture, metavar="FILE", help="PNG of four maps")
    arguments = parser.parse_args()
    dataset = RadioMapSeer(arguments.data, arguments.simulation_type, arguments.split)
    simulate(dataset.scene(0))  # compiles, or reads the compiled code
    scores, seconds, power = Scores(), [], 0.0
    errors_db: dict[str, list[np.ndarray]] = {}
    for index in tqdm(range(len(dataset)), unit="map"):
        scene = dataset.scene(index)
        start = time.process_time()
        simulated, paths = simulate(scene)
        seconds.append(time.process_time() - start)
        scores.add(scene.name, simulated, scene.gain)
        power += float((scene.gain.astype(np.float64) ** 2).sum())
        for kind, pixels in kinds_of(paths, ~scene.layout.inside).items():
            errors_db.setdefault(kind, []).append((simulated - scene.gain)[pixels] * GAIN_SPAN_DB)
    print(f"{dataset.report}\n{table({'simulator': summarize(scores)})}\n{LEGEND}\n")
    print(
        f"| path | open pixels | within {CLOSE_DB} dB | median error, dB | share of the set's NMSE |\n|---|---|---|---|---|"
    )
    errors = {kind: np.concatenate(parts) for kind, parts in errors_db.items()}
    total = sum(len(error) for error in errors.values())
    for kind, error in errors.items():
        close, median = (np.abs(error) <= CLOSE_DB).mean(), np.median(np.abs(error))
        nmse = (error.astype(np.float64) ** 2).sum() / GAIN_SPAN_DB**2 / power
        print(f"| {kind} | {len(error) / total:.1%} | {close:.1%} | {median:.2f} | {nmse:.5f} |")
    print(f"\nCPU seconds per map: median {np.median(seconds):.3f}, slowest {max(seconds):.3f}")
    if arguments.figure:
        order = np.argsort([row["nmse"] for row in scores.rows])
        rows = [figure_row(dataset.scene(int(order[round(q * (len(order) - 1))]))) for q in SHOWN]
        comparison_figure(arguments.figure, rows, ["simulated"])
        print(f"wrote {arguments.figure}")


def simulate(scene: Scene) -> tuple[np.ndarray, Paths]:
    """The simulated map (H, W) in the dataset's grey levels, and the paths."""
    paths = Simulator(scene.layout).paths(scene.tx)
    return gain_to_uint8(db_to_gain(paths.path_gain)) / 255, paths


def figure_row(scene: Scene) -> dict:
    """A row of `comparison_figure`."""
    simulated, _ = simulate(scene)
    return {
        "name": scene.name,
        "real": scene.gain,
        "simulated": simulated,
        "buildings": scene.buildings,
        "tx": scene.tx,
    }


if __name__ == "__main__":
    run(main)
