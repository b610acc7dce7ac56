"""How RadioMapSeer's files are registered to the map.

Measured on 2,720 maps of 34 cities (docs/data.md). The map's frame has x = column, y = row, and pixel centres at
whole numbers. In it, a point (x, y) of a file lies at:

    polygon/    x - 1, H - y; a pixel of the map is zero if its centre lies inside; see EDGE for its walls
    antenna/    x, H - 1 - y
    png/        x, y in antennas/; buildings lie half a pixel to the left of the outlines and below them; see cars.py for cars
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..errors import DataError
from ..files import read_json
from .layout import Layout
from .outlines import rings_from_mask

# Outlines are moved left and down by this, because corners are whole numbers and walls often run through pixel centres.
# Walls at 45 degrees that rise to the right stay where they are; centres on them are inside (layout.ON_WALL).
EDGE = 2.0**-12
ROOM = 4  # px of margin around an outline that is fitted
SWEEPS = 8  # passes over all corners of an outline
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
PICTURE = (0.5, -0.5)  # offset in x and y from a building picture's frame to the map's


def _points(value: Any, path: Path, what: str) -> np.ndarray:
    try:
        points = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        points = np.full(1, np.nan)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DataError(f"{path}: {what} is not a list of [x, y]")
    return points


def read_outlines(path: Path, shape: tuple[int, int]) -> Layout:
    """The layout in a file of polygon/, for a map of shape (H, W); DataError if it is not a list of closed rings inside it."""
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: holds no list of outlines")
    outlines = []
    for number, value in enumerate(content, 1):
        ring = _points(value, path, f"outline {number}")
        if len(ring) < 4 or (ring[0] != ring[-1]).any():
            raise DataError(f"{path}: outline {number} is not closed; its last point must repeat its first")
        if ring.min() < 0 or (ring > (shape[1] + 1, shape[0] + 1)).any():
            raise DataError(f"{path}: outline {number} reaches outside of the {shape[1]}x{shape[0]} px map")
        outlines.append(ring[:-1] * (1, -1) + (-1 - EDGE, shape[0] + EDGE))
    return Layout(outlines, shape)


def outlines_as_file(layout: Layout) -> list[list[list[float]]]:
    """The inverse of `read_outlines`: closed rings in the frame of polygon/; whole values are written as integers."""
    rings = []
    for ring in layout.outlines:
        x, y = ring[[*range(len(ring)), 0]].T
        points = np.column_stack([x + 1 + EDGE, layout.shape[0] - (y - EDGE)])
        rings.append([[int(v) if v == int(v) else v for v in point] for point in points.tolist()])
    return rings


def snap(ring: np.ndarray) -> np.ndarray:
    """An outline (N, 2) with its corners moved to whole metres of polygon/ and repeated corners dropped."""
    ring = np.round(ring)
    return ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] + (-EDGE, EDGE)


def picture_of(layout: Layout) -> np.ndarray:
    """(H, W) bool, a layout as in png/buildings_complete/: pixels more than half covered, offset by half a pixel."""
    aside = Layout([ring - PICTURE for ring in layout.outlines], layout.shape)
    return aside.coverage > 0.5


def fit_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines, in the map's frame, of one of RadioMapSeer's building pictures (H, W) bool.

    The fit looks for corners at whole metres that reproduce the picture. Different corners can draw the same picture, so that a
    wall may be a pixel off.
    """
    return [_fit(ring, mask) for ring in rings_from_mask(mask)]


def _fit(traced: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The outline (N, 2) in the map's frame, near one traced in the picture's, that best reproduces the picture."""
    low = np.floor(traced.min(axis=0)).astype(int) - ROOM
    side = int((np.ceil(traced.max(axis=0)).astype(int) + ROOM + 1 - low).max())
    window = slice(low[1] + side, low[1] + 2 * side), slice(low[0] + side, low[0] + 2 * side)  # of the padded picture
    picture, on_the_map = np.pad(mask, side)[window], np.pad(np.ones_like(mask), side)[window]

    def draw(ring: np.ndarray) -> np.ndarray:
        return Layout([ring - PICTURE - low], (side, side)).inside

    ring = snap(traced + PICTURE)
    drawn = draw(ring)
    band = ndimage.binary_dilation(drawn, iterations=3) & ~ndimage.binary_erosion(drawn, iterations=4) & on_the_map
    if picture[drawn & ~ndimage.binary_erosion(drawn, iterations=2)].mean() < 0.5:
        picture = ~picture  # a courtyard

    def wrong(ring: np.ndarray) -> int:
        return int((draw(ring) != picture)[band].sum())

    least = wrong(ring)
    for _ in range(SWEEPS):
        before = least
        for corner in range(len(ring)):
            for step in NEIGHBOURS:
                moved = ring.copy()
                moved[corner] += step
                count = wrong(moved)
                if count < least:
                    least, ring = count, moved
        if least == before and least > 1:
            longer = min(_with_a_corner_more(ring), key=wrong, default=ring)
            if wrong(longer) < least - 1:
                least, ring = wrong(longer), longer
        if least == before or least == 0:
            break
    return ring


def _with_a_corner_more(ring: np.ndarray) -> Iterator[np.ndarray]:
    for place, (start, end) in enumerate(zip(ring, np.roll(ring, -1, axis=0), strict=True), 1):
        if np.hypot(*(end - start)) >= 4:
            for fraction in (0.25, 0.5, 0.75):
                for step in ((0, 0), *NEIGHBOURS):
                    corner = start + np.round((end - start) * fraction) + step
                    yield np.insert(ring, place, corner, axis=0)


def read_antennas(path: Path, height: int) -> np.ndarray:
    """(N, 2) x, y of the transmitters in a file of antenna/, in the map's frame; a DataError names the file."""
    x, y = _points(read_json(path), path, "the file").T
    return np.column_stack([x, height - 1 - y])


def antennas_as_file(positions: Sequence[Sequence[float]], height: int) -> list[list[float]]:
    """The inverse of `read_antennas`."""
    return [[x, height - 1 - y] for x, y in positions]
