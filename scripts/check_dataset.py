"""Check a data set before hours are spent on it: files, splits, odd pictures, levels, a contact sheet.

    python scripts/check_dataset.py path/to/RadioMapSeer [--simulation_type DPM] [--all] [--sheet sheet.png]

Counts every file and opens some scenes, or all of them with --all; a tree with images/ and conditions/ is checked too.
Exits with status 1 if something is wrong.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data import DataError, FlatTree, RadioMapSeer, Scene, open_tree
from data.trees.inspection import Statistics, oddities
from data.trees.splits import members, own_splits, spread
from denoising_diffusion_pytorch.cli import new_figure, run
from evaluation.figures import contact_sheet

OPENED = 300  # scenes opened without --all
SHEET = 16
PRINTED = 20  # oddities
WHOLE = 701 * 80  # maps of the complete data set, in each of the DPM and IRT2 simulations


def print_contents(source: RadioMapSeer | FlatTree) -> None:
    """Print what the tree holds and how it is divided."""
    print(source.report)
    if isinstance(source, RadioMapSeer):
        print(f"the whole of RadioMapSeer has {WHOLE:,} scenes ({len(source) / WHOLE:.1%} of it is here)")
    own = own_splits(source.root)
    sizes = {name: len(members(source.root, name, source.names, source.rule)) for name in {*source.rule.splits, *own}}
    rules = [*(f"splits/{name}.txt" for name in own), source.rule.text]
    print(f"splits ({'; '.join(rules)}): " + ", ".join(f"{name} {size:,}" for name, size in sorted(sizes.items())))


def inspect(source: RadioMapSeer | FlatTree, indices: list[int]) -> tuple[list[str], list[Scene]]:
    """Open scenes and print their statistics; returns what is odd, and some scenes, spread over the tree."""
    statistics, problems, shown = Statistics(), [], []
    kept = {indices[place] for place in spread(len(indices), SHEET)}
    for index in tqdm(indices, "opening", unit="scene"):
        try:
            scene = source.scene(index)
        except DataError as error:
            problems.append(str(error))
            continue
        statistics.add(scene)
        problems += [f"{source.path(index)}: {text}" for text in oddities(scene)]
        shown += [scene] if index in kept else []
    for line in statistics.lines():
        print(line)
    return problems, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="RadioMapSeer tree, or a folder with images/ and conditions/")
    parser.add_argument("--simulation_type", help="folder in gain/; default: the first one")
    parser.add_argument("--all", action="store_true", help=f"open every scene, not only {OPENED}")
    parser.add_argument("--sheet", type=new_figure, help="figure to write: a contact sheet of some scenes")
    arguments = parser.parse_args()
    present = sorted((path.name for path in arguments.root.glob("gain/*/")), key=lambda name: (name != "DPM", name))
    if present:
        print(f"simulations: {', '.join(present)}")
    source = open_tree(arguments.root, arguments.simulation_type or (present or ["DPM"])[0])
    print_contents(source)
    problems, shown = inspect(source, spread(len(source), len(source) if arguments.all else OPENED))
    if arguments.sheet and shown:
        contact_sheet(arguments.sheet, shown)
        print(f"written: {arguments.sheet}")
    for problem in problems[:PRINTED]:
        print(f"odd: {problem}")
    if problems:
        more = f", the first {PRINTED} above" if len(problems) > PRINTED else ""
        sys.exit(f"{len(problems)} oddities{more}")
    print("nothing odd")


if __name__ == "__main__":
    run(main)
