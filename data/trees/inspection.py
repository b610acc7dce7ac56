"""What is odd about the scenes of a tree, found before hours are spent on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..geometry.pixels import pixel_of
from ..scene import Scene
from ..units import NOISE_FLOOR

LEVELS = 256
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


@dataclass
class Statistics:
    """Of scenes that are added one by one, so that memory is enough for a large tree.

    Attributes:
        scenes: their number.
        sides: of the maps, in pixels.
        shapes, low, high: of the ready-made conditions, and their smallest and largest value.
        energy, inside: of the maps, and of it where they should be zero.
        levels: open pixels by grey level.
    """

    scenes: int = 0
    sides: set[int] = field(default_factory=set)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    low: float = np.inf
    high: float = -np.inf
    energy: float = 0.0
    inside: float = 0.0
    levels: np.ndarray = field(default_factory=lambda: np.zeros(LEVELS, np.int64))

    def add(self, scene: Scene) -> None:
        self.scenes += 1
        self.sides.add(len(scene.gain))
        self.levels += np.histogram(scene.gain[~scene.buildings], LEVELS, (0, 1))[0]
        power = scene.gain.astype(np.float64) ** 2
        self.energy, self.inside = self.energy + power.sum(), self.inside + power[scene.ori_mask].sum()
        if scene.cond is not None:
            self.shapes.add(scene.cond.shape)
            self.low, self.high = min(self.low, scene.cond.min()), max(self.high, scene.cond.max())

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"opened {self.scenes} scenes; sizes: {', '.join(f'{side}x{side}' for side in sorted(self.sides))} px"
        if self.shapes:
            yield f"conditions: {', '.join(map(str, sorted(self.shapes)))}, from {self.low:.4g} to {self.high:.4g}"
        if max(-self.low, self.high) > 1:
            yield "warning: conditions leave [-1, 1]; training uses them unchanged; order 1 is best"
        if len(self.shapes) > 1:
            yield "warning: conditions have several shapes; all must be data.cond_channels x data.cond_size x data.cond_size"
        fraction = self.inside / max(self.energy, 1e-12)
        yield f"registration: {fraction:.2%} of the maps' energy lies inside the buildings, where they should be zero"
        if fraction > NO_ENERGY:
            yield (
                "warning: the buildings do not lie over the maps; predictions will be dark along walls. Are they offset, "
                "or polygon/ or png/ of another data set?"
            )
        below = np.cumsum(self.levels) / max(self.levels.sum(), 1)
        five, half, most = (np.searchsorted(below, part) / LEVELS for part in (0.05, 0.5, 0.95))
        floor = below[int(NOISE_FLOOR * LEVELS) - 1]
        yield f"levels of open pixels: median {half:.2f}, 5 to 95 % {five:.2f} to {most:.2f}; {floor:.1%} below the noise floor"
