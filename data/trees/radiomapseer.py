"""The RadioMapSeer tree (Yapar et al., 2022), or any part of it, as scenes.

    ROOT/gain/{DPM,IRT2,IRT4,carsDPM,carsIRT2,carsIRT4}/{map}_{tx}.png    grey levels, 0 inside buildings
    ROOT/polygon/buildings_complete/{map}.json                            outlines of the buildings
    ROOT/polygon/buildings_missing{1..4}/{1..6}/{map}.json                some buildings left out, six variants
    ROOT/polygon/cars/{map}.json                                          outlines of the cars
    ROOT/antenna/{map}.json                                               positions of a map's transmitters, in order
    ROOT/png/...                                                          pictures of these; antennas/{map}_{tx}.png

Files are matched by name; registration.py knows how they are aligned. Outlines and antenna lists are preferred.
Without outlines, they are traced from the pictures, which are offset by half a pixel and cost accuracy. A scene needs
gain, buildings and transmitter; of a partial download, the complete scenes are used and the others counted.
"""

import difflib
import logging
import re
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..geometry.layout import Layout
from ..geometry.registration import fit_outlines, read_antennas, read_outlines
from ..hashing import digest, file_digest
from ..scene import Scene, read_grey, transmitter_position
from .splits import select, spread

log = logging.getLogger("radiodiff")

SIMULATIONS = ("DPM", "IRT2", "IRT4", "carsDPM", "carsIRT2", "carsIRT4")
MISSING_VARIANT = 1  # of the six ways to leave buildings out; fixed, so that a scene has one condition
LAYOUTS_KEPT = 64  # cached in memory; consecutive scenes share their layout
ANOTHER_LAYOUT = 0.5  # if more of the pixels inside outlines have a gain, the outlines belong to another map
MEASURED = 8  # scenes that decide whether a tree's building pictures are aligned with its maps
EXACTLY_OVER = 1e-5  # largest share of the maps' energy inside aligned pictures; about .01 at half a pixel's offset
TRACING_COSTS = "they are fitted to png/, at about 2.5 times the error"
_NAME = re.compile(r"(\d+)_(\d+)\.png$")


def is_radiomapseer(root: Path) -> bool:
    """Whether a folder looks like a RadioMapSeer tree."""
    return (root / "gain").is_dir() or (root / "png").is_dir()


def check_root(data_root: str | Path) -> Path:
    """The folder as a Path; raises DataError that says what is wrong with it."""
    if str(data_root).startswith("path/to"):
        raise DataError(f"{data_root}: is a placeholder; set data_root to the folder of your data")
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (data_root)")
    return root


class RadioMapSeer:
    """The scenes of one simulation type and split; `scene(i)` reads one.

    Args:
        data_root: ROOT.
        simulation_type: one of SIMULATIONS.
        split: see splits.py.
        missing_buildings: 0, or 1..4 buildings left out of what the condition shows (not of the truth).
        max_samples: use only the first scenes.

    Attributes:
        names: of the scenes, sorted by map and transmitter.
        report: one line that says what was found and what is missing.

    Raises:
        DataError: no such tree, simulation type or split, or no complete scene.
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
        self.truth = "simulated" if (self.root / "dataset.json").is_file() else "real"  # make_dataset.py's manifest
        self.simulation_type = simulation_type
        self.gain_folder = self.root / "gain" / simulation_type
        self.parts = {"layout": "buildings_complete"}  # layout of a scene: its folder below polygon/ and png/
        if simulation_type.startswith("cars"):
            self.parts["cars"] = "cars"
        if missing_buildings:
            self.parts["known"] = f"buildings_missing{missing_buildings}/{MISSING_VARIANT}"
        self._open_caches()
        found = self._complete_scenes()
        chosen = select(self.root, split, sorted(found))[:max_samples]
        if not chosen:
            raise DataError(
                f"{self.root}: split {split!r} holds none of the {len(found)} scenes that are there; choose another "
                "split (data.train.split, data.validation.split), e.g. all, or list your own in splits/NAME.txt"
            )
        self.scenes = chosen
        self.names = [f"{m}_{t}" for m, t in chosen]
        self.pictures_lie_over_maps = self._pictures_lie_over_maps()
        self.report += f"; split {split}: {len(chosen)} scenes of {len({m for m, _ in chosen})} maps"
        log.info(self.report)

    def _complete_scenes(self) -> list[tuple[int, int]]:
        """(map, tx) of every scene whose files are all present; sets `report`."""
        if not self.gain_folder.is_dir():
            present = [s for s in SIMULATIONS if (self.root / "gain" / s).is_dir()]
            there = f"; there are: {', '.join(present)}" if present else "; is data_root a RadioMapSeer folder?"
            raise DataError(f"{self.gain_folder}: no such folder{there}")
        matches = (_NAME.fullmatch(path.name) for path in self.gain_folder.iterdir())
        scenes = [(int(m[1]), int(m[2])) for m in matches if m]
        listed, drawn = self._stems("antenna", ".json"), self._stems("png/antennas", ".png")
        lacking = {"antenna": [s for s in scenes if str(s[0]) not in listed and f"{s[0]}_{s[1]}" not in drawn]}
        self.outlines: dict[str, set[str]] = {}
        traced: set[str] = set()
        for part in self.parts.values():
            self.outlines[part] = self._stems(f"polygon/{part}", ".json")
            pictures = self._stems(f"png/{part}", ".png")
            lacking[part] = [s for s in scenes if str(s[0]) not in self.outlines[part] | pictures]
            traced |= {str(s[0]) for s in scenes if str(s[0]) in pictures - self.outlines[part]}
        for part, without in lacking.items():
            if scenes and len(without) == len(scenes):
                raise DataError(f"{self.root}: has neither {self._folders(part)}; RadioMapSeer has both")
        incomplete = {scene for without in lacking.values() for scene in without}
        lacks = [f"{len(without)} lack {self._folders(part)}" for part, without in lacking.items() if without]
        self.report = f"{self.root}: {len(scenes)} {self.simulation_type} maps" + (
            f", of which {', '.join(lacks)}" if lacks else ""
        )
        if traced:
            self.report += f"; {len(traced)} layouts have no outlines (polygon/): {TRACING_COSTS}"
        complete = [scene for scene in scenes if scene not in incomplete]
        if not complete:
            raise DataError(
                f"{self.report}: no complete scene" if scenes else f"{self.gain_folder}: holds no MAP_TX.png"
            )
        return complete

    def _stems(self, folder: str, suffix: str) -> set[str]:
        """Names of the files in a folder with this suffix; empty if there is no such folder."""
        path = self.root / folder
        return {file.stem for file in path.iterdir() if file.suffix == suffix} if path.is_dir() else set()

    @staticmethod
    def _folders(part: str) -> str:
        return "antenna/ nor png/antennas/" if part == "antenna" else f"polygon/{part} nor png/{part}"

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Scene:
        """Read one scene.

        Raises:
            DataError: names the file that is unreadable or does not belong to its gain map.
        """
        map_id, transmitter = self.scenes[index]
        name = self.names[index]
        path = self.gain_folder / f"{name}.png"
        gain = read_grey(path)
        layouts = {key: self._layouts(part, map_id, gain.shape) for key, part in self.parts.items()}
        layout, guessed = layouts["layout"], str(map_id) not in self.outlines["buildings_complete"]
        if not guessed and layout.inside.any() and (gain[layout.inside] > 0).mean() > ANOTHER_LAYOUT:
            raise DataError(
                f"{self._file('polygon', 'buildings_complete', map_id)}: outlines of another layout; "
                f"{path} has gain inside them"
            )
        tx = self._transmitter(map_id, transmitter, gain.shape)
        return Scene(
            name,
            layout,
            tx,
            (gain / 255).astype(np.float32),
            cars=layouts.get("cars"),
            known=layouts.get("known"),
            outlines_are_guessed=guessed,
            truth=self.truth,
        )

    def picture(self, index: int) -> np.ndarray | None:
        """The building picture of a scene, (H, W) bool as stored, offset by half a pixel; None if there is none."""
        path = self._file("png", "buildings_complete", self.scenes[index][0])
        return read_grey(path) > 0 if path.exists() else None

    def _file(self, kind: str, part: str, map_id: int) -> Path:
        return self.root / kind / part / f"{map_id}.{'json' if kind == 'polygon' else 'png'}"

    def _read_layout(self, part: str, map_id: int, shape: tuple[int, int]) -> Layout:
        """From its outlines if there are any, else traced from the picture."""
        if str(map_id) in self.outlines[part]:
            return read_outlines(self._file("polygon", part, map_id), shape)
        path = self._file("png", part, map_id)
        mask = _of_shape(read_grey(path), path, shape) > 0
        return Layout.traced(mask) if self.pictures_lie_over_maps else Layout(self._fitted_outlines(path, mask), shape)

    def _fitted_outlines(self, path: Path, mask: np.ndarray) -> list[np.ndarray]:
        """`fit_outlines`, which takes a second, run once per picture and process."""
        with self._fitting:
            if path not in self._fitted:
                self._fitted[path] = fit_outlines(mask)
            return self._fitted[path]

    def _pictures_lie_over_maps(self) -> bool:
        """Whether a tree's building pictures are aligned with its maps; RadioMapSeer's are offset by half a pixel."""
        traced = [scene for scene in self.scenes if str(scene[0]) not in self.outlines["buildings_complete"]]
        inside = total = 0.0
        for place in spread(len(traced), MEASURED):
            map_id, transmitter = traced[place]
            path = self._file("png", "buildings_complete", map_id)
            try:
                gain = read_grey(self.gain_folder / f"{map_id}_{transmitter}.png").astype(np.float64) ** 2
                inside += float(gain[_of_shape(read_grey(path), path, gain.shape) > 0].sum())
            except DataError:  # reported when the scene is read
                continue
            total += float(gain.sum())
        return total > 0 and inside <= EXACTLY_OVER * total

    def _transmitter(self, map_id: int, transmitter: int, shape: tuple[int, int]) -> tuple[float, float]:
        listed = self.root / "antenna" / f"{map_id}.json"
        if not listed.exists():
            path = self.root / "png" / "antennas" / f"{map_id}_{transmitter}.png"
            return transmitter_position(_of_shape(read_grey(path), path, shape), path)
        positions = self._antennas(listed, shape[0])
        if transmitter >= len(positions):
            raise DataError(f"{listed}: lists {len(positions)} transmitters; gain/ has a map of number {transmitter}")
        x, y = (float(value) for value in positions[transmitter])
        if not (-0.5 <= x < shape[1] - 0.5 and -0.5 <= y < shape[0] - 0.5):
            raise DataError(f"{listed}: transmitter {transmitter} is outside of the {shape[1]}x{shape[0]} px map")
        return x, y

    def _open_caches(self) -> None:
        self._layouts = lru_cache(LAYOUTS_KEPT)(self._read_layout)
        self._antennas = lru_cache(LAYOUTS_KEPT)(read_antennas)
        self._fitted: dict[Path, list[np.ndarray]] = {}
        self._fitting = threading.Lock()

    def __getstate__(self) -> dict:
        """For workers that are not forked: caches and locks are not copied."""
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("_layouts", "_antennas", "_fitted", "_fitting")
        }

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_caches()

    def identity(self) -> dict[str, object]:
        """What is read, in JSON types; changes when a file of these scenes changes."""
        maps = sorted({map_id for map_id, _ in self.scenes})
        files = [self.gain_folder / f"{name}.png" for name in self.names]
        files += [self.root / "png" / "antennas" / f"{name}.png" for name in self.names]
        files += [self.root / "antenna" / f"{map_id}.json" for map_id in maps]
        files += [
            self._file(kind, part, m) for kind in ("polygon", "png") for part in self.parts.values() for m in maps
        ]
        return {
            "tree": str(self.root.resolve()),
            "scenes": digest(self.names),
            "files": file_digest(path for path in files if path.exists()),
        }


def _of_shape(pixels: np.ndarray, path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The picture itself; raises DataError if its size is not its map's."""
    if pixels.shape != shape:
        raise DataError(f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} px, its gain map {shape[1]}x{shape[0]}")
    return pixels
