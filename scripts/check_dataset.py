"""Check a dataset before spending hours on it: files, splits, registration, odd pictures.

    python scripts/check_dataset.py path/to/RadioMapSeer [--simulation_type DPM] [--all]

Counts the scenes of a simulation type and opens some of them, or all with --all. Also checks trees with images/ and
conditions/. Exits with status 1 if something is wrong.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data import DataError, FlatTree, Scene, open_tree
from data.geometry.georeference import pixel_of
from data.trees.folder import Tree
from data.trees.splits import ORDERED, city_name, evenly_spaced, known_splits, members, own_splits
from denoising_diffusion_pytorch.cli import run

OPENED = 300  # scenes opened without --all
PRINTED = 20  # oddities
NO_ENERGY = 1e-3  # a larger fraction of the maps' energy where they should be zero gives a warning


def oddities(scene: Scene, gain: np.ndarray) -> Iterator[str]:
    """Whatever does not look like a radio map, in a few words each; `gain` is the map as it is in its file."""
    inside, built = gain[scene.ori_mask], scene.buildings.mean()
    if not gain.any():
        yield "the map is black everywhere"
    elif inside.size and (inside > 0).mean() > 0.01:
        yield f"{(inside > 0).mean():.0%} of the pixels inside buildings have a gain; they are zero in RadioMapSeer"
    elif scene.tx is not None and gain[pixel_of(scene.tx)] < gain.max() - 0.05:
        yield "the strongest level is not at the transmitter"
    if scene.tx is not None and scene.buildings[pixel_of(scene.tx)]:
        yield "the transmitter is inside a building"
    if built > 0.9 or (built == 0 and scene.cond is None and scene.truth != "simulated"):
        yield f"buildings cover {built:.0%}"


def inspect(source: Tree, indices: Sequence[int]) -> tuple[list[str], list[str]]:
    """Open scenes; returns lines of statistics and warnings, and one line per oddity."""
    problems: list[str] = []
    sides, shapes = set(), set()
    low, high, energy, inside = math.inf, -math.inf, 0.0, 0.0
    for index in tqdm(indices, "opening", unit="scene"):
        try:
            scene = source.scene(index)
        except DataError as error:
            problems.append(str(error))
            continue
        # a flat tree's scenes are zero inside the mask, right or wrong
        gain = source.pictures(index)[0] if isinstance(source, FlatTree) else scene.gain
        problems += [f"{scene.name}: {text}" for text in oddities(scene, gain)]
        sides.add(len(scene.gain))
        power = gain.astype(np.float64) ** 2
        energy, inside = energy + power.sum(), inside + power[scene.ori_mask].sum()
        if scene.cond is not None:
            shapes.add(scene.cond.shape)
            low, high = min(low, scene.cond.min()), max(high, scene.cond.max())
    lines = [f"sizes: {', '.join(f'{side}x{side}' for side in sorted(sides))} px"]
    if len(sides) > 1:
        problems.append("maps have several sizes; training resizes them all to data.image_size")
    if shapes:
        lines.append(f"conditions: {', '.join(map(str, sorted(shapes)))}, from {low:.4g} to {high:.4g}")
    if max(-low, high) > 1:
        lines.append("warning: conditions exceed [-1, 1]; training uses them unchanged; values of order 1 are best")
    if len(shapes) > 1:
        problems.append("conditions have several shapes; all must be of data.cond_channels and data.cond_size")
    lines.append(f"registration: {inside / max(energy, 1e-12):.2%} of the maps' energy lies inside the buildings")
    if inside > NO_ENERGY * energy:
        lines.append(
            "warning: the buildings are not aligned with the maps; are polygon/, png/ or masks/ from another dataset?"
        )
    return lines, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="RadioMapSeer tree, or a folder with images/ and conditions/")
    parser.add_argument("--simulation_type", default="DPM", help="folder in gain/ (%(default)s)")
    parser.add_argument("--all", action="store_true", help=f"open every scene, not only {OPENED}")
    arguments = parser.parse_args()
    source = open_tree(arguments.root, arguments.simulation_type)
    print(source.report)
    root, rule = source.root, source.rule
    rules = "; ".join([*(f"splits/{name}.txt" for name in own_splits(root)), rule])
    splits = {name: set(members(root, name, source.names, rule)) for name in known_splits(root, rule)}
    unused = len(source) - len(set().union(*(splits[name] for name in ORDERED)))
    sizes = ", ".join(f"{name} {len(names):,}" for name, names in splits.items())
    print(f"splits ({rules}): {sizes}" + (f"; {unused:,} scenes in none of {', '.join(ORDERED)}" if unused else ""))
    cities = {name: set(map(city_name, splits[name])) for name in ORDERED}
    both = {(a, b): len(cities[a] & cities[b]) for a, b in combinations(cities, 2)}
    odd = [f"{a} and {b} share {count} cities" for (a, b), count in both.items() if count]
    odd += [f"splits/{name}.txt lists no scene of this tree" for name in own_splits(root) if not splits[name]]
    indices = evenly_spaced(len(source), len(source) if arguments.all else OPENED)
    lines, problems = inspect(source, indices)
    problems = odd + problems
    print(f"opened {len(indices)} scenes")
    print("\n".join([*lines, *(f"odd: {problem}" for problem in problems[:PRINTED])]))
    if problems:
        more = f", the first {PRINTED} above" if len(problems) > PRINTED else ""
        sys.exit(f"{len(problems)} oddities in {len(indices)} scenes{more}")
    print("no problems found")


if __name__ == "__main__":
    run(main)
