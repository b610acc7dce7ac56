"""The RadioMapSeer tree (Yapar et al., 2022), or any part of it, as scenes.

    ROOT/gain/{DPM,IRT2,IRT4,carsDPM,carsIRT2,carsIRT4}/{map}_{tx}.png      grey levels, 0 inside buildings
    ROOT/png/buildings_complete/{map}.png                                   non-zero inside buildings
    ROOT/png/buildings_missing{1..4}/{1..6}/{map}.png                       some buildings left out, six variants
    ROOT/png/antennas/{map}_{tx}.png                                        one white pixel
    ROOT/png/cars/{map}.png                                                 non-zero on cars

Files belong together by name. A scene needs its gain, building and antenna pictures; of a partial download the complete
scenes are used and the rest is counted.
"""

import difflib
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .errors import DataError
from .scene import Scene, read_grey, transmitter_position
from .splits import select
from .store import digest

log = logging.getLogger("radiodiff")

SIMULATIONS = ("DPM", "IRT2", "IRT4", "carsDPM", "carsIRT2", "carsIRT4")
MISSING_VARIANT = 1  # of the six ways to leave buildings out; a fixed one, so that a scene has one condition
_NAME = re.compile(r"(\d+)_(\d+)\.png$")


def is_radiomapseer(root: Path) -> bool:
    """Whether a folder looks like this kind of tree."""
    return (root / "gain").is_dir() or (root / "png").is_dir()


def check_root(data_root: str | Path) -> Path:
    """The folder, or DataError that says what is wrong with the path."""
    if str(data_root).startswith("path/to"):
        raise DataError(f"{data_root}: is a placeholder; set data_root to the folder of your data")
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (data_root)")
    return root


def file_digest(paths: Iterable[Path]) -> str:
    """A name of the files' sizes and times of change; none of them is read."""
    states = ((path, path.stat()) for path in paths)
    return digest([(str(path), state.st_size, state.st_mtime_ns) for path, state in states])


class RadioMapSeer:
    """The scenes of one simulation type and split; `scene(i)` reads one.

    Args:
        data_root: ROOT.
        simulation_type: one of SIMULATIONS.
        split: see splits.py.
        missing_buildings: 0, or 1..4 buildings left out of what the condition shows (not of the truth).
        max_samples: the first scenes only.

    Attributes:
        names: of the scenes, sorted by map and transmitter.
        report: one line that says what was found and what is missing.

    Raises:
        DataError: no such tree, simulation type or split, or not a single complete scene.
    """

    def __init__(
        self,
        data_root: str | Path,
        simulation_type: str = "DPM",
        split: str = "all",
        *,
        missing_buildings: int = 0,
        max_samples: int | None = None,
    ):
        self.root = check_root(data_root)
        if simulation_type not in SIMULATIONS:
            near = difflib.get_close_matches(simulation_type, SIMULATIONS, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise DataError(
                f"simulation_type {simulation_type!r} is unknown; {hint}choose from {', '.join(SIMULATIONS)}"
            )
        if not 0 <= missing_buildings <= 4:
            raise DataError(f"missing_buildings is {missing_buildings}; RadioMapSeer has 0 to 4")
        self.simulation_type = simulation_type
        self.gain_folder = self.root / "gain" / simulation_type
        self.building_folder = self.root / "png" / "buildings_complete"
        self.antenna_folder = self.root / "png" / "antennas"
        self.cars_folder = self.root / "png" / "cars" if simulation_type.startswith("cars") else None
        self.known_folder = None
        if missing_buildings:
            self.known_folder = self.root / "png" / f"buildings_missing{missing_buildings}" / str(MISSING_VARIANT)
        found = self._complete_scenes()
        chosen = select(self.root, split, sorted(found))[:max_samples]
        if not chosen:
            raise DataError(
                f"{self.root}: split {split!r} holds none of the {len(found)} scenes that are there; choose another split "
                "(data.train.split, data.validation.split), e.g. all, or list your own in splits/NAME.txt"
            )
        self.scenes = chosen
        self.names = [f"{m}_{t}" for m, t in chosen]
        self.report += f"; split {split}: {len(chosen)} scenes of {len({m for m, _ in chosen})} maps"
        log.info(self.report)

    def _complete_scenes(self) -> list[tuple[int, int]]:
        """(map, tx) of every scene whose files are all there; sets `report`."""
        if not self.gain_folder.is_dir():
            present = [s for s in SIMULATIONS if (self.root / "gain" / s).is_dir()]
            there = f"; there are: {', '.join(present)}" if present else "; is data_root a RadioMapSeer folder?"
            raise DataError(f"{self.gain_folder}: no such folder{there}")
        matches = (_NAME.fullmatch(path.name) for path in self.gain_folder.iterdir())
        scenes = [(int(m[1]), int(m[2])) for m in matches if m]
        antennas = self._stems(self.antenna_folder)
        needed = {"png/antennas": [s for s in scenes if f"{s[0]}_{s[1]}" not in antennas]}
        by_map = [self.building_folder, self.cars_folder, self.known_folder]
        for folder in filter(None, by_map):
            stems = self._stems(folder)
            needed[str(folder.relative_to(self.root))] = [s for s in scenes if str(s[0]) not in stems]
        incomplete = {scene for missing in needed.values() for scene in missing}
        lacks = [f"{len(missing)} lack {folder}" for folder, missing in needed.items() if missing]
        self.report = f"{self.root}: {len(scenes)} {self.simulation_type} maps" + (
            f", of which {', '.join(lacks)}" if lacks else ""
        )
        complete = [scene for scene in scenes if scene not in incomplete]
        if not complete:
            raise DataError(
                f"{self.report}: no complete scene" if scenes else f"{self.gain_folder}: holds no MAP_TX.png"
            )
        return complete

    def _stems(self, folder: Path) -> set[str]:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; RadioMapSeer has it")
        return {path.stem for path in folder.iterdir() if path.suffix == ".png"}

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Scene:
        """Read one scene.

        Raises:
            DataError: naming the file that is unreadable or of another size than its gain map.
        """
        map_id, _ = self.scenes[index]
        name = self.names[index]
        gain_path = self.gain_folder / f"{name}.png"
        gain = read_grey(gain_path)

        def picture(path: Path) -> np.ndarray:
            pixels = read_grey(path)
            if pixels.shape != gain.shape:
                raise DataError(
                    f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} px, {gain_path} {gain.shape[1]}x{gain.shape[0]}"
                )
            return pixels

        antenna_path = self.antenna_folder / f"{name}.png"
        return Scene(
            name=name,
            buildings=picture(self.building_folder / f"{map_id}.png") > 0,
            tx=transmitter_position(picture(antenna_path), antenna_path),
            gain=(gain / 255).astype(np.float32),
            cars=picture(self.cars_folder / f"{map_id}.png") > 0 if self.cars_folder else None,
            known_buildings=picture(self.known_folder / f"{map_id}.png") > 0 if self.known_folder else None,
        )

    def identity(self) -> dict[str, object]:
        """What is read, as JSON has it; another one as soon as a file of these scenes is changed."""
        maps = {str(map_id) for map_id, _ in self.scenes}
        by_map = [self.building_folder, *filter(None, (self.cars_folder, self.known_folder))]
        files = [folder / f"{name}.png" for folder in (self.gain_folder, self.antenna_folder) for name in self.names]
        files += [folder / f"{map_id}.png" for folder in by_map for map_id in sorted(maps)]
        return {"tree": str(self.root.resolve()), "scenes": digest(self.names), "files": file_digest(files)}
