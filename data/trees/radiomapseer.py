"""The RadioMapSeer tree (Yapar et al., 2022), or any part of it, as scenes; docs/data.md lists its files.

Files are matched by name; registration.py knows how they are aligned. Outlines and antenna lists are preferred.
Without outlines, they are traced from the pictures, which are offset by half a pixel and cost accuracy. A scene needs
gain, buildings and transmitter; of a partial download, the complete scenes are used and the others counted.
"""

import os
import re
import threading
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
from .png import read_grey, read_map
from .splits import ORDERED_RULE, STANDARD_RULE, select

BUILDINGS, CARS = "buildings_complete", "cars"  # folders below polygon/ and png/
KINDS = (".png", ".json")  # of files
NAME = r"(0|[1-9]\d*)_(0|[1-9]\d*)"  # of a scene: CITY_TX
MISSING_VARIANT = 1  # of the six ways to leave buildings out; fixed, so that a scene has one condition
EXACTLY_OVER = 1e-5  # largest fraction of a map's energy inside an aligned picture; about .01 at half a pixel's offset
_fitting = threading.Lock()  # threads that read one layout's scenes wait for its outlines instead of fitting them too


class RadioMapSeer:
    """The scenes of one simulation type and split, sorted by city and transmitter; `scene(i)` reads one.

    Raises DataError if there is no such tree, simulation type or split, or no complete scene.
    """

    def __init__(
        self,
        data_root: str | Path,
        simulation_type: str = "DPM",  # a folder in gain/
        split: str = "all",  # see splits.py
        *,
        missing_buildings: int = 0,  # 1 to 4: left out of what the condition shows, not of the truth
        max_samples: int | None = None,  # use only the first scenes
    ):
        self.root, self.gains = Path(data_root), Path(data_root) / "gain" / simulation_type
        made = (self.root / "dataset.json").is_file()  # make_dataset.py's manifest
        self.truth, self.rule = ("simulated", ORDERED_RULE) if made else ("real", STANDARD_RULE)
        self.parts = {"layout": BUILDINGS}  # layout of a scene: its folder below polygon/ and png/
        if simulation_type.startswith("cars"):
            self.parts["cars"] = CARS
        if missing_buildings:
            self.parts["known"] = f"buildings_missing{missing_buildings}/{MISSING_VARIANT}"
        complete, found = self._complete()
        self.names = select(self.root, split, complete, self.rule)[:max_samples]
        self.scenes = [_numbers(name) for name in self.names]
        cities = len({city_id for city_id, _ in self.scenes})
        self.report = f"{found}; split {split}: {len(self.names)} scenes of {cities} cities"

    def _complete(self) -> tuple[list[str], str]:
        """Names of the complete scenes, sorted; what was found and what is missing."""
        found = self._stems(f"gain/{self.gains.name}", ".png")
        complete = sorted((name for name in found if re.fullmatch(NAME, name)), key=_numbers)
        if not complete:
            kinds = ", ".join(sorted(path.name for path in self.root.glob("gain/*/"))) or "nothing"
            raise DataError(f"{self.gains}: holds no maps CITY_TX.png; in gain/ there are: {kinds} (simulation_type)")
        report = f"{self.root}: {len(complete)} {self.gains.name} maps"
        needed = [("antenna", "png/antennas"), *((f"polygon/{part}", f"png/{part}") for part in self.parts.values())]
        for better, other in needed:
            known, count = self._stems(better), len(complete)
            present = known | self._stems(other)
            complete = [name for name in complete if {name, name.split("_")[0]} & present]
            report += f", {count - len(complete)} without {better} or {other}" if len(complete) < count else ""
            traced = {name.split("_")[0] for name in complete} - known if "buildings" in better else ()
            report += f"; {len(traced)} cities have {other} but no outlines" if traced else ""
        if not complete:
            raise DataError(f"{report}: no complete scene")
        return complete, report

    def _stems(self, folder: str, *suffixes: str) -> set[str]:
        """Names of the files with these suffixes in a folder, without them; .png and .json if none are given."""
        path = self.root / folder
        if not path.is_dir():
            return set()
        with os.scandir(path) as files:
            return {Path(file.name).stem for file in files if file.name.endswith(suffixes or KINDS) and file.is_file()}

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Scene:
        """Read one scene; raises DataError that names a file that is unreadable."""
        city_id, transmitter = self.scenes[index]
        gain = read_map(self.gains / f"{self.names[index]}.png")
        layouts: dict[str, Any] = {k: self.layout(city_id, part, gain.shape, gain) for k, part in self.parts.items()}
        tx = self._transmitter(city_id, transmitter, gain.shape)
        return Scene(self.names[index], tx=tx, gain=gain, truth=self.truth, **layouts)

    def identity(self) -> dict[str, object]:
        """What is read, in JSON types; changes when a file of these scenes changes."""
        pictures = (f"gain/{self.gains.name}", "png/antennas")
        files = [f"{folder}/{name}.png" for folder in pictures for name in self.names]
        for city_id in sorted({city_id for city_id, _ in self.scenes}):
            files.append(f"antenna/{city_id}.json")
            files += [file for part in self.parts.values() for file in layout_files(part, city_id)]
        return {"scenes": digest(self.names), "files": file_digest(self.root, files)}

    def layout(self, city_id: int, part: str, shape: tuple[int, int], gain: np.ndarray | None = None) -> Layout | None:
        """The layout in the folder `part` of polygon/, else of png/, or None; pictures cut from the map `gain` are not offset."""
        files = (self.root / file for file in layout_files(part, city_id))
        path = next(filter(Path.exists, files), None)
        if path is None:
            return None
        fit = path.suffix == ".png" and part != CARS
        if fit and gain is not None:
            power = gain.astype(np.float64) ** 2
            fit = power[read_grey(path, shape) > 0].sum() > EXACTLY_OVER * power.sum()
        return _layout(path, path.stat().st_mtime_ns, shape, part == CARS, fit)

    def _transmitter(self, city_id: int, transmitter: int, shape: tuple[int, int]) -> tuple[float, float]:
        """(x, y), listed, or the brightest pixel of a picture; the centre if several are equally bright."""
        path, x, y = self.root / f"antenna/{city_id}.json", np.nan, np.nan
        picture = self.root / f"png/antennas/{city_id}_{transmitter}.png"
        is_listed = path.exists()
        positions = read_antennas(path, shape[0]) if is_listed else ()
        if transmitter < len(positions):
            x, y = map(float, positions[transmitter])
        elif picture.exists() or not is_listed:
            path = picture
            antenna = read_grey(path, shape)
            rows, columns = np.nonzero(antenna == max(antenna.max(), 1))
            x, y = (float(columns.mean()), float(rows.mean())) if len(rows) else (np.nan, np.nan)
        if not (-0.5 <= x < shape[1] - 0.5 and -0.5 <= y < shape[0] - 0.5):
            raise DataError(f"{path}: shows no transmitter {transmitter} inside the {shape[1]}x{shape[0]} px map")
        return x, y


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split("_")))


def layout_files(part: str, city_id: int) -> list[str]:
    """Where a tree may have a layout, the best place first."""
    return [f"polygon/{part}/{city_id}.json", f"png/{part}/{city_id}.png"]


@lru_cache(64)  # consecutive scenes share their layout
def _layout(path: Path, state: int, shape: tuple[int, int], cars: bool, fit: bool) -> Layout:
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
def _fitted_outlines(path: Path, state: int) -> list[np.ndarray]:
    """`fit_outlines`, which takes a second, once per picture and process."""
    return fit_outlines(read_grey(path) > 0)
