"""Which kind of tree a folder is, where a RadioMapSeer tree keeps what, and which of its scenes are complete."""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..errors import DataError

SIMULATIONS = ("DPM", "IRT2", "IRT4", "carsDPM", "carsIRT2", "carsIRT4")
BUILDINGS, CARS = "buildings_complete", "cars"  # parts of a map
TRACING_COSTS = "they are fitted to png/, at about 2.5 times the error"


def is_flat_tree(root: Path) -> bool:
    """Whether a folder looks like a flat tree (folder.py)."""
    return (root / "images").is_dir() and (root / "conditions").is_dir()


def _is_tree(root: Path) -> bool:
    return is_flat_tree(root) or (root / "gain").is_dir() or (root / "png").is_dir()


def check_root(data_root: str | Path | None) -> Path:
    """The folder as a Path; raises DataError that says what is wrong with it."""
    if data_root is None:
        raise DataError("data_root is not set; name the folder of your data")
    root = Path(data_root)
    if str(data_root).startswith("path/to"):
        raise DataError(f"{data_root}: is a placeholder; set data_root to the folder of your data")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (data_root)")
    if not _is_tree(root):
        near = chain(sorted(root.glob("*/")), sorted(root.glob("*/*/")), list(root.absolute().parents)[:2])
        meant = next((f"; did you mean {folder}?" for folder in near if _is_tree(folder)), "")
        expected = "expected RadioMapSeer's gain/ and png/ folders, or images/ and conditions/"
        raise DataError(f"{root}: is not a data set; {expected}{meant}")
    return root


@dataclass(frozen=True)
class TreePaths:
    """Where a tree keeps what; a scene's name is MAP_TX, a part is a folder below polygon/ and png/."""

    root: Path
    simulation_type: str = "DPM"

    @property
    def gains(self) -> Path:
        return self.root / "gain" / self.simulation_type

    def gain(self, name: str) -> Path:
        return self.gains / f"{name}.png"

    def outlines(self, map_id: int, part: str = BUILDINGS) -> Path:
        return self.root / "polygon" / part / f"{map_id}.json"

    def picture(self, map_id: int, part: str = BUILDINGS) -> Path:
        return self.root / "png" / part / f"{map_id}.png"

    def antennas(self, map_id: int) -> Path:
        return self.root / "antenna" / f"{map_id}.json"

    def antenna_picture(self, name: str) -> Path:
        return self.root / "png" / "antennas" / f"{name}.png"


def list_scenes(
    paths: TreePaths, parts: Collection[str]
) -> tuple[dict[str, tuple[int, int]], dict[str, set[str]], str]:
    """The scenes of which gain, transmitter and all `parts` are present.

    Returns:
        (map, transmitter) of each by name, sorted; the maps that have outlines, by part; what was found and what is missing.

    Raises:
        DataError: there is none.
    """
    root = paths.root
    if not paths.gains.is_dir():
        present = [name for name in SIMULATIONS if (root / "gain" / name).is_dir()]
        there = f"there are: {', '.join(present)}" if present else "is data_root a RadioMapSeer folder?"
        raise DataError(f"{paths.gains}: no such folder; {there}")
    named = (name.split("_") for name in stems(paths.gains, ".png") if re.fullmatch(r"\d+_\d+", name))
    scenes = sorted((int(map_id), int(transmitter)) for map_id, transmitter in named)
    if not scenes:
        raise DataError(f"{paths.gains}: holds no MAP_TX.png")
    listed, drawn = stems(root / "antenna", ".json"), stems(root / "png" / "antennas", ".png")
    outlined = {part: stems(root / "polygon" / part, ".json") for part in parts}
    pictured = {part: stems(root / "png" / part, ".png") for part in parts}
    known = {part: outlined[part] | pictured[part] for part in parts}
    lacking = {f"polygon/{p} nor png/{p}": [s for s in scenes if str(s[0]) not in known[p]] for p in parts}
    without = [s for s in scenes if str(s[0]) not in listed and f"{s[0]}_{s[1]}" not in drawn]
    lacking = {"antenna/ nor png/antennas/": without} | lacking
    for what, without in lacking.items():
        if len(without) == len(scenes):
            raise DataError(f"{root}: has neither {what}; RadioMapSeer has both")
    lacks = [f"{len(without)} lack {what}" for what, without in lacking.items() if without]
    report = f"{root}: {len(scenes)} {paths.simulation_type} maps" + (f", of which {', '.join(lacks)}" if lacks else "")
    maps = {str(map_id) for map_id, _ in scenes}
    traced = {map_id for part in parts if part != CARS for map_id in maps & (pictured[part] - outlined[part])}
    if traced:
        report += f"; {len(traced)} layouts have no outlines (polygon/): {TRACING_COSTS}"
    incomplete = set(chain(*lacking.values()))
    complete = {f"{s[0]}_{s[1]}": s for s in scenes if s not in incomplete}
    if not complete:
        raise DataError(f"{report}: no complete scene")
    return complete, outlined, report


def stems(folder: Path, suffix: str) -> set[str]:
    """Names of the files in a folder with this suffix; empty if there is no such folder."""
    names = os.listdir(folder) if folder.is_dir() else ()
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
