"""Incomplete knowledge of a scene, and measured points: for training and for scoring.

The map is unchanged; the condition is degraded, and measured points can become a part of it. Everything is drawn from a
key, so that it depends only on the sample.
"""

from dataclasses import dataclass, replace

import numpy as np
import shapely

from .errors import DataError
from .geometry.layout import Layout
from .geometry.outlines import united
from .hashing import random_key
from .scene import Scene
from .units import GAIN_SPAN_DB


@dataclass(frozen=True)
class Incomplete:
    """How incomplete a scene's condition is; DataError for errors of measured points if there are no points."""

    points: int = 0  # maximum; about half of the scenes have fewer than its square root, some have none
    points_noise: float = 0.0  # standard deviation of a measured value's error, dB
    points_jitter: float = 0.0  # standard deviation of a point's position in each direction, m
    missing_buildings: int = 0  # maximum number left out of the condition
    outline_error: float = 0.0  # standard deviation of each building's shift in each direction, m
    transmitter_error: float = 0.0  # standard deviation of the transmitter's shift in each direction, m
    transmitter_unknown: float = 0.0  # fraction of the scenes whose condition does not show the transmitter
    cars_unknown: float = 0.0  # fraction of the scenes whose condition shows no cars
    exactly: bool = False  # as many points and buildings as given, not up to that many

    def __post_init__(self) -> None:
        if not self.points and (self.points_noise or self.points_jitter):
            raise DataError("data.incomplete.points_noise and points_jitter change measured points; set points, too")

    @property
    def without_points(self) -> "Incomplete":
        """The part that changes the scene."""
        return replace(self, points=0, points_noise=0.0, points_jitter=0.0)

    def shown(self, scene: Scene) -> Scene:
        """The scene with a degraded condition, which its name determines; the truth is unchanged."""
        if replace(self.without_points, exactly=False) == Incomplete():
            return scene
        rng = np.random.default_rng(random_key("incomplete", scene.name))
        missing = self.missing_buildings if self.exactly else rng.integers(self.missing_buildings + 1)
        shift = rng.normal(0, 1, 2) * self.transmitter_error
        tx_is_known = rng.random() >= self.transmitter_unknown
        layout = scene.shown
        if (missing or self.outline_error) and layout.outlines:
            buildings = _buildings(layout)
            kept = [buildings[number] for number in sorted(rng.permutation(len(buildings))[int(missing) :])]
            moved = zip(kept, rng.normal(0, 1, (len(kept), 2)) * self.outline_error, strict=True)
            if self.outline_error:  # buildings may overlap then
                shapes = ((outer + error, [ring + error for ring in inner]) for (outer, *inner), error in moved)
                layout = Layout(united([shapely.Polygon(*shape) for shape in shapes]), layout.shape)
            else:  # traced outlines are less certain than the picture
                fewer = Layout([ring for rings in kept for ring in rings], layout.shape)
                layout = fewer if layout.exact else Layout.traced(fewer.inside & layout.inside)
        tx_is_shown = tx_is_known and scene.tx is not None
        return replace(
            scene,
            known=layout,
            known_tx=layout.nearest_open((scene.tx[0] + shift[0], scene.tx[1] + shift[1])) if tx_is_shown else None,
            tx_is_known=tx_is_known,
            cars_are_known=bool(rng.random() >= self.cars_unknown),
            outlines_are_shifted=self.outline_error > 0,
        )

    def apply(self, scene: Scene) -> Scene:
        """`shown`, with `measurements` of its own map by its name's key; raises DataError for a ready-made condition."""
        self.require_drawn_conditions(scene.cond is not None, f"scene {scene.name}")
        scene = self.shown(scene)
        if not self.points or scene.gain is None:
            return scene
        rng = np.random.default_rng(random_key("measured", scene.name))
        return replace(scene, measurements=self.measure(scene.gain, rng))

    def require_drawn_conditions(self, ready_made: bool, what: str) -> None:
        """Raise DataError if there is something to do and the condition is ready-made."""
        if ready_made and replace(self, exactly=False) != Incomplete():
            raise DataError(f"{what}: has a ready-made condition, which data.incomplete cannot change")

    def measure(self, gain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Points of a map (H, W) where a signal is received, uniform over these pixels: (N, 3) float32 of x, y, level."""
        wanted = self.points if self.exactly else int((self.points + 2) ** rng.random()) - 1
        rows, columns = np.nonzero(gain > 0)
        chosen = rng.choice(len(rows), min(wanted, len(rows)), replace=False)
        value = gain[rows[chosen], columns[chosen]] + rng.normal(0, 1, len(chosen)) * self.points_noise / GAIN_SPAN_DB
        place = np.column_stack([columns, rows])[chosen] + rng.normal(0, 1, (len(chosen), 2)) * self.points_jitter
        place = place.clip(0, np.array(gain.shape[::-1]) - 1)
        return np.column_stack([place, value.clip(0, 1)]).astype(np.float32)


def _buildings(layout: Layout) -> list[list[np.ndarray]]:
    """The outlines by building: an outer ring, and its courtyards."""
    rings = layout.outlines
    tree = shapely.STRtree([shapely.Polygon(ring) for ring in rings])
    inner, outer = tree.query(shapely.points([ring[0] for ring in rings]), predicate="within")
    buildings = {number: [ring] for number, ring in enumerate(rings) if number not in inner}
    for number in np.unique(inner):
        around = [each for each in sorted(outer[inner == number]) if each in buildings]
        if around:
            buildings[around[0]].append(rings[number])
    return list(buildings.values())
