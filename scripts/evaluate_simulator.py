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
from data.simulator import Paths, Simulator
from data.units import db_to_gain, gain_to_uint8
from denoising_diffusion_pytorch.cli import new_figure, run

SHOWN = (0.25, 0.5, 0.75, 1.0)  # quantiles of the maps' NMSE that the figure shows


def kinds_of(paths: Paths, open_ground: np.ndarray) -> dict[str, np.ndarray]:
    """Open pixels (H, W) bool by the kind of their dominant path."""
    around = open_ground & ~paths.over_roofs
    return {
        "all open pixels": open_ground,
        "line of sight": around & (paths.bends == 0),
        "one bend": around & (paths.bends == 1),
        "two bends": around & (paths.bends == 2),
        "three bends or more": around & (paths.bends > 2),
        "over roofs": open_ground & paths.over_roofs,
        "no path": open_ground & (paths.bends < 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="RadioMapSeer tree")
    parser.add_argument("--split", default="all", help="see data/splits.py")
    parser.add_argument("--simulation_type", default="DPM", help="folder of gain/ to compare with")
    parser.add_argument("--figure", type=new_figure, metavar="FILE", help="figure of four maps")
    arguments = parser.parse_args()
    dataset = RadioMapSeer(arguments.data, arguments.simulation_type, arguments.split)
    simulate(dataset.scene(0))  # compiles, or reads the compiled code
    scores, seconds, power = Scores(), [], 0.0
    counts: dict[str, np.ndarray] = {}  # pixels by error in grey levels, -255 to 255
    for index in tqdm(range(len(dataset)), unit="map"):
        scene = dataset.scene(index)
        start = time.process_time()
        simulated, paths = simulate(scene)
        seconds.append(time.process_time() - start)
        scores.add(scene.name, simulated, scene.gain)
        power += float((scene.gain.astype(np.float64) ** 2).sum())
        steps = np.rint((simulated - scene.gain) * 255).astype(int) + 255
        for kind, pixels in kinds_of(paths, ~scene.layout.inside).items():
            counts[kind] = counts.get(kind, 0) + np.bincount(steps[pixels], minlength=511)
    print(f"{dataset.report}\n{table({'simulator': summarize(scores)})}\n{LEGEND}\n")
    print(by_kind(counts, power))
    print(f"\nCPU seconds per map: median {np.median(seconds):.3f}, slowest {max(seconds):.3f}")
    if arguments.figure:
        order = np.argsort([row["nmse"] for row in scores.rows])
        rows = [figure_row(dataset.scene(int(order[round(q * (len(order) - 1))]))) for q in SHOWN]
        comparison_figure(arguments.figure, rows, ["simulated"])
        print(f"wrote {arguments.figure}")


def by_kind(counts: dict[str, np.ndarray], power: float) -> str:
    """A table of the errors of each kind of path; the NMSE is over the whole set, of which `power` is the power."""
    lines = ["| path | open pixels | exact | within one grey level | NMSE |", "|---|---|---|---|---|"]
    sizes = np.arange(-255, 256)
    for kind, count in counts.items():
        if (pixels := count.sum()) > 0:
            share, nmse = pixels / counts["all open pixels"].sum(), (count * sizes**2).sum() / 255**2 / power
            exact, close = count[255] / pixels, count[254:257].sum() / pixels
            lines.append(f"| {kind} | {share:.1%} | {exact:.1%} | {close:.1%} | {nmse:.5f} |")
    return "\n".join(lines)


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
