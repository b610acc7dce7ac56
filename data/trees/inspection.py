"""What is in a tree and what is odd about it, found before hours are spent on it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_erosion
from tqdm import tqdm

from ..errors import DataError
from ..geometry.pixels import pixel_of
from ..scene import Scene
from ..units import NOISE_FLOOR, gain_to_db
from .folder import FlatTree
from .radiomapseer import RadioMapSeer
from .splits import spread

AT_ONCE = 256  # scenes in memory: a pool would read ahead without limit
BINS = 10
NO_ENERGY = 1e-3  # a larger fraction of the maps' energy where they should be zero gives a warning


def oddities(scene: Scene) -> Iterator[str]:
    """Whatever does not look like a radio map, in a few words each."""
    inside, built = scene.gain[scene.ori_mask], scene.buildings.mean()
    if not scene.gain.any():
        yield "the map is black everywhere"
    elif inside.size and (inside > 0).mean() > 0.01:
        yield f"{(inside > 0).mean():.0%} of the pixels inside buildings have a gain; they are zero in RadioMapSeer"
    elif scene.tx is not None and scene.gain[pixel_of(scene.tx)] < scene.gain.max() - 0.05:
        yield "the strongest level is not at the transmitter"
    if scene.tx is not None and scene.buildings[pixel_of(scene.tx)]:
        yield "the transmitter is inside a building"
    if built > 0.9 or (built == 0 and scene.cond is None):
        yield f"buildings cover {built:.0%}"


class Registration:
    """How buildings are aligned with the maps: fractions of the maps' energy inside buildings, and zeros in the open."""

    PICTURE, CERTAIN, INNER = PLACES = ("png/buildings_complete", "what is certain", "the same without its border")

    def __init__(self) -> None:
        self.energy, self.total = dict.fromkeys(self.PLACES, 0.0), dict.fromkeys(self.PLACES, 0.0)
        self.open = self.zeros = 0

    def add(self, scene: Scene, picture: np.ndarray | None) -> None:
        """Add a scene and its building picture (H, W) bool, if there is one."""
        power = scene.gain.astype(np.float64) ** 2
        places = {self.CERTAIN: scene.ori_mask, self.INNER: binary_erosion(scene.ori_mask)}
        if picture is not None and picture.shape == power.shape:
            places[self.PICTURE] = picture
        for name, where in places.items():
            self.energy[name] += float(power[where].sum())
            self.total[name] += float(power.sum())
        self.open += int((~scene.buildings).sum())
        self.zeros += int((scene.gain[~scene.buildings] == 0).sum())

    def lines(self) -> list[str]:
        """The measurement, and a warning if it differs from RadioMapSeer's."""
        fraction = {name: self.energy[name] / max(self.total[name], 1e-12) for name in self.PLACES}
        measured = ", ".join(f"{fraction[name]:.2%} inside {name}" for name in self.PLACES if self.total[name])
        outage = self.zeros / max(self.open, 1)
        lines = [f"registration: of the maps' energy {measured}; {outage:.2%} of the open pixels are zero (outage)"]
        if fraction[self.INNER] > NO_ENERGY:
            lines.append(
                "warning: the buildings do not lie over the maps, not even within a pixel; "
                "are polygon/ or png/ of another data set?"
            )
        elif fraction[self.CERTAIN] > NO_ENERGY:
            lines.append(
                "warning: the buildings are offset by a pixel or less from the maps; predictions will be dark along walls"
            )
        return lines


@dataclass
class Findings:
    """Statistics of opened scenes, collected scene by scene, so that memory is enough for a large tree.

    Attributes:
        opened: number of scenes read.
        problems: one line per oddity.
        shown: some scenes, spread over the tree.
        sides: of the maps, in pixels.
        conditions: shapes of the ready-made conditions.
        extremes: smallest and largest value of each of them.
        counts, below_floor: open pixels by level, and below the noise floor.
    """

    opened: int = 0
    problems: list[str] = field(default_factory=list)
    shown: list[Scene] = field(default_factory=list)
    sides: set[int] = field(default_factory=set)
    conditions: set[tuple[int, ...]] = field(default_factory=set)
    extremes: list[tuple[float, float]] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    below_floor: int = 0
    registration: Registration = field(default_factory=Registration)

    def add(self, scene: Scene, path: object, picture: np.ndarray | None) -> None:
        """Add a scene, its file, and its building picture if there is one."""
        self.opened += 1
        self.problems += [f"{path}: {text}" for text in oddities(scene)]
        self.sides.add(len(scene.gain))
        levels = scene.gain[~scene.buildings]
        self.counts += np.histogram(levels, BINS, (0, 1))[0]
        self.below_floor += int((levels < NOISE_FLOOR).sum())
        if scene.cond is None:
            self.registration.add(scene, picture)
        else:
            self.conditions.add(scene.cond.shape)
            self.extremes.append((float(scene.cond.min()), float(scene.cond.max())))

    def lines(self) -> list[str]:
        """The report."""
        if not self.opened:
            return []
        lines = [f"opened {self.opened} scenes; sizes: {', '.join(f'{side}x{side}' for side in sorted(self.sides))} px"]
        if self.conditions:
            shapes, extremes = ", ".join(map(str, sorted(self.conditions))), np.array(self.extremes)
            lines.append(f"conditions: {shapes}, from {extremes.min():.4g} to {extremes.max():.4g}")
            outside = int((np.abs(extremes) > 1).any(1).sum())
            if outside:
                lines.append(
                    f"warning: {outside} conditions leave [-1, 1]; training uses them unchanged; order 1 is best"
                )
        else:
            lines += self.registration.lines()
        total, edges = max(int(self.counts.sum()), 1), np.linspace(0, 1, BINS + 1)
        lines.append("levels of open pixels:")
        for count, (low, high) in zip(self.counts, pairwise(edges), strict=True):
            bar = "#" * round(60 * count / total)
            lines.append(f"  {low:.1f} .. {high:.1f} (from {gain_to_db(low):6.1f} dB)  {count / total:6.1%}  {bar}")
        return [*lines, f"  below the noise floor of {NOISE_FLOOR}: {self.below_floor / total:.1%}"]


def inspect_tree(source: RadioMapSeer | FlatTree, indices: Sequence[int], shown: int) -> Findings:
    """Open scenes, several at a time, and keep `shown` of them."""
    findings = Findings()
    kept = {indices[place] for place in spread(len(indices), shown)}

    def open_one(index: int) -> tuple[Scene | DataError, np.ndarray | None]:
        found = None
        try:
            found = source.scene(index)
            return found, source.picture(index) if isinstance(source, RadioMapSeer) else None
        except DataError as error:  # a picture is not needed: the scene has outlines
            return found or error, None

    with ThreadPoolExecutor() as pool, tqdm(total=len(indices), desc="opening", unit="scene", mininterval=1.0) as bar:
        for first in range(0, len(indices), AT_ONCE):
            part = indices[first : first + AT_ONCE]
            for index, (scene, picture) in zip(part, pool.map(open_one, part), strict=True):
                bar.update()
                if isinstance(scene, DataError):
                    findings.problems.append(str(scene))
                    continue
                findings.add(scene, source.path(index), picture)
                findings.shown += [scene] if index in kept else []
    if len(findings.conditions) > 1:
        one = "all must be data.cond_channels x data.cond_size x data.cond_size"
        findings.problems.append(f"conditions have several shapes; {one}")
    return findings
