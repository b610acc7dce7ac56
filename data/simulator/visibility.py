"""Visibility: intersection tests between rays and wall segments (geometry/walls.py)."""

import numpy as np
from numba import njit

TOUCH = 0.02  # px within which an end of a ray is at a corner


@njit(cache=True, nogil=True)
def crosses(segments, s, x0, y0, dx, dy, first, last):
    """Whether wall `s` crosses the ray (x0, y0) + t (dx, dy) at some t between `first` and `last`.

    A ray may begin or end at a corner: an end of the ray within TOUCH of an end of the wall is no crossing.
    """
    ax, ay = segments[s, 0], segments[s, 1]
    bx, by = segments[s, 2] - ax, segments[s, 3] - ay
    cross = dx * by - dy * bx
    if cross == 0:
        return False
    t = ((ax - x0) * by - (ay - y0) * bx) / cross
    if not first < t < last:
        return False
    u = ((ax - x0) * dy - (ay - y0) * dx) / cross
    if not -1e-9 <= u <= 1 + 1e-9:
        return False
    return min(t, 1 - t) * np.hypot(dx, dy) > TOUCH or min(u, 1 - u) * np.hypot(bx, by) > TOUCH


@njit(cache=True, nogil=True)
def blocking_wall(walls, x0, y0, x1, y1, begin, end, guess):
    """Index of a wall that crosses the segment from (x0, y0) to (x1, y1), less `begin` and `end` px at its ends, or -1.

    Walks the pixels along the segment (Amanatides & Woo, 1987) and tests the walls listed there exactly. `guess` is a
    wall to try first, -1 for none: the one that blocked a neighbouring ray saves most of the walks.
    """
    dx, dy = x1 - x0, y1 - y0
    length = np.hypot(dx, dy)
    if length <= begin + end:
        return -1
    first, last = begin / length, 1 - end / length
    segments, start, items = walls.segments, walls.start, walls.items
    if guess >= 0 and crosses(segments, guess, x0, y0, dx, dy, first, last):
        return guess
    column, row = int(np.floor(x0 + 0.5)), int(np.floor(y0 + 0.5))
    step_x, step_y = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    per_x = abs(1.0 / dx) if dx != 0 else 1e18  # fraction of the segment per pixel
    per_y = abs(1.0 / dy) if dy != 0 else 1e18
    next_x = ((column + 0.5 * step_x) - x0) / dx if dx != 0 else 1e18
    next_y = ((row + 0.5 * step_y) - y0) / dy if dy != 0 else 1e18
    cells = abs(int(np.floor(x1 + 0.5)) - column) + abs(int(np.floor(y1 + 0.5)) - row) + 1
    for _ in range(cells):
        if 0 <= column < walls.width and 0 <= row < walls.height:
            cell = row * walls.width + column
            for k in range(start[cell], start[cell + 1]):
                if crosses(segments, items[k], x0, y0, dx, dy, first, last):
                    return items[k]
        if next_x < next_y:
            column += step_x
            next_x += per_x
        else:
            row += step_y
            next_y += per_y
    return -1
