"""What a RadioMapSeer tree holds, before hours are spent on it: files, splits, odd pictures, levels, a contact sheet.

    python scripts/check_dataset.py path/to/RadioMapSeer [--simulation_type DPM] [--all] [--sheet sheet.png]

Counts every file; opens a spread of scenes, or all of them with --all. Ends with status 1 where something is wrong.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from data import DataError, RadioMapSeer, Scene, gain_to_db
from data.figures import contact_sheet
from data.radiomapseer import SIMULATIONS, check_root
from data.splits import STANDARD, select, spread
from data.units import NOISE_FLOOR
from denoising_diffusion_pytorch.cli import run

OPENED = 300  # scenes without --all
SHEET = 16
BINS = 10
WHOLE = 701 * 80  # maps of the complete data set in each of the DPM and IRT2 simulations


def oddities(scene: Scene) -> Iterator[str]:
    """What is unlike a radio map, in a few words each."""
    x, y = (round(c) for c in scene.tx)
    inside = scene.gain[scene.buildings]
    if scene.buildings.shape[0] != scene.buildings.shape[1]:
        yield f"is {scene.buildings.shape[1]}x{scene.buildings.shape[0]} px, no square"
    if scene.buildings[y, x]:
        yield "the transmitter is inside a building"
    if not scene.gain.any():
        yield "the map is black everywhere"
    elif inside.size and (inside > 0).mean() > 0.01:
        yield f"{(inside > 0).mean():.0%} of the building pixels have a gain; they are zero by convention"
    elif scene.gain[y, x] < scene.gain.max() - 0.05:
        yield "the strongest level is not at the transmitter"
    if scene.buildings.mean() > 0.9 or not scene.buildings.any():
        yield f"buildings cover {scene.buildings.mean():.0%}"


def read_all(source: RadioMapSeer, indices: list[int]) -> tuple[dict[int, Scene], list[str]]:
    """Scenes for the sheet and the histogram, and one line for each oddity."""
    found: dict[int, Scene] = {}
    problems = []

    def read(index: int) -> Scene | str:
        try:
            return source.scene(index)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        scenes = tqdm(pool.map(read, indices), total=len(indices), desc="opening", unit="scene", mininterval=1.0)
        for index, scene in zip(indices, scenes, strict=True):
            if isinstance(scene, str):
                problems.append(scene)
            else:
                found[index] = scene
                problems += [f"{source.gain_folder / source.names[index]}.png: {text}" for text in oddities(scene)]
    return found, problems


def histogram(scenes: list[Scene]) -> list[str]:
    """The levels of open pixels, a bar a tenth of the range."""
    levels = np.concatenate([scene.gain[~scene.buildings] for scene in scenes])
    counts, edges = np.histogram(levels, BINS, (0, 1))
    lines = []
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        share = count / max(levels.size, 1)
        lines.append(
            f"  {low:.1f} .. {high:.1f} ({gain_to_db(low):6.1f} dB on)  {share:6.1%}  {'#' * round(60 * share)}"
        )
    lines.append(f"  below the noise floor of {NOISE_FLOOR}: {(levels < NOISE_FLOOR).mean():.1%}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="RadioMapSeer tree")
    parser.add_argument("--simulation_type", choices=SIMULATIONS, help="default: the first that is there")
    parser.add_argument("--all", action="store_true", help=f"open every scene, not {OPENED} of them")
    parser.add_argument("--sheet", type=Path, help="PNG to draw of some of the scenes")
    arguments = parser.parse_args()
    root = check_root(arguments.root)
    present = [name for name in SIMULATIONS if (root / "gain" / name).is_dir()]
    print(f"simulations: {', '.join(present) or 'none'}")
    source = RadioMapSeer(root, arguments.simulation_type or (present or ["DPM"])[0], "all")
    maps = len({map_id for map_id, _ in source.scenes})
    print(f"{source.report}; the whole of RadioMapSeer has {WHOLE:,} ({len(source) / WHOLE:.1%} of it are here)")
    print(f"{len(source):,} complete scenes of {maps} maps, {len(source) / maps:.1f} transmitters a map")
    sizes = {name: len(select(root, name, source.scenes)) for name in STANDARD}
    print("splits: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    found, problems = read_all(source, spread(len(source), len(source) if arguments.all else OPENED))
    scenes = list(found.values())
    sides = {scene.buildings.shape for scene in scenes}
    print(f"opened {len(found)} scenes; sizes: {', '.join(f'{w}x{h}' for h, w in sorted(sides))} px")
    if scenes:
        print("levels of open pixels:")
        print("\n".join(histogram(scenes)))
        if arguments.sheet:
            contact_sheet(arguments.sheet, [scenes[i] for i in spread(len(scenes), SHEET)])
            print(f"written: {arguments.sheet}")
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        print(f"empty splits: {', '.join(empty)}; choose data.train.split and data.validation.split accordingly")
    for problem in problems[:20]:
        print(f"odd: {problem}")
    if problems:
        sys.exit(
            f"{len(problems)} oddities in {len(found)} scenes" + (", the first 20 above" if len(problems) > 20 else "")
        )
    print("nothing odd")


if __name__ == "__main__":
    run(main)
