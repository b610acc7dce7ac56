"""Dominant paths over the pixels of a city: one any-angle search that goes around corners and over roofs.

Follows the dominant path model (Woelfle & Landstorfer, 1998) as RadioMapSeer's DPM maps show it. D is the length of a
path in m, at least 1; losses are in dB below the scale's strongest value (data/units.py):

    line of sight     L = 25 log10 D
    elsewhere         L = s log10 D + sum over bends of (c + M min(phi / 70 degrees, 1)), phi the turn in 3D

Paths are found by Theta* (Nash et al., 2007): Dijkstra's algorithm over the eight neighbours of a pixel, ordered by L,
in which a neighbour that sees the path's last bend takes the straight way from there, and the path bends at the pixel
otherwise. Buildings are passed at the height of their roofs, cars at the height of the antennas, see `_sees`.
"""

import heapq
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage

from ..geometry.layout import Layout
from ..geometry.outlines import segments_of, shrink
from ..geometry.pixels import pixel_of
from ..geometry.walls import make_walls
from ..units import GAIN_MAX_DB, GAIN_MIN_DB
from .visibility import blocking_wall

SIGHT_MARGIN = 0.6  # px at both ends of a ray of `line_of_sight` where walls do not count
MARGIN = 2.0**-13  # px, the same for paths on the ground: half of registration.EDGE, so that walls beside a pixel count
ROOF_MARGIN = 1.5  # px, the same at an end on a roof, whose pixels lie behind the wall
SHRINK = 0.4  # px by which walls traced from a mask are moved inwards: the traced outline lies slightly outside
NEIGHBOURS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])
DEGREES = 180 / np.pi
# columns of a table of bends: place, length of the path and loss of all bends so far, direction of arrival, which bend of
# its path it is, the row of the one before, whether it or one before lies on a building, and what it lies on; row 0 is
# the transmitter
X, Y, Z, LENGTH, LOSS, UX, UY, UZ, NUMBER, BEFORE, ROOF, ON, COLUMNS = range(13)
GROUND, CAR, BUILDING = range(3)  # what a pixel or a bend lies on; CAR: on a car or beside one


class PathLossModel(NamedTuple):
    """Constants of the model; see the module's docstring. The search needs per_bend >= 0 and slope >= los_slope."""

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
        bends: how often the path bends, int64; 0 in line of sight, -1 where there is no path.
        over_roofs: whether one of its bends lies on a roof, bool.
    """

    loss: np.ndarray
    bends: np.ndarray
    over_roofs: np.ndarray

    @property
    def path_gain(self) -> np.ndarray:
        """In dB, (H, W) float32, at least GAIN_MIN_DB, which is also the value inside buildings."""
        return np.maximum(GAIN_MAX_DB - self.loss, GAIN_MIN_DB).astype(np.float32)


@njit(cache=True, nogil=True)
def _leg(bends, bend, x, y, z, model):
    """Loss at (x, y, z) and loss of all bends on the way there, when `bend` is the last one."""
    dx, dy, dz = x - bends[bend, X], y - bends[bend, Y], z - bends[bend, Z]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    length = max(bends[bend, LENGTH] + d, 1.0)
    if bend == 0:  # the transmitter, where nothing bends
        return (model.slope if z > 0 else model.los_slope) * np.log10(length), 0.0
    cosine = (bends[bend, UX] * dx + bends[bend, UY] * dy + bends[bend, UZ] * dz) / max(d, 1e-9)
    turn = np.arccos(min(1.0, max(-1.0, cosine))) * DEGREES
    bent = bends[bend, LOSS] + model.per_bend + model.turn_limit * min(turn / model.turn_angle, 1.0)
    return model.slope * np.log10(length) + bent, bent


@njit(cache=True, nogil=True)
def _bend_at(bends, origin, new, x, y, z, on, model):
    """Write row `new`: a bend at (x, y, z) on a path whose last bend was `origin`; False if they are one place."""
    dx, dy, dz = x - bends[origin, X], y - bends[origin, Y], z - bends[origin, Z]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    if d < 1e-9:
        return False
    row = bends[new]
    row[X], row[Y], row[Z], row[LENGTH] = x, y, z, bends[origin, LENGTH] + d
    row[LOSS] = _leg(bends, origin, x, y, z, model)[1]
    row[UX], row[UY], row[UZ] = dx / d, dy / d, dz / d
    row[NUMBER], row[BEFORE], row[ON] = bends[origin, NUMBER] + 1, origin, on
    row[ROOF] = 1.0 if on == BUILDING or bends[origin, ROOF] > 0 else 0.0
    return True


@njit(cache=True, nogil=True)
def _sees(bends, bend, x, y, on, walls, buildings, interior, shadows):
    """Whether a straight leg leads from a bend to (x, y); `walls` of everything, `buildings` those of buildings alone.

    A leg between two pixels on or beside cars, or up to a roof and down again, passes over the cars in its way.
    """
    last = bends[bend, ON]
    if on == BUILDING and last == BUILDING:
        return True  # all roofs are level
    over_cars = on == BUILDING or last == BUILDING or (on == CAR and last == CAR)
    obstacles = buildings if over_cars else walls
    guess = shadows[bend] if shadows[bend] < len(obstacles.segments) else -1  # those of buildings come first in both
    begin = ROOF_MARGIN if last == BUILDING else MARGIN
    end = ROOF_MARGIN if on == BUILDING else MARGIN
    wall = blocking_wall(obstacles, bends[bend, X], bends[bend, Y], x, y, begin, end, guess)
    if wall >= 0:
        shadows[bend] = wall
        return False
    # from corner to corner through a building, a leg crosses no wall
    middle = int((y + bends[bend, Y]) / 2 + 0.5), int((x + bends[bend, X]) / 2 + 0.5)
    return on == BUILDING or last == BUILDING or not interior[middle]


@njit(cache=True, nogil=True)
def _search(ground, interior, walls, buildings, tx, ty, start, model):
    """Loss (H * W,), row of the last bend (H * W,; -1: no path), and the bends.

    `ground` (H, W) is what each pixel lies on; `interior` (H, W) bool are built pixels whose four neighbours are built;
    `start` is the number of the transmitter's pixel.
    """
    height, width = ground.shape
    pixels = height * width
    loss, last = np.full(pixels, np.inf), np.full(pixels, -1, np.int64)
    settled = np.zeros(pixels, np.bool_)
    bends, count = np.zeros((pixels + 2, COLUMNS)), 1  # and one row to write the next bend into
    bend_of = np.full(pixels, -1, np.int64)  # the bend at each pixel
    shadows = np.full(pixels + 2, -1, np.int64)  # the wall that last hid a pixel from each bend
    bends[0, X], bends[0, Y], bends[0, BEFORE], bends[0, ON] = tx, ty, -1, ground[start // width, start % width]
    loss[start], last[start] = 0.0, 0
    queue = [(0.0, start)]
    while len(queue):
        least, cell = heapq.heappop(queue)
        if settled[cell] or least > loss[cell]:
            continue
        settled[cell] = True
        row, column = cell // width, cell % width
        here = ground[row, column]
        z = model.roof_height if here == BUILDING else 0.0
        for k in range(NEIGHBOURS.shape[0]):
            c, r = column + NEIGHBOURS[k, 0], row + NEIGHBOURS[k, 1]
            if c < 0 or r < 0 or c >= width or r >= height or settled[r * width + c]:
                continue
            on = ground[r, c]
            if on == BUILDING and model.roof_height <= 0:
                continue
            neighbour, top = r * width + c, (model.roof_height if on == BUILDING else 0.0)
            bend = last[cell]
            while on == BUILDING and bends[bend, ON] == on and bends[int(bends[bend, BEFORE]), ON] == on:
                bend = int(bends[bend, BEFORE])  # the first one on a roof, which sees every roof
            through, _ = _leg(bends, bend, c, r, top, model)
            if through >= loss[neighbour]:
                continue  # and to bend once more costs more
            if _sees(bends, bend, c, r, on, walls, buildings, interior, shadows):
                loss[neighbour], last[neighbour] = through, bend
                heapq.heappush(queue, (through, neighbour))
                continue
            if not _bend_at(bends, last[cell], count, column, row, z, here, model):
                continue
            through, _ = _leg(bends, count, c, r, top, model)
            if through >= loss[neighbour]:
                continue
            # cars block no step: it begins or ends on or beside them
            climbs = here == BUILDING or on == BUILDING
            if not climbs and blocking_wall(buildings, column, row, c, r, MARGIN, MARGIN, -1) >= 0:
                continue
            if bend_of[cell] < 0:
                bend_of[cell] = count
                count += 1
            loss[neighbour], last[neighbour] = through, bend_of[cell]
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
    """Pixels (H, W) bool that see the transmitter at (x, y) past the outlines; False inside buildings. Not to be written to."""
    return _cast_rays(layout, float(tx[0]), float(tx[1]))


@lru_cache(4)  # a scene's condition, its regions and its references ask for the same
def _cast_rays(layout: Layout, x: float, y: float) -> np.ndarray:
    return _line_of_sight(layout.inside, layout.walls, x, y)


class Simulator:
    """A city prepared once for any number of transmitters.

    Args:
        layout: its buildings.
        model: constants.
        cars: they take away half of what obstacles of the antennas' height would, see `path_gain`.
    """

    def __init__(self, layout: Layout, model: PathLossModel | None = None, cars: Layout | None = None):
        self.buildings = layout.inside
        self.interior = ndimage.binary_erosion(self.buildings)
        self.model = PathLossModel(*map(float, model or PathLossModel()))  # numba compiles once per type
        self.walls = layout.walls
        if not layout.exact:
            shrunk = [shrink(ring, self.buildings, SHRINK) for ring in layout.outlines]
            self.walls = make_walls(segments_of(shrunk), layout.shape)
        self.cars = None
        if cars is not None and cars.outlines:
            self.cars = ndimage.binary_dilation(cars.inside, np.ones((3, 3))) & ~self.buildings
            segments = np.concatenate([self.walls.segments, segments_of(cars.outlines)])
            self.walls_and_cars = make_walls(segments, layout.shape)

    def paths(self, tx: tuple[float, float], around_cars: bool = False) -> Paths:
        """The dominant paths from a transmitter at (x, y) = (column, row) in pixels.

        Args:
            tx: the transmitter.
            around_cars: around cars or over them; else as if there were none.

        Raises:
            ValueError: the transmitter is outside the image or inside a building.
        """
        x, y = float(tx[0]), float(tx[1])
        height, width = self.buildings.shape
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is outside the {width}x{height} px map")
        row, column = map(int, pixel_of((x, y)))
        if self.buildings[row, column]:
            raise ValueError(f"the transmitter ({x:g}, {y:g}) is inside a building")
        ground = np.where(self.buildings, BUILDING, GROUND).astype(np.int8)
        walls = self.walls
        if around_cars and self.cars is not None:
            ground[self.cars], walls = CAR, self.walls_and_cars
        start = row * width + column
        loss, last, bends = _search(ground, self.interior, walls, self.walls, x, y, start, self.model)
        bent = np.where(last < 0, -1, bends[last, NUMBER]).astype(np.int64)
        return Paths(
            np.where(self.buildings, np.inf, loss.reshape(height, width)),
            bent.reshape(height, width),
            ((last >= 0) & (bends[last, ROOF] > 0)).reshape(height, width),
        )

    def path_gain(self, tx: tuple[float, float]) -> np.ndarray:
        """In dB, (H, W) float32, see `Paths.path_gain` and `path_gains`."""
        return self.path_gains(tx)[1]

    def path_gains(self, tx: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Those without and with the cars, for which the former is needed anyway.

        With cars, it is the mean of the map without them and of the one around them, in dB, and nowhere more than the
        first: RadioMapSeer's cars have half of their effect.
        """
        gain = self.paths(tx).path_gain
        if self.cars is None:
            return gain, gain
        return gain, np.minimum(gain, (gain + self.paths(tx, around_cars=True).path_gain) / 2)
