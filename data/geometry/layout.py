"""A city as outlines, from which its masks and covered areas are computed.

The frame is the map's: x = column, y = row, pixel centres at whole numbers; see registration.py for RadioMapSeer's files.
"""

from functools import cached_property

import numpy as np
from scipy import ndimage

from ..errors import DataError
from .georeference import pixel_of
from .outlines import rings_from_mask, segments_of

ON_WALL = 2.0**-20  # px; a pixel centre this close to a wall is inside
SUBROWS = 8  # scan lines per pixel row for the covered area, which is exact along each line


def cut(image: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    """The square of `side` px of an image (H, W) whose first pixel is (row, column); zero beyond the image."""
    part = image[row : row + side, column : column + side]
    return np.pad(part, [(0, side - length) for length in part.shape])


class Layout:
    """The buildings of a city, or its cars.

    Args:
        outlines: closed rings, (N, 2) float64 of x, y without a repeated first point; a ring inside another is a
            courtyard. None: traced from `inside` when needed, and slightly outside the walls: not `exact`.
        shape: (H, W) of the map.
        inside: (H, W) bool, the built pixels of a picture; None: pixels whose centre lies inside the outlines.
    """

    def __init__(self, outlines: list[np.ndarray] | None, shape: tuple[int, int], *, inside: np.ndarray | None = None):
        self.shape, self.exact = shape, outlines is not None
        if outlines is not None:
            self.outlines = outlines
        if inside is not None:
            self.inside = np.ascontiguousarray(inside, dtype=bool)

    @classmethod
    def traced(cls, mask: np.ndarray) -> "Layout":
        """The layout of a picture (H, W) bool in the map's frame; `inside` is the picture, and outlines are traced."""
        return cls(None, mask.shape, inside=mask)

    @cached_property
    def outlines(self) -> list[np.ndarray]:
        return rings_from_mask(self.inside)

    @cached_property
    def inside(self) -> np.ndarray:
        """(H, W) bool: pixels whose centre lies inside an outline, or within ON_WALL of it along its row."""
        height, width = self.shape
        line, x = self._crossings(np.arange(height, dtype=np.float64))
        sign = np.where(np.arange(len(x)) % 2, -1, 1)
        first = np.clip(np.ceil(x - ON_WALL * sign), 0, width).astype(int)  # the first column past the wall
        change = np.zeros((height, width + 1), int)
        np.add.at(change, (line, first), sign)
        return np.cumsum(change, axis=1)[:, :width] > 0

    @cached_property
    def coverage(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: fraction of each pixel's area that is covered."""
        height, width = self.shape
        line, x = self._crossings((np.arange(height * SUBROWS) + 0.5) / SUBROWS - 0.5)
        x = np.clip(x + 0.5, 0, width)  # measured from the left border of the first pixel
        sign = np.where(np.arange(len(x)) % 2, 1.0, -1.0)  # leaving adds the area to the left, entering subtracts it
        column = x.astype(int)
        area = np.zeros((height, width + 1))
        np.add.at(area, (line // SUBROWS, column), sign * (x - column))
        whole = np.zeros((height, width + 1))  # pixels to the left of a crossing count in full
        np.add.at(whole, (line // SUBROWS, column), sign)
        whole = np.cumsum(whole[:, ::-1], axis=1)[:, ::-1]
        return ((area[:, :width] + whole[:, 1:]) / SUBROWS).clip(0, 1).astype(np.float32)

    def _crossings(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where horizontal lines at y cross the outlines: (index of the line, x), sorted; even ones enter a building."""
        x0, y0, x1, y1 = segments_of(self.outlines).T
        line, edge = np.nonzero((y0 <= lines[:, None]) != (y1 <= lines[:, None]))
        x = x0[edge] + (lines[line] - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
        order = np.lexsort((x, line))
        return line[order], x[order]

    def nearest_open(self, position: tuple[float, float]) -> tuple[float, float]:
        """A position (x, y) moved onto the map and out of buildings, to the nearest open pixel; DataError if there is none."""
        x, y = np.clip(position, 0, np.subtract(self.shape[::-1], 1)).astype(float).tolist()
        pixel = pixel_of((x, y))
        if not self.inside[pixel]:
            return x, y
        if self.inside.all():
            raise DataError("buildings cover the whole map")
        nearest = ndimage.distance_transform_edt(self.inside, return_distances=False, return_indices=True)
        row, column = nearest[(slice(None), *pixel)]
        return float(column), float(row)

    def crop(self, row: int, column: int, side: int) -> "Layout":
        """The square of `side` px whose first pixel is (row, column); open ground beyond the map."""
        moved = [ring - (column, row) for ring in self.outlines] if self.exact else None
        return Layout(moved, (side, side), inside=cut(self.inside, row, column, side))
