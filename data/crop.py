"""The square around the transmitter that the networks see, of a city of any size."""

from dataclasses import dataclass, replace

import numpy as np

from .errors import DataError
from .geometry.layout import cut
from .scene import Scene

SIDE = 256  # metres and pixels: the size of RadioMapSeer's maps


@dataclass
class Crop:
    """The part of a city that is predicted."""

    scene: Scene  # (side, side), the city inside the crop; open ground beyond the city
    city: Scene
    row: int  # of the crop's first pixel in the city
    column: int
    note: str  # what was done, in a few words; '' if the city fills the crop exactly

    def paste(self, values: np.ndarray) -> np.ndarray:
        """(side, side) -> (H, W) of the city, float32, NaN outside the crop."""
        placed = np.full(self.city.layout.shape, np.nan, np.float32)
        part = placed[self.row : self.row + values.shape[0], self.column : self.column + values.shape[1]]
        part[:] = values[: part.shape[0], : part.shape[1]]
        return placed


def crop(city: Scene, side: int = SIDE) -> Crop:
    """The `side` x `side` px of a city, and of its map, centred on its transmitter as far as the city's borders allow."""
    if city.tx is None:
        raise DataError(f"{city.name}: has no transmitter to cut a square around")
    height, width = city.layout.shape
    first = np.floor(np.array(city.tx) - side / 2 + 0.5).clip(0, np.maximum([width - side, height - side], 0))
    column, row = map(int, first)
    points = city.measurements
    if points is not None:
        points = points - np.array([column, row, 0], points.dtype)
        points = points[((points[:, :2] >= -0.5) & (points[:, :2] < side - 0.5)).all(1)]
    scene = replace(
        city,
        tx=(city.tx[0] - column, city.tx[1] - row),
        known_tx=city.known_tx and (city.known_tx[0] - column, city.known_tx[1] - row),
        measurements=points,
        layout=city.layout.crop(row, column, side),
        gain=None if city.gain is None else cut(city.gain, row, column, side),
        cars=city.cars and city.cars.crop(row, column, side),
        known=city.known and city.known.crop(row, column, side),
    )
    notes = []
    if height > side or width > side:
        notes.append(f"only the {min(side, width)} m x {min(side, height)} m around the transmitter are predicted")
    if height < side or width < side:
        notes.append(f"padded with open ground to {side} m x {side} m")
    return Crop(scene, city, row, column, "; ".join(notes))
