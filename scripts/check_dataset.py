"""Check a data set before hours are spent on it: files, splits, odd pictures, levels, a contact sheet.

    python scripts/check_dataset.py path/to/RadioMapSeer [--simulation_type DPM] [--all] [--sheet sheet.png]

Counts every file and opens some scenes, or all of them with --all; a tree with images/ and conditions/ is checked too.
Exits with status 1 if something is wrong.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import FlatTree, RadioMapSeer, open_tree
from data.trees.inspection import inspect_tree
from data.trees.listing import SIMULATIONS
from data.trees.splits import own_splits, sizes, spread
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
        maps = len({map_id for map_id, _ in source.scenes})
        counted = f"{len(source):,} complete scenes of {maps} maps, {len(source) / maps:.1f} transmitters per map"
        print(f"{counted}; the whole of RadioMapSeer has {WHOLE:,} scenes ({len(source) / WHOLE:.1%} of it is here)")
    found = sizes(source.root, source.names, source.rule)
    rules = [f"splits/{name}.txt" for name in own_splits(source.root)]
    if set(found) - set(own_splits(source.root)):
        rules.append(source.rule.text)
    print(f"splits ({'; '.join(rules)}): " + ", ".join(f"{name} {size:,}" for name, size in found.items()))
    empty = [name for name, size in found.items() if not size]
    if empty:
        print(f"empty splits: {', '.join(empty)}; choose data.train.split and data.validation.split accordingly")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="RadioMapSeer tree, or a folder with images/ and conditions/")
    parser.add_argument("--simulation_type", choices=SIMULATIONS, help="default: the first one present")
    parser.add_argument("--all", action="store_true", help=f"open every scene, not only {OPENED}")
    parser.add_argument("--sheet", type=new_figure, help="figure to write: a contact sheet of some scenes")
    arguments = parser.parse_args()
    present = [name for name in SIMULATIONS if (arguments.root / "gain" / name).is_dir()]
    if present:
        print(f"simulations: {', '.join(present)}")
    source = open_tree(arguments.root, arguments.simulation_type or (present or ["DPM"])[0])
    print_contents(source)
    findings = inspect_tree(source, spread(len(source), len(source) if arguments.all else OPENED), SHEET)
    for line in findings.lines():
        print(line)
    if arguments.sheet and findings.shown:
        contact_sheet(arguments.sheet, findings.shown)
        print(f"written: {arguments.sheet}")
    problems = findings.problems
    for problem in problems[:PRINTED]:
        print(f"odd: {problem}")
    if problems:
        more = f", the first {PRINTED} above" if len(problems) > PRINTED else ""
        sys.exit(f"{len(problems)} oddities in {findings.opened} scenes{more}")
    print("nothing odd")


if __name__ == "__main__":
    run(main)
