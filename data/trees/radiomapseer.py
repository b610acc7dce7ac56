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

import logging
import threading
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..geometry.cars import cars_from_picture, cars_of
from ..geometry.layout import Layout
from ..geometry.registration import fit_outlines, read_antennas, read_outlines
from ..hashing import digest, file_digest
from ..scene import Scene
from .listing import BUILDINGS, CARS, SIMULATIONS, TreePaths, check_root, list_scenes
from .png import read_grey, read_map, transmitter_position
from .splits import ORDERED_RULE, STANDARD_RULE, select, spread

log = logging.getLogger("radiodiff")

MISSING_VARIANT = 1  # of the six ways to leave buildings out; fixed, so that a scene has one condition
LAYOUTS_KEPT = 64  # cached in memory; consecutive scenes share their layout
ANOTHER_LAYOUT = 0.5  # if more of the pixels inside outlines have a gain, the outlines belong to another map
MEASURED = 8  # scenes that decide whether a tree's building pictures are aligned with its maps
EXACTLY_OVER = 1e-5  # largest fraction of the maps' energy inside aligned pictures; about .01 at half a pixel's offset
_fitting = threading.Lock()  # threads that read one layout's scenes wait for its outlines instead of fitting them too


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
        scenes: (map, transmitter) of each.
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
            near = [f"did you mean {name}? " for name in get_close_matches(simulation_type, SIMULATIONS, 1, 0.5)]
            choice = f"{''.join(near)}choose from {', '.join(SIMULATIONS)}"
            raise DataError(f"simulation_type {simulation_type!r} is unknown; {choice}")
        if not 0 <= missing_buildings <= 4:
            raise DataError(f"missing_buildings is {missing_buildings}; RadioMapSeer has 0 to 4")
        made = (self.root / "dataset.json").is_file()  # make_dataset.py's manifest
        self.truth, self.rule = ("simulated", ORDERED_RULE) if made else ("real", STANDARD_RULE)
        self.paths = TreePaths(self.root, simulation_type)
        self.parts = {"layout": BUILDINGS}  # layout of a scene: its folder below polygon/ and png/
        if simulation_type.startswith("cars"):
            self.parts["cars"] = CARS
        if missing_buildings:
            self.parts["known"] = f"buildings_missing{missing_buildings}/{MISSING_VARIANT}"
        complete, self.outlined, found = list_scenes(self.paths, self.parts.values())
        self.names = select(self.root, split, list(complete), self.rule)[:max_samples]
        self.scenes = [complete[name] for name in self.names]
        self.pictures_lie_over_maps = self._pictures_lie_over_maps()
        maps = len({map_id for map_id, _ in self.scenes})
        self.report = f"{found}; split {split}: {len(self.names)} scenes of {maps} maps"
        log.info(self.report)

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Scene:
        """Read one scene.

        Raises:
            DataError: names the file that is unreadable or does not belong to its gain map.
        """
        map_id, transmitter = self.scenes[index]
        path = self.path(index)
        gain = read_map(path)
        layouts: dict[str, Any] = {key: self._layout(map_id, part, gain.shape) for key, part in self.parts.items()}
        layout, guessed = layouts["layout"], str(map_id) not in self.outlined[BUILDINGS]
        if not guessed and layout.inside.any() and (gain[layout.inside] > 0).mean() > ANOTHER_LAYOUT:
            raise DataError(f"{self.paths.outlines(map_id)}: outlines of another layout; {path} has gain inside them")
        tx, levels = self._transmitter(map_id, transmitter, gain.shape), (gain / 255).astype(np.float32)
        scene = Scene(self.names[index], layout, tx, levels, truth=self.truth, outlines_are_guessed=guessed)
        scene.cars, scene.known = layouts.get("cars"), layouts.get("known")
        return scene

    def path(self, index: int) -> Path:
        """The file of a scene's map."""
        return self.paths.gain(self.names[index])

    def picture(self, index: int) -> np.ndarray | None:
        """The building picture of a scene, (H, W) bool as stored, offset by half a pixel; None if there is none."""
        path = self.paths.picture(self.scenes[index][0])
        return read_grey(path) > 0 if path.exists() else None

    def cars(self, map_id: int, shape: tuple[int, int]) -> Layout | None:
        """The cars of a map of shape (H, W), whatever the simulation type; None if the tree does not show them."""
        for path in (self.paths.outlines(map_id, CARS), self.paths.picture(map_id, CARS)):
            if path.exists():
                return _layout(path, _state(path), shape, cars=True, fit=False)
        return None

    def identity(self) -> dict[str, object]:
        """What is read, in JSON types; changes when a file of these scenes changes."""
        maps = sorted({map_id for map_id, _ in self.scenes})
        files = [place(name) for place in (self.paths.gain, self.paths.antenna_picture) for name in self.names]
        files += map(self.paths.antennas, maps)
        kinds = (self.paths.outlines, self.paths.picture)
        files += [kind(map_id, part) for kind in kinds for part in self.parts.values() for map_id in maps]
        return {
            "tree": str(self.root.resolve()),
            "scenes": digest(self.names),
            "files": file_digest(path for path in files if path.exists()),
        }

    def _layout(self, map_id: int, part: str, shape: tuple[int, int]) -> Layout:
        """From its outlines if there are any, else traced from the picture."""
        outlined = str(map_id) in self.outlined[part]
        path = self.paths.outlines(map_id, part) if outlined else self.paths.picture(map_id, part)
        return _layout(path, _state(path), shape, part == CARS, fit=not self.pictures_lie_over_maps)

    def _transmitter(self, map_id: int, transmitter: int, shape: tuple[int, int]) -> tuple[float, float]:
        path = self.paths.antennas(map_id)
        if not path.exists():
            path = self.paths.antenna_picture(f"{map_id}_{transmitter}")
            return transmitter_position(read_grey(path, shape), path)
        positions = _antennas(path, _state(path), shape[0])
        if transmitter >= len(positions):
            raise DataError(f"{path}: lists {len(positions)} transmitters; gain/ has a map of number {transmitter}")
        x, y = (float(value) for value in positions[transmitter])
        if not (-0.5 <= x < shape[1] - 0.5 and -0.5 <= y < shape[0] - 0.5):
            raise DataError(f"{path}: transmitter {transmitter} is outside of the {shape[1]}x{shape[0]} px map")
        return x, y

    def _pictures_lie_over_maps(self) -> bool:
        """Whether a tree's building pictures are aligned with its maps; RadioMapSeer's are offset by half a pixel."""
        traced = [place for place, (map_id, _) in enumerate(self.scenes) if str(map_id) not in self.outlined[BUILDINGS]]
        inside = total = 0.0
        for place in spread(len(traced), MEASURED):
            index = traced[place]
            try:
                gain = read_grey(self.path(index)).astype(np.float64) ** 2
                buildings = read_grey(self.paths.picture(self.scenes[index][0]), gain.shape) > 0
            except DataError:  # reported when the scene is read
                continue
            inside += float(gain[buildings].sum())
            total += float(gain.sum())
        return total > 0 and inside <= EXACTLY_OVER * total


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when a file does; None if it is not there, which its reader reports."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(LAYOUTS_KEPT)
def _layout(path: Path, state: object, shape: tuple[int, int], cars: bool, fit: bool) -> Layout:
    """The layout in a file of polygon/ or png/; its outlines are fitted to a picture that does not lie over the map."""
    if path.suffix == ".json":
        layout = read_outlines(path, shape)
        return cars_of(layout.outlines, shape) if cars else layout
    mask = read_grey(path, shape) > 0
    if cars:
        return cars_from_picture(mask)
    if not fit:
        return Layout.traced(mask)
    with _fitting:
        return Layout(_fitted_outlines(path, state), shape)


@lru_cache(None)
def _fitted_outlines(path: Path, state: object) -> list[np.ndarray]:
    """`fit_outlines`, which takes a second, once per picture and process."""
    return fit_outlines(read_grey(path) > 0)


@lru_cache(LAYOUTS_KEPT)
def _antennas(path: Path, state: object, height: int) -> np.ndarray:
    return read_antennas(path, height)
