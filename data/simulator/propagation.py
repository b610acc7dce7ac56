"""Dominant-path propagation in two dimensions, with a law for paths over the roofs.

Follows the dominant path model (Woelfle & Landstorfer, 1998) with constants fitted to RadioMapSeer's DPM maps. D is
the unfolded length of a path in m, at least 1; losses are in dB below the scale's strongest value (data/units.py):

    line of sight     L = 25 log10 D
    around corners    L = a + s log10 D + sum over corners of (c + min(b phi, M)), phi the turn in degrees
    over the roofs    the same law in the vertical plane: up to the first wall, across, down from the last one

A pixel takes the least loss of the three.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from ..layout import Layout
from ..polygons import corners_of, segments_of, shrink
from ..units import GAIN_MAX_DB, GAIN_MIN_DB
from .visibility import blocked, blocking_wall, make_walls

MARGIN = 0.6  # px at both ends of a ray where walls do not count
SHRINK = 0.4  # px by which walls traced from a mask are moved inwards: the traced outline lies slightly outside
TAUT = 0.05  # sine of the turn below which its direction does not matter
DEGREES = 180 / np.pi


class Laws(NamedTuple):
    """Constants of the laws; see the module's docstring."""

    los_slope: float = 25.0
    offset: float = -1.34  # a, dB
    slope: float = 28.6  # s, dB per decade
    per_degree: float = 0.1535  # b, dB per degree
    turn_limit: float = 11.2  # M, dB
    per_corner: float = 3.0  # c, dB
    roof_height: float = 21.8  # m, of the roofs above the antennas
    max_corners: int = 3
    labels: int = 2  # best paths kept per corner, which differ in the direction of arrival


@njit(cache=True, nogil=True)
def _turn_loss(cosine, laws):
    """Loss at one corner, from the cosine of the turn."""
    angle = np.arccos(min(1.0, max(-1.0, cosine))) * DEGREES
    return laws.per_corner + min(laws.per_degree * angle, laws.turn_limit)


@njit(cache=True, nogil=True)
def _is_taut(corner, ux, uy, vx, vy):
    """Whether a path arriving along u and leaving along v is a string pulled tight around the corner."""
    turn = ux * vy - uy * vx
    if abs(turn) < TAUT:
        return True
    building = ux * (corner[3] + corner[5]) - uy * (corner[2] + corner[4])  # side on which the building lies
    return turn * building >= -TAUT


@njit(cache=True, nogil=True)
def _corner_visibility(corners, walls):
    """(C, C) bool: pairs of corners that see each other."""
    count = corners.shape[0]
    visible = np.zeros((count, count), np.bool_)
    for i in range(count):
        for j in range(i):
            free = not blocked(walls, corners[i, 0], corners[i, 1], corners[j, 0], corners[j, 1], MARGIN)
            visible[i, j] = free
            visible[j, i] = free
    return visible


@njit(cache=True, nogil=True)
def _best_paths(corners, visible, walls, tx, ty, laws):
    """Best-first search from the transmitter over corners.

    Returns:
        (N, 7) rows sorted by a lower bound of the loss after their last corner: bound, length, corner losses so far,
        direction of arrival x and y, corner index, and 10^(-corner losses / s), the factor by which these losses
        shorten the reach.
    """
    count, kept = corners.shape[0], laws.labels
    labels = np.full((count, kept, 6), 1e9)  # length, corner losses, ux, uy, corners before, key
    filled = np.zeros(count, np.int64)
    expanded = np.zeros((count, kept), np.bool_)
    for i in range(count):
        if not blocked(walls, tx, ty, corners[i, 0], corners[i, 1], MARGIN):
            dx, dy = corners[i, 0] - tx, corners[i, 1] - ty
            d = max(np.hypot(dx, dy), 0.5)
            labels[i, 0, :] = np.array([d, 0.0, dx / d, dy / d, 0.0, laws.slope * np.log10(d)])
            filled[i] = 1
    while True:
        best, bi, bk = 1e8, -1, -1
        for i in range(count):
            for k in range(filled[i]):
                if not expanded[i, k] and labels[i, k, 5] < best:
                    best, bi, bk = labels[i, k, 5], i, k
        if bi < 0:
            break
        expanded[bi, bk] = True
        length, loss, ux, uy, before = (
            labels[bi, bk, 0],
            labels[bi, bk, 1],
            labels[bi, bk, 2],
            labels[bi, bk, 3],
            labels[bi, bk, 4],
        )
        if before + 1 >= laws.max_corners:
            continue
        for j in range(count):
            if not visible[bi, j]:
                continue
            dx, dy = corners[j, 0] - corners[bi, 0], corners[j, 1] - corners[bi, 1]
            d = np.hypot(dx, dy)
            if d < 1e-6:
                continue
            vx, vy = dx / d, dy / d
            if not _is_taut(corners[bi], ux, uy, vx, vy):
                continue
            new_loss = loss + _turn_loss(ux * vx + uy * vy, laws)
            key = laws.slope * np.log10(length + d) + new_loss
            place = _place(labels[j], filled[j], vx, vy, key, laws)
            if place >= 0:
                filled[j] = max(filled[j], place + 1)
                labels[j, place, :] = np.array([length + d, new_loss, vx, vy, before + 1, key])
                expanded[j, place] = False
    return _sorted_paths(labels, filled, laws)


@njit(cache=True, nogil=True)
def _place(labels, filled, vx, vy, key, laws):
    """Slot for a new label at a corner; -1 if an existing one is at least as good for every continuation."""
    worst = 0
    for k in range(filled):
        extra = _turn_loss(labels[k, 2] * vx + labels[k, 3] * vy, laws) - laws.per_corner
        if labels[k, 5] + extra <= key:  # it could turn into the new direction and still be no worse
            return -1
        if labels[k, 5] > labels[worst, 5]:
            worst = k
    if filled < labels.shape[0]:
        return filled
    return worst if labels[worst, 5] > key else -1


@njit(cache=True, nogil=True)
def _sorted_paths(labels, filled, laws):
    total = filled.sum()
    paths = np.zeros((total, 7))
    n = 0
    for i in range(labels.shape[0]):
        for k in range(filled[i]):
            paths[n, 0] = laws.offset + laws.per_corner + labels[i, k, 5]
            paths[n, 1:5] = labels[i, k, :4]
            paths[n, 5] = i
            paths[n, 6] = 10 ** (-labels[i, k, 1] / laws.slope)
            n += 1
    return paths[np.argsort(paths[:, 0])]


@njit(cache=True, nogil=True)
def _roof_loss(buildings, tx, ty, column, row, best, laws):
    """Loss of the path over the roofs; infinite if no building stands in between or it cannot beat `best`."""
    height, width = buildings.shape
    dx, dy = column - tx, row - ty
    d = np.hypot(dx, dy)
    least = laws.offset + laws.slope * np.log10(max(d, 1.0)) + 2 * _turn_loss(d / np.hypot(d, laws.roof_height), laws)
    if least >= best:  # a lower bound: the way up and the way down each cover at most d
        return np.inf
    steps = int(d * 3) + 1
    first = last = -1.0
    for i in range(steps + 1):
        share = i / steps
        c, r = int(np.floor(tx + dx * share + 0.5)), int(np.floor(ty + dy * share + 0.5))
        if 0 <= c < width and 0 <= r < height and buildings[r, c]:
            if first < 0:
                first = share
            last = share
    if first < 0:
        return np.inf
    up, down = first * d, (1 - last) * d  # ground distance to the first wall and from the last one
    h = laws.roof_height
    length = np.hypot(up, h) + (d - up - down) + np.hypot(down, h)
    cosines = up / np.hypot(up, h), down / np.hypot(down, h)
    return laws.offset + laws.slope * np.log10(length) + _turn_loss(cosines[0], laws) + _turn_loss(cosines[1], laws)


@njit(cache=True, nogil=True)
def _around_corners(paths, corners, walls, shadows, column, row, first, stop, bound, laws):
    """Least loss below `bound` around corners at a pixel, over paths[first:stop], and its path (-1: none).

    `shadows` (N,) holds the wall that last blocked each path and is updated: the next pixel usually lies in the same
    wall's shadow.
    """
    best, winner = bound, -1
    # a path of this length with a single turn of zero degrees has loss `best`
    reach = 10 ** ((best - laws.offset - laws.per_corner) / laws.slope)
    for index in range(first, stop):
        if paths[index, 0] >= best:  # sorted by this bound
            break
        corner = corners[int(paths[index, 5])]
        dx, dy = column - corner[0], row - corner[1]
        left = reach * paths[index, 6] - paths[index, 1]  # largest useful distance; saves most logarithms
        if left <= 0 or dx * dx + dy * dy >= left * left:
            continue
        d = np.hypot(dx, dy) + 1e-6
        ux, uy, vx, vy = paths[index, 3], paths[index, 4], dx / d, dy / d
        if not _is_taut(corner, ux, uy, vx, vy):
            continue
        loss = laws.offset + paths[index, 2] + laws.slope * np.log10(max(paths[index, 1] + d, 1.0))
        loss += _turn_loss(ux * vx + uy * vy, laws)
        if loss >= best:
            continue
        wall = blocking_wall(walls, corner[0], corner[1], column, row, MARGIN, shadows[index])
        if wall >= 0:
            shadows[index] = wall
        else:
            best, winner = loss, index
            reach = 10 ** ((best - laws.offset - laws.per_corner) / laws.slope)
    return best, winner


@njit(cache=True, nogil=True)
def _solve(buildings, corners, walls, sight_walls, paths, tx, ty, laws):
    """Loss at every pixel in dB, (H, W); infinite inside buildings and where there is no path."""
    height, width = buildings.shape
    out = np.full((height, width), np.inf)
    winners = np.full((height, width), -1, np.int64)
    shadows = np.full(paths.shape[0], -1, np.int64)
    sight_shadow = -1
    for row in range(height):
        for column in range(width):
            if buildings[row, column]:
                continue
            x, y = float(column), float(row)
            wall = blocking_wall(sight_walls, tx, ty, x, y, MARGIN, sight_shadow)
            if wall < 0:
                out[row, column] = laws.los_slope * np.log10(max(np.hypot(x - tx, y - ty), 1.0))
                continue
            sight_shadow = wall
            best, winner = np.inf, -1
            # neighbours usually share the path, which gives a tight bound from the start
            for dr, dc in ((0, -1), (-1, 0), (-1, 1)):
                if row + dr >= 0 and 0 <= column + dc < width:
                    guess = winners[row + dr, column + dc]
                    if guess >= 0 and guess != winner:
                        found = _around_corners(paths, corners, walls, shadows, x, y, guess, guess + 1, best, laws)
                        if found[1] >= 0:
                            best, winner = found
            best = min(best, _roof_loss(buildings, tx, ty, x, y, best, laws))
            found = _around_corners(paths, corners, walls, shadows, x, y, 0, paths.shape[0], best, laws)
            if found[1] >= 0:
                best, winner = found
            winners[row, column] = winner
            out[row, column] = best
    return out


@njit(cache=True, nogil=True)
def _line_of_sight(buildings, walls, tx, ty):
    height, width = buildings.shape
    visible = np.zeros((height, width), np.bool_)
    shadow = -1
    for row in range(height):
        for column in range(width):
            if not buildings[row, column]:
                wall = blocking_wall(walls, tx, ty, float(column), float(row), MARGIN, shadow)
                if wall < 0:
                    visible[row, column] = True
                else:
                    shadow = wall
    return visible


def line_of_sight(layout: Layout, tx: tuple[float, float]) -> np.ndarray:
    """Pixels (H, W) bool that see the transmitter at (x, y) past the outlines; False inside buildings."""
    return _line_of_sight(layout.inside, layout.walls, float(tx[0]), float(tx[1]))


class Simulator:
    """A city prepared once for any number of transmitters.

    Args:
        layout: its buildings.
        laws: constants.
    """

    def __init__(self, layout: Layout, laws: Laws | None = None):
        self.buildings = layout.inside
        self.laws = laws or Laws()
        self.corners = corners_of(layout.outlines, self.buildings)
        self.sight_walls = self.walls = layout.walls
        if not layout.exact:
            shrunk = [shrink(ring, self.buildings, SHRINK) for ring in layout.outlines]
            self.walls = make_walls(segments_of(shrunk), layout.shape)
        self.visible = _corner_visibility(self.corners, self.walls)

    def path_gain(self, tx: tuple[float, float]) -> np.ndarray:
        """Path gain in dB, (H, W) float32, at least GAIN_MIN_DB, which is also the value inside buildings.

        Args:
            tx: (x, y) = (column, row) in pixels.

        Raises:
            ValueError: the transmitter is outside the image or inside a building.
        """
        x, y = float(tx[0]), float(tx[1])
        height, width = self.buildings.shape
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is outside the {width}x{height} px map")
        if self.buildings[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]:
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is inside a building")
        paths = _best_paths(self.corners, self.visible, self.walls, x, y, self.laws)
        loss = _solve(self.buildings, self.corners, self.walls, self.sight_walls, paths, x, y, self.laws)
        return np.maximum(GAIN_MAX_DB - loss, GAIN_MIN_DB).astype(np.float32)
