"""Positions: the pixel of a map in which a position lies, and where a map lies on the earth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def pixel_of(position: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of the pixels at positions (..., 2) of x and y: floor(x + .5), halves go to the larger number."""
    column, row = np.moveaxis(np.floor(np.asarray(position, np.float64) + 0.5).astype(int), -1, 0)
    return row, column


@dataclass(frozen=True)
class Georeference:
    """How a map, one pixel per metre and north up, lies in the coordinates of a file of footprints."""

    x: float  # of the first pixel's centre
    y: float
    dx: float  # of one metre, in the unit of the coordinates
    dy: float
    degrees: bool  # whether they are longitude and latitude
    epsg: int | None = None  # of their system; None for one that has no number, or is unknown

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of the file -> column and row."""
        return (x - self.x) / self.dx, (self.y - y) / self.dy

    def text(self, column: float, row: float) -> str:
        """`X,Y` in the coordinates of the file, to about a decimetre."""
        places = 6 if self.degrees else 1
        return f"{self.x + column * self.dx:.{places}f},{self.y - row * self.dy:.{places}f}"


def extent(shape: tuple[int, int], georeference: Georeference | None) -> str:
    """What a map of this shape (H, W) spans, for messages: coordinates, or pixels where it has no georeference."""
    height, width = shape
    if georeference is None:
        return f"{width}x{height} px"
    return f"{georeference.text(0, height - 1)} .. {georeference.text(width - 1, 0)}"
