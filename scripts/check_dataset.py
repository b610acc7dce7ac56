"""Check a data set before hours are spent on it: files, splits, odd pictures, levels.

    python scripts/check_dataset.py path/to/RadioMapSeer [--simulation_type DPM] [--all]

Counts every file and opens some scenes, or all of them with --all; a tree with images/ and conditions/ is checked too.
Exits with status 1 if something is wrong.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import open_tree
from data.trees.inspection import inspect
from data.trees.splits import known_splits, members, own_splits, spread
from denoising_diffusion_pytorch.cli import run

OPENED = 300  # scenes opened without --all
PRINTED = 20  # oddities


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
    sizes = [f"{name} {len(members(root, name, source.names, rule)):,}" for name in known_splits(root, rule)]
    print(f"splits ({rules}): {', '.join(sizes)}")
    indices = spread(len(source), len(source) if arguments.all else OPENED)
    lines, problems = inspect(source, indices)
    print(f"opened {len(indices)} scenes")
    print("\n".join([*lines, *(f"odd: {problem}" for problem in problems[:PRINTED])]))
    if problems:
        more = f", the first {PRINTED} above" if len(problems) > PRINTED else ""
        sys.exit(f"{len(problems)} oddities in {len(indices)} scenes{more}")
    print("nothing odd")


if __name__ == "__main__":
    run(main)
