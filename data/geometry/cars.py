"""RadioMapSeer's cars: rectangles of 2 x 4 m in any direction, whose corners are whole metres around a whole centre.

There are sixteen such outlines. Unlike buildings, cars have the same frame in their pictures and in the maps.
"""

from functools import cache
from itertools import count

import numpy as np
from scipy import ndimage

from .layout import Layout
from .outlines import rings_from_mask
from .registration import EDGE

LENGTH, WIDTH = 4, 2  # m
MANY, TURNED = 20, 4  # least numbers of cars, and of different outlines, in a picture of RadioMapSeer
STEPS = 200  # tries to split a blob into cars
SAMPLE = (-7 * EDGE, 4 * EDGE)  # from a pixel's centre, which often lies on an outline, to the point that is tested


def car_outline(centre: tuple[int, int], degrees: float) -> np.ndarray:
    """(4, 2) ring of a car at a whole (x, y), in the map's frame; at 0 degrees it is long in x."""
    angle = np.radians(degrees)
    along = LENGTH / 2 * np.array([np.cos(angle), np.sin(angle)])
    across = WIDTH / 2 * np.array([-np.sin(angle), np.cos(angle)])
    corners = np.array([along + across, along - across])
    corners = np.sign(corners) * np.floor(np.abs(corners) + 0.5)  # halves away from the centre
    return np.concatenate([corners, -corners]) + centre + (-EDGE, EDGE)


def picture_of_cars(cars: Layout) -> np.ndarray:
    """(H, W) bool, cars as in png/cars/."""
    return cars_of([ring - SAMPLE - (-EDGE, EDGE) for ring in cars.outlines], cars.shape).inside


def cars_of(outlines: list[np.ndarray], shape: tuple[int, int]) -> Layout:
    """The layout of cars, which may overlap; among buildings, an outline inside another one would be a courtyard."""
    inside = np.zeros(shape, bool)
    for ring in outlines:  # each in its own window
        column, row = np.maximum(np.floor(ring.min(axis=0)).astype(int), 0)
        last = np.ceil(ring.max(axis=0)).astype(int) + 1
        part = inside[row : max(last[1], 0), column : max(last[0], 0)]
        part |= Layout([ring - (column, row)], part.shape).inside
    return Layout(outlines, shape, inside=inside)


def cars_from_picture(mask: np.ndarray) -> Layout:
    """The cars of a picture (H, W) bool in the map's frame; blobs that are not sets of whole cars are traced."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    outlines, other = [], np.zeros_like(mask)
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        blob = labels[window] == number
        found = _whole_cars(blob)
        if found is None:
            other[window] |= blob
        else:
            outlines += [ring + (window[1].start, window[0].start) for ring in found]
    return cars_of(outlines + rings_from_mask(other), mask.shape)


def look_like_radiomapseer(cars: Layout) -> bool:
    """Whether cars read from a picture look like the dataset's: many, all of them whole, and in several directions."""
    if len(cars.outlines) < MANY or any(len(ring) != 4 for ring in cars.outlines):
        return False
    rings = np.array(cars.outlines) - (-EDGE, EDGE)
    directions = np.unique((rings - rings.mean(1, keepdims=True)).round().reshape(-1, 8), axis=0)
    return np.allclose(rings, rings.round(), atol=1e-6) and len(directions) >= TURNED


@cache
def _shapes() -> list[tuple[np.ndarray, np.ndarray]]:
    """(pixels, ring) of the sixteen outlines, largest first; the ring is relative to the pixels' first row and column."""
    found = {}
    for degrees in range(180):
        ring = car_outline((8, 8), degrees)
        drawn = picture_of_cars(Layout([ring], (16, 16)))
        rows, columns = ndimage.find_objects(drawn.astype(int))[0]
        pixels = drawn[rows, columns]
        found[pixels.tobytes(), pixels.shape] = pixels, ring - (columns.start, rows.start)
    return sorted(found.values(), key=lambda shape: -shape[0].sum())


def _whole_cars(blob: np.ndarray) -> list[np.ndarray] | None:
    """Rings of cars inside the blob (h, w) bool that together cover it; they may overlap. None if there are none."""
    steps = count(1)

    def cover(uncovered: np.ndarray) -> list[np.ndarray] | None:
        if not uncovered.any():
            return []
        for pixels, ring, (rows, columns) in _fitting(blob, uncovered):
            if next(steps) > STEPS:
                return None
            rest = uncovered.copy()
            rest[rows, columns] &= ~pixels
            others = cover(rest)
            if others is not None:
                return [ring + (columns.start, rows.start), *others]
        return None

    return cover(blob)


def _fitting(blob: np.ndarray, uncovered: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, tuple[slice, slice]]]:
    """Cars (pixels, ring, window) inside the blob over its first uncovered pixel, those that cover most first."""
    first = np.argwhere(uncovered)[0]
    found = []
    for pixels, ring in _shapes():
        for row, column in (first - np.argwhere(pixels)).tolist():
            window = slice(row, row + pixels.shape[0]), slice(column, column + pixels.shape[1])
            if min(row, column) >= 0 and blob[window].shape == pixels.shape and (blob[window] | ~pixels).all():
                found.append((pixels, ring, window))
    return sorted(found, key=lambda car: -(car[0] & uncovered[car[2]]).sum())
