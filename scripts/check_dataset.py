"""Check a RadioMapSeer tree before hours are spent on it: files, splits, odd pictures, levels, a contact sheet.

    python scripts/check_dataset.py path/to/RadioMapSeer [--simulation_type DPM] [--all] [--sheet sheet.png]

Counts every file and opens some scenes, or all of them with --all. For a tree with images/ and conditions/ it reports
shapes and ranges. Exits with status 1 if something is wrong.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.ndimage import binary_erosion
from tqdm import tqdm

from data import DataError, RadioMapSeer, Scene, gain_to_db
from data.trees.folder import FlatTree, is_flat_tree
from data.trees.radiomapseer import SIMULATIONS, check_root
from data.trees.splits import STANDARD, select, spread
from data.units import NOISE_FLOOR
from denoising_diffusion_pytorch.cli import new_figure, run
from evaluation.figures import contact_sheet

OPENED = 300  # scenes opened without --all
SHEET = 16
BINS = 10
NO_ENERGY = 1e-3  # a larger share of the maps' energy where they should be zero gives a warning
WHOLE = 701 * 80  # maps of the complete data set, in each of the DPM and IRT2 simulations


def oddities(scene: Scene) -> Iterator[str]:
    """Whatever does not look like a radio map, in a few words each."""
    x, y = (round(c) for c in scene.tx)
    inside = scene.gain[scene.ori_mask]
    if scene.buildings.shape[0] != scene.buildings.shape[1]:
        yield f"is {scene.buildings.shape[1]}x{scene.buildings.shape[0]} px, no square"
    if scene.buildings[y, x]:
        yield "the transmitter is inside a building"
    if not scene.gain.any():
        yield "the map is black everywhere"
    elif inside.size and (inside > 0).mean() > 0.01:
        yield f"{(inside > 0).mean():.0%} of the pixels inside buildings have a gain; they are zero in RadioMapSeer"
    elif scene.gain[y, x] < scene.gain.max() - 0.05:
        yield "the strongest level is not at the transmitter"
    if scene.buildings.mean() > 0.9 or not scene.buildings.any():
        yield f"buildings cover {scene.buildings.mean():.0%}"


class Registration:
    """How buildings are aligned with the maps: shares of the maps' energy inside buildings, and zeros in the open."""

    def __init__(self) -> None:
        self.energy = dict.fromkeys(
            ("map", "png/buildings_complete", "what is certain", "the same without its border"), 0.0
        )
        self.pictured = 0.0  # energy of the maps that have a picture
        self.open = self.zeros = 0

    def add(self, scene: Scene, picture: np.ndarray | None) -> None:
        """Add a scene and its building picture (H, W) bool, if there is one."""
        power = scene.gain.astype(np.float64) ** 2
        certain = scene.ori_mask
        places = {
            "map": slice(None),
            "what is certain": certain,
            "the same without its border": binary_erosion(certain),
        }
        if picture is not None and picture.shape == power.shape:
            places["png/buildings_complete"] = picture
            self.pictured += float(power.sum())
        for name, where in places.items():
            self.energy[name] += float(power[where].sum())
        outside = ~scene.buildings
        self.open += int(outside.sum())
        self.zeros += int((scene.gain[outside] == 0).sum())

    def lines(self) -> list[str]:
        """The measurement, and a warning if it differs from RadioMapSeer's."""
        total = max(self.energy["map"], 1e-12)
        shares = {name: energy / total for name, energy in self.energy.items() if name != "map"}
        if self.pictured:
            shares["png/buildings_complete"] *= total / self.pictured
        else:
            del shares["png/buildings_complete"]
        measured = ", ".join(f"{share:.2%} inside {name}" for name, share in shares.items())
        lines = [
            f"registration: of the maps' energy {measured}; "
            f"{self.zeros / max(self.open, 1):.2%} of the open pixels are zero (outage)"
        ]
        if shares["the same without its border"] > NO_ENERGY:
            lines.append(
                "warning: the buildings do not lie over the maps, not even a pixel aside; "
                "are polygon/ or png/ of another data set?"
            )
        elif shares["what is certain"] > NO_ENERGY:
            lines.append(
                "warning: the buildings lie a pixel or less aside of the maps; predictions will be dark along walls"
            )
        return lines


class Findings:
    """Statistics of opened scenes, collected scene by scene, so that memory is enough for a large tree.

    Attributes:
        opened: number of scenes read.
        problems: one line per oddity.
        shapes: all (H, W) that occur.
        shown: the scenes of the contact sheet.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.problems: list[str] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.shown: list[Scene] = []
        self.counts = np.zeros(BINS, np.int64)
        self.below_floor = 0
        self.registration = Registration()

    def read(self, source: RadioMapSeer, indices: list[int]) -> None:
        """Open scenes, several at a time."""
        shown = {indices[place] for place in spread(len(indices), SHEET)}

        def open_one(index: int) -> tuple[Scene | str, np.ndarray | None]:
            try:
                scene = source.scene(index)
            except DataError as error:
                return str(error), None
            try:
                return scene, source.picture(index)
            except DataError:  # not needed: the scene has outlines
                return scene, None

        with (
            ThreadPoolExecutor() as pool,
            tqdm(total=len(indices), desc="opening", unit="scene", mininterval=1.0) as bar,
        ):
            for first in range(0, len(indices), OPENED):  # in parts: a pool would read ahead without limit
                part = indices[first : first + OPENED]
                for index, (scene, picture) in zip(part, pool.map(open_one, part), strict=True):
                    self._add(source.gain_folder / f"{source.names[index]}.png", scene, picture, index in shown)
                    bar.update()

    def _add(self, path: Path, scene: Scene | str, picture: np.ndarray | None, shown: bool) -> None:
        if isinstance(scene, str):
            self.problems.append(scene)
            return
        self.opened += 1
        self.registration.add(scene, picture)
        self.problems += [f"{path}: {text}" for text in oddities(scene)]
        self.shapes.add(scene.buildings.shape)
        levels = scene.gain[~scene.buildings]
        self.counts += np.histogram(levels, BINS, (0, 1))[0]
        self.below_floor += int((levels < NOISE_FLOOR).sum())
        if shown:
            self.shown.append(scene)

    def histogram(self) -> list[str]:
        """The levels of open pixels, one bar per tenth of the range."""
        total, edges = max(int(self.counts.sum()), 1), np.linspace(0, 1, BINS + 1)
        lines = []
        for count, (low, high) in zip(self.counts, pairwise(edges), strict=True):
            bar = "#" * round(60 * count / total)
            lines.append(f"  {low:.1f} .. {high:.1f} (from {gain_to_db(low):6.1f} dB)  {count / total:6.1%}  {bar}")
        lines.append(f"  below the noise floor of {NOISE_FLOOR}: {self.below_floor / total:.1%}")
        return lines


def check_flat(source: FlatTree, indices: list[int]) -> None:
    """Print what a flat tree's conditions contain and what is wrong with them; exits with 1 if something is."""
    shapes: set[tuple[int, ...]] = set()
    low, high, outside = math.inf, -math.inf, 0
    problems = []
    for index in tqdm(indices, desc="opening", unit="sample", mininterval=1.0):
        try:
            source.scene(index)
            cond = source.cond(index)
        except DataError as error:
            problems.append(str(error))
            continue
        shapes.add(cond.shape)
        low, high = min(low, float(cond.min())), max(high, float(cond.max()))
        outside += int(np.abs(cond).max() > 1)
    print(f"{source.report}; opened {len(indices)}")
    if shapes:
        print(f"conditions: {', '.join(map(str, sorted(shapes)))}, from {low:.4g} to {high:.4g}")
    if outside:
        print(f"warning: {outside} conditions leave [-1, 1]; training uses them unchanged; order 1 is best")
    if len(shapes) > 1:
        problems.append(
            "conditions have several shapes; all must be data.cond_channels x data.cond_size x data.cond_size"
        )
    for problem in problems[:20]:
        print(f"odd: {problem}")
    if problems:
        sys.exit(f"{len(problems)} oddities in {len(indices)} samples")
    print("nothing odd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="RadioMapSeer tree")
    parser.add_argument("--simulation_type", choices=SIMULATIONS, help="default: the first one present")
    parser.add_argument("--all", action="store_true", help=f"open every scene, not only {OPENED}")
    parser.add_argument("--sheet", type=new_figure, help="figure to write: a contact sheet of some scenes")
    arguments = parser.parse_args()
    root = check_root(arguments.root)
    if is_flat_tree(root):
        flat = FlatTree(root)
        check_flat(flat, spread(len(flat), len(flat) if arguments.all else OPENED))
    else:
        check_radiomapseer(root, arguments)


def check_radiomapseer(root: Path, arguments: argparse.Namespace) -> None:
    """Print what a RadioMapSeer tree contains; exits with 1 if something is wrong."""
    present = [name for name in SIMULATIONS if (root / "gain" / name).is_dir()]
    print(f"simulations: {', '.join(present) or 'none'}")
    source = RadioMapSeer(root, arguments.simulation_type or (present or ["DPM"])[0], "all")
    maps = len({map_id for map_id, _ in source.scenes})
    print(f"{source.report}; the whole of RadioMapSeer has {WHOLE:,} ({len(source) / WHOLE:.1%} of it is here)")
    print(f"{len(source):,} complete scenes of {maps} maps, {len(source) / maps:.1f} transmitters per map")
    sizes = {name: len(select(root, name, source.scenes)) for name in STANDARD}
    print("splits: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    findings = Findings()
    findings.read(source, spread(len(source), len(source) if arguments.all else OPENED))
    sides = ", ".join(f"{width}x{height}" for height, width in sorted(findings.shapes))
    print(f"opened {findings.opened} scenes; sizes: {sides} px")
    if findings.opened:
        print("\n".join(findings.registration.lines()))
        print("levels of open pixels:")
        print("\n".join(findings.histogram()))
        if arguments.sheet:
            contact_sheet(arguments.sheet, findings.shown)
            print(f"written: {arguments.sheet}")
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        print(f"empty splits: {', '.join(empty)}; choose data.train.split and data.validation.split accordingly")
    problems = findings.problems
    for problem in problems[:20]:
        print(f"odd: {problem}")
    if problems:
        sys.exit(
            f"{len(problems)} oddities in {findings.opened} scenes"
            + (", the first 20 above" if len(problems) > 20 else "")
        )
    print("nothing odd")


if __name__ == "__main__":
    run(main)
