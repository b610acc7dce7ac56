"""Dominant paths over the pixels of a city: one any-angle search that goes around corners and over roofs.

Follows the dominant path model (Woelfle & Landstorfer, 1998) as RadioMapSeer's DPM maps show it. D is the length of a
path in m, at least 1; losses are in dB below the scale's strongest value (data/units.py):

    line of sight     L = 25 log10 D
    elsewhere         L = s log10 D + sum over bends of (c + M min(phi / 70 degrees, 1)), phi the turn in three dimensions

Paths are found by Theta* (Nash et al., 2007): Dijkstra's algorithm over the eight neighbours of a pixel, ordered by L,
in which a pixel takes over its neighbour's last bend if it sees it, and bends at the neighbour otherwise. Buildings are
passed at the height of their roofs.
"""

import heapq
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage

from ..layout import Layout
from ..polygons import segments_of, shrink
from ..units import GAIN_MAX_DB, GAIN_MIN_DB
from .visibility import blocking_wall, make_walls

SIGHT_MARGIN = 0.6  # px at both ends of a ray of `line_of_sight` where walls do not count
MARGIN = 2.0**-13  # px, the same for paths on the ground: less than from a pixel centre to a wall (registration.py)
ROOF_MARGIN = 1.5  # px at an end on a roof: a roof's pixels lie behind the wall
SHRINK = 0.4  # px by which walls traced from a mask are moved inwards: the traced outline lies slightly outside
NEIGHBOURS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])
DEGREES = 180 / np.pi


class Laws(NamedTuple):
    """Constants of the laws; see the module's docstring."""

    los_slope: float = 25.0  # dB per decade, in line of sight
    slope: float = 28.0  # s, dB per decade, elsewhere
    per_bend: float = 2.25  # c, dB
    turn_limit: float = 10.75  # M, dB
    turn_angle: float = 70.0  # degrees from which on a turn costs M
    roof_height: float = 21.0  # m, of the roofs above the antennas; 0: nothing passes over roofs


class Paths(NamedTuple):
    """The dominant paths to all pixels, each (H, W).

    Attributes:
        loss: dB below the scale's strongest value, float64; infinite where there is no path and on roofs.
        bends: how often the path bends, int64; 0 in line of sight.
        over_roofs: whether it touches a roof, bool.
    """

    loss: np.ndarray
    bends: np.ndarray
    over_roofs: np.ndarray

    @property
    def path_gain(self) -> np.ndarray:
        """In dB, (H, W) float32, at least GAIN_MIN_DB, which is also the value inside buildings."""
        return np.maximum(GAIN_MAX_DB - self.loss, GAIN_MIN_DB).astype(np.float32)


@njit(cache=True, nogil=True)
def _leg(bends, bend, x, y, z, laws):
    """Loss at (x, y, z) and loss of all bends on the way there, when `bend` is the last one."""
    dx, dy, dz = x - bends[bend, 0], y - bends[bend, 1], z - bends[bend, 2]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    length = max(bends[bend, 3] + d, 1.0)
    if bend == 0:  # the transmitter, where nothing bends
        return (laws.slope if z > 0 else laws.los_slope) * np.log10(length), 0.0
    cosine = (bends[bend, 5] * dx + bends[bend, 6] * dy + bends[bend, 7] * dz) / max(d, 1e-9)
    turn = np.arccos(min(1.0, max(-1.0, cosine))) * DEGREES
    bent = bends[bend, 4] + laws.per_bend + laws.turn_limit * min(turn / laws.turn_angle, 1.0)
    return laws.slope * np.log10(length) + bent, bent


@njit(cache=True, nogil=True)
def _search(buildings, deep, walls, tx, ty, laws):
    """Loss (H * W,), index of the last bend (H * W,) and the bends.

    Bends are rows of x, y, z, length of the path so far, loss of all bends before, direction of arrival (3), number of
    bends up to and with this one, the bend before, and whether it or one before lies on a roof. Row 0 is the
    transmitter.
    """
    height, width = buildings.shape
    roof = laws.roof_height
    loss, last = np.full(height * width, np.inf), np.full(height * width, -1, np.int64)
    done = np.zeros(height * width, np.bool_)
    bends, count = np.zeros((height * width + 1, 11)), 1
    bend_at = np.full(height * width, -1, np.int64)
    shadows = np.full(height * width + 1, -1, np.int64)  # the wall that last hid a pixel from each bend
    bends[0, 0], bends[0, 1], bends[0, 9] = tx, ty, -1
    start = int(np.floor(ty + 0.5)) * width + int(np.floor(tx + 0.5))
    loss[start], last[start] = 0.0, 0
    queue = [(0.0, start)]
    while len(queue):
        least, cell = heapq.heappop(queue)
        if done[cell] or least > loss[cell]:
            continue
        done[cell] = True
        row, column = cell // width, cell % width
        z = roof if buildings[row, column] else 0.0
        origin = last[cell]
        for k in range(NEIGHBOURS.shape[0]):
            c, r = column + NEIGHBOURS[k, 0], row + NEIGHBOURS[k, 1]
            if c < 0 or r < 0 or c >= width or r >= height or done[r * width + c]:
                continue
            if buildings[r, c] and roof <= 0:
                continue
            neighbour, z2 = r * width + c, (roof if buildings[r, c] else 0.0)
            bend = origin
            if z2 > 0:  # all roofs are level, so that the first bend on a roof sees every other roof
                while bends[bend, 2] > 0 and bends[int(bends[bend, 9]), 2] > 0:
                    bend = int(bends[bend, 9])
            through, _ = _leg(bends, bend, c, r, z2, laws)
            if z2 > 0 and bends[bend, 2] > 0:
                seen = True
            elif through < loss[neighbour]:
                begin, end = (ROOF_MARGIN if bends[bend, 2] > 0 else MARGIN), (ROOF_MARGIN if z2 > 0 else MARGIN)
                wall = blocking_wall(walls, bends[bend, 0], bends[bend, 1], c, r, begin, end, shadows[bend])
                seen = wall < 0
                if not seen:
                    shadows[bend] = wall
                elif (
                    z2 == 0 and bends[bend, 2] == 0
                ):  # from corner to wall through a building: both ends are in the margin
                    seen = not deep[int((r + bends[bend, 1]) / 2 + 0.5), int((c + bends[bend, 0]) / 2 + 0.5)]
            else:
                seen = False  # and to bend once more costs more
            if seen:
                if through < loss[neighbour]:
                    loss[neighbour], last[neighbour] = through, bend
                    heapq.heappush(queue, (through, neighbour))
                continue
            dx, dy, dz = column - bends[origin, 0], row - bends[origin, 1], z - bends[origin, 2]
            d = np.sqrt(dx * dx + dy * dy + dz * dz)
            if d < 1e-9:
                continue
            new = bends[count]  # kept only if it is used
            new[0], new[1], new[2], new[3] = column, row, z, bends[origin, 3] + d
            new[4] = _leg(bends, origin, column, row, z, laws)[1]
            new[5], new[6], new[7], new[8], new[9] = dx / d, dy / d, dz / d, bends[origin, 8] + 1, origin
            new[10] = 1.0 if z > 0 or bends[origin, 10] > 0 else 0.0
            through, _ = _leg(bends, count, c, r, z2, laws)
            if through >= loss[neighbour]:
                continue
            if z == 0 and z2 == 0 and blocking_wall(walls, column, row, c, r, MARGIN, MARGIN, -1) >= 0:
                continue
            if bend_at[cell] < 0:
                bend_at[cell] = count
                count += 1
            loss[neighbour], last[neighbour] = through, bend_at[cell]
            heapq.heappush(queue, (through, neighbour))
    return loss, last, bends[:count]


@njit(cache=True, nogil=True)
def _line_of_sight(buildings, walls, tx, ty):
    height, width = buildings.shape
    visible = np.zeros((height, width), np.bool_)
    shadow = -1
    for row in range(height):
        for column in range(width):
            if not buildings[row, column]:
                wall = blocking_wall(walls, tx, ty, column, row, SIGHT_MARGIN, SIGHT_MARGIN, shadow)
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
        self.deep = ndimage.binary_erosion(self.buildings)
        self.laws = laws or Laws()
        self.walls = layout.walls
        if not layout.exact:
            shrunk = [shrink(ring, self.buildings, SHRINK) for ring in layout.outlines]
            self.walls = make_walls(segments_of(shrunk), layout.shape)

    def paths(self, tx: tuple[float, float]) -> Paths:
        """The dominant paths from a transmitter at (x, y) = (column, row) in pixels.

        Raises:
            ValueError: the transmitter is outside the image or inside a building.
        """
        x, y = float(tx[0]), float(tx[1])
        height, width = self.buildings.shape
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is outside the {width}x{height} px map")
        if self.buildings[int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]:
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is inside a building")
        loss, last, bends = _search(self.buildings, self.deep, self.walls, x, y, self.laws)
        reached = bends[np.maximum(last, 0)].reshape(height, width, -1)
        return Paths(
            np.where(self.buildings, np.inf, loss.reshape(height, width)),
            reached[..., 8].astype(np.int64),
            reached[..., 10] > 0,
        )

    def path_gain(self, tx: tuple[float, float]) -> np.ndarray:
        """`paths(tx).path_gain`."""
        return self.paths(tx).path_gain
