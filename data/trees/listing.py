"""Which files a RadioMapSeer tree has: where they lie, and which scenes are complete."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

SIMULATIONS = ("DPM", "IRT2", "IRT4", "carsDPM", "carsIRT2", "carsIRT4")
BUILDINGS = "buildings_complete"
TRACING_COSTS = "they are fitted to png/, at about 2.5 times the error"
_NAME = re.compile(r"(\d+)_(\d+)\.png")


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


@dataclass(frozen=True)
class Listing:
    """What a tree has.

    Attributes:
        scenes: (map, transmitter) of the complete ones by name, sorted.
        outlined: the maps that have outlines, by part.
        report: one line that says what was found and what is missing.
    """

    scenes: dict[str, tuple[int, int]]
    outlined: dict[str, set[str]]
    report: str


def list_scenes(paths: TreePaths, parts: Collection[str]) -> Listing:
    """The scenes of which gain, transmitter and all `parts` are present.

    Raises:
        DataError: there is none.
    """
    root = paths.root
    if not paths.gains.is_dir():
        present = [name for name in SIMULATIONS if (root / "gain" / name).is_dir()]
        there = f"there are: {', '.join(present)}" if present else "is data_root a RadioMapSeer folder?"
        raise DataError(f"{paths.gains}: no such folder; {there}")
    matches = (_NAME.fullmatch(path.name) for path in paths.gains.iterdir())
    scenes = sorted((int(match[1]), int(match[2])) for match in matches if match)
    if not scenes:
        raise DataError(f"{paths.gains}: holds no MAP_TX.png")
    listed, drawn = _stems(root / "antenna", ".json"), _stems(root / "png" / "antennas", ".png")
    lacking = {
        "antenna/ nor png/antennas/": [s for s in scenes if str(s[0]) not in listed and f"{s[0]}_{s[1]}" not in drawn]
    }
    outlined: dict[str, set[str]] = {}
    traced: set[int] = set()
    for part in parts:
        outlined[part] = _stems(root / "polygon" / part, ".json")
        pictured = _stems(root / "png" / part, ".png") - outlined[part]
        lacking[f"polygon/{part} nor png/{part}"] = [s for s in scenes if str(s[0]) not in outlined[part] | pictured]
        traced |= {s[0] for s in scenes if str(s[0]) in pictured}
    for what, without in lacking.items():
        if len(without) == len(scenes):
            raise DataError(f"{root}: has neither {what}; RadioMapSeer has both")
    incomplete = {scene for without in lacking.values() for scene in without}
    lacks = [f"{len(without)} lack {what}" for what, without in lacking.items() if without]
    report = f"{root}: {len(scenes)} {paths.simulation_type} maps" + (f", of which {', '.join(lacks)}" if lacks else "")
    if traced:
        report += f"; {len(traced)} layouts have no outlines (polygon/): {TRACING_COSTS}"
    complete = {f"{s[0]}_{s[1]}": s for s in scenes if s not in incomplete}
    if not complete:
        raise DataError(f"{report}: no complete scene")
    return Listing(complete, outlined, report)


def _stems(folder: Path, suffix: str) -> set[str]:
    """Names of the files in a folder with this suffix; empty if there is no such folder."""
    return {file.stem for file in folder.iterdir() if file.suffix == suffix} if folder.is_dir() else set()
