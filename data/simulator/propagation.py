"""Dominant paths over the pixels of a city: one any-angle search that goes around corners and over roofs.

Follows the dominant path model (Woelfle & Landstorfer, 1998) as RadioMapSeer's DPM maps show it. D is the length of a
path in m, at least 1; losses are in dB below the scale's strongest value (data/units.py):

    line of sight     L = 25 log10 D
    elsewhere         L = 28 log10 D + sum over bends of (2.25 + 10.75 min(phi / 70 degrees, 1)), phi the turn in 3D

Paths are found by Theta* (Nash et al., 2007): Dijkstra's algorithm over the eight neighbours of a pixel, ordered by L,
in which a neighbour that sees the path's last bend is reached straight from there; otherwise the path bends at the
pixel. Buildings are passed at the height of their roofs, cars at the height of the antennas, see `_sees`.
"""

import heapq
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..geometry.georeference import pixel_of
from ..geometry.layout import Layout
from ..geometry.outlines import segments_of, shrink
from ..units import GAIN_MAX_DB, GAIN_MIN_DB
from .compiled import compiled

LOS_SLOPE, SLOPE = 25.0, 28.0  # dB per decade, in line of sight and elsewhere
PER_BEND, TURN_LIMIT, TURN_ANGLE = 2.25, 10.75, 70.0  # dB, dB, and degrees from which on a turn costs TURN_LIMIT
ROOF_HEIGHT = 21.0  # m, of the roofs above the antennas

SAMPLE_STEP = 0.25  # px between the points that determine which pixels a wall crosses
CELL_MARGIN = 0.15  # px by which those points are widened, so that no pixel that a wall touches is missed
TOUCH = 0.02  # px within which an end of a ray is at a corner
SIGHT_MARGIN = 0.6  # px at both ends of a ray of `line_of_sight` where walls do not count
MARGIN = 2.0**-13  # px, the same for paths on the ground: half of registration.EDGE, so that walls beside a pixel count
ROOF_MARGIN = 1.5  # px, the same at an end on a roof, whose pixels lie behind the wall
SHRINK = 0.4  # px by which walls traced from a mask are moved inwards: the traced outline lies slightly outside
NEIGHBOURS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])
DEGREES = 180 / np.pi
# a table of bends: place, length of the path and loss of all bends so far, direction of arrival, row of the bend before
# (row 0 is the transmitter), and what it lies on
X, Y, Z, LENGTH, LOSS, UX, UY, UZ, BEFORE, ON, COLUMNS = range(11)
GROUND, CAR, BUILDING = range(3)  # what a pixel or a bend lies on; CAR: on a car or beside one


class Walls(NamedTuple):
    """Wall segments, listed by the pixels that they cross, so that a ray is tested against those near it alone."""

    segments: np.ndarray  # (S, 4) float64, x0 y0 x1 y1
    start: np.ndarray  # (H * W + 1,) int64, where each pixel's list begins in `items`
    items: np.ndarray  # int64, indices of segments
    height: int
    width: int


def make_walls(rings: list[np.ndarray], shape: tuple[int, int]) -> Walls:
    """List the segments of closed rings by the pixels of an image; pixel (row, column) covers its centre +- 0.5."""
    height, width = shape
    segments = segments_of(rings)
    start, delta = segments[:, :2], segments[:, 2:] - segments[:, :2]
    counts = (np.hypot(*delta.T) / SAMPLE_STEP).astype(np.int64) + 2
    index = np.repeat(np.arange(len(segments)), counts)  # segment of every sample point
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    points = start[index] + delta[index] * (offset / (counts[index] - 1))[:, None]
    corners = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])[:, None] * CELL_MARGIN
    row, column = pixel_of(points + corners)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    keys = (row * width + column) * len(segments) + index
    cells, items = np.divmod(np.unique(keys[inside]), max(len(segments), 1))
    return Walls(segments, np.searchsorted(cells, np.arange(height * width + 1)), items, height, width)


@compiled
def _crosses(segments, s, x0, y0, dx, dy, first, last):
    """Whether wall `s` crosses the ray (x0, y0) + t (dx, dy), first < t < last; beginning or ending at its corner does not count."""
    ax, ay = segments[s, 0], segments[s, 1]
    bx, by = segments[s, 2] - ax, segments[s, 3] - ay
    cross = dx * by - dy * bx
    if cross == 0:
        return False
    t, u = ((ax - x0) * by - (ay - y0) * bx) / cross, ((ax - x0) * dy - (ay - y0) * dx) / cross
    if not (first < t < last and -1e-9 <= u <= 1 + 1e-9):
        return False
    return min(t, 1 - t) * np.hypot(dx, dy) > TOUCH or min(u, 1 - u) * np.hypot(bx, by) > TOUCH


@compiled
def _blocking_wall(walls, x0, y0, x1, y1, begin, end, guess):
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
    if guess >= 0 and _crosses(segments, guess, x0, y0, dx, dy, first, last):
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
                if _crosses(segments, items[k], x0, y0, dx, dy, first, last):
                    return items[k]
        if next_x < next_y:
            column += step_x
            next_x += per_x
        else:
            row += step_y
            next_y += per_y
    return -1


@compiled
def _leg(bends, bend, x, y, z):
    """Loss at (x, y, z) and loss of all bends on the way there, when `bend` is the last one."""
    dx, dy, dz = x - bends[bend, X], y - bends[bend, Y], z - bends[bend, Z]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    length = max(bends[bend, LENGTH] + d, 1.0)
    if bend == 0:  # the transmitter, where nothing bends
        return (SLOPE if z > 0 else LOS_SLOPE) * np.log10(length), 0.0
    cosine = (bends[bend, UX] * dx + bends[bend, UY] * dy + bends[bend, UZ] * dz) / max(d, 1e-9)
    turn = np.arccos(min(1.0, max(-1.0, cosine))) * DEGREES
    bent = bends[bend, LOSS] + PER_BEND + TURN_LIMIT * min(turn / TURN_ANGLE, 1.0)
    return SLOPE * np.log10(length) + bent, bent


@compiled
def _bend_at(bends, origin, new, x, y, z, on):
    """Write row `new`: a bend at (x, y, z) on a path whose last bend was `origin`; False if both are at the same place."""
    dx, dy, dz = x - bends[origin, X], y - bends[origin, Y], z - bends[origin, Z]
    d = np.sqrt(dx * dx + dy * dy + dz * dz)
    if d < 1e-9:
        return False
    row = bends[new]
    row[X], row[Y], row[Z], row[LENGTH] = x, y, z, bends[origin, LENGTH] + d
    row[LOSS] = _leg(bends, origin, x, y, z)[1]
    row[UX], row[UY], row[UZ] = dx / d, dy / d, dz / d
    row[BEFORE], row[ON] = origin, on
    return True


@compiled
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
    wall = _blocking_wall(obstacles, bends[bend, X], bends[bend, Y], x, y, begin, end, guess)
    if wall >= 0:
        shadows[bend] = wall
        return False
    # from corner to corner through a building, a leg crosses no wall
    middle = int((y + bends[bend, Y]) / 2 + 0.5), int((x + bends[bend, X]) / 2 + 0.5)
    return on == BUILDING or last == BUILDING or not interior[middle]


@compiled
def _search(ground, interior, walls, buildings, tx, ty, start):
    """Loss (H * W,) of the dominant paths, infinite where there is none.

    `ground` (H, W) is what pixels lie on, `interior` (H, W) which have four built neighbours, `start` the transmitter's.
    """
    height, width = ground.shape
    pixels = height * width
    loss, last = np.full(pixels, np.inf), np.full(pixels, -1, np.int64)  # last: the row of a pixel's last bend
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
        z = ROOF_HEIGHT if here == BUILDING else 0.0
        for dx, dy in NEIGHBOURS:
            c, r = column + dx, row + dy
            if c < 0 or r < 0 or c >= width or r >= height or settled[r * width + c]:
                continue
            on = ground[r, c]
            neighbour, top = r * width + c, (ROOF_HEIGHT if on == BUILDING else 0.0)
            bend = last[cell]
            while on == BUILDING and bends[bend, ON] == on and bends[int(bends[bend, BEFORE]), ON] == on:
                bend = int(bends[bend, BEFORE])  # the first one on a roof, which sees every roof
            through, _ = _leg(bends, bend, c, r, top)
            if through >= loss[neighbour]:
                continue  # another bend would only cost more
            if _sees(bends, bend, c, r, on, walls, buildings, interior, shadows):
                loss[neighbour], last[neighbour] = through, bend
                heapq.heappush(queue, (through, neighbour))
                continue
            if not _bend_at(bends, last[cell], count, column, row, z, here):
                continue
            through, _ = _leg(bends, count, c, r, top)
            if through >= loss[neighbour]:
                continue
            climbs = here == BUILDING or on == BUILDING  # cars block no step: a step begins or ends on or beside them
            if not climbs and _blocking_wall(buildings, column, row, c, r, MARGIN, MARGIN, -1) >= 0:
                continue
            if bend_of[cell] < 0:
                bend_of[cell] = count
                count += 1
            loss[neighbour], last[neighbour] = through, bend_of[cell]
            heapq.heappush(queue, (through, neighbour))
    return loss


@compiled
def _cast_rays(buildings, walls, tx, ty):
    visible = np.zeros(buildings.shape, np.bool_)
    shadow = -1
    for row, column in np.ndindex(buildings.shape):
        if not buildings[row, column]:
            wall = _blocking_wall(walls, tx, ty, column, row, SIGHT_MARGIN, SIGHT_MARGIN, shadow)
            visible[row, column] = wall < 0
            shadow = shadow if wall < 0 else wall
    return visible


@lru_cache(4)  # a scene's condition, its regions and its references ask for the same
def line_of_sight(layout: Layout, tx: tuple[float, float]) -> np.ndarray:
    """Pixels (H, W) bool that see the transmitter at (x, y) past the outlines; False inside buildings. Not to be written to."""
    return _cast_rays(layout.inside, make_walls(layout.outlines, layout.shape), float(tx[0]), float(tx[1]))


class Simulator:
    """The buildings and cars of a city, prepared once for any number of transmitters."""

    def __init__(self, layout: Layout, cars: Layout | None = None):
        self.buildings = layout.inside
        self.interior = ndimage.binary_erosion(self.buildings)
        rings = layout.outlines
        if not layout.exact:
            rings = [shrink(ring, self.buildings, SHRINK) for ring in rings]
        self.walls = make_walls(rings, layout.shape)
        self.cars = None
        if cars is not None and cars.outlines:
            self.cars = ndimage.binary_dilation(cars.inside, np.ones((3, 3))) & ~self.buildings
            self.walls_and_cars = make_walls(rings + cars.outlines, layout.shape)

    def loss(self, tx: tuple[float, float], around_cars: bool = False) -> np.ndarray:
        """Loss of the dominant paths, (H, W) float64 in dB below the scale's strongest value; infinite where there is none.

        The transmitter is at (x, y); ValueError outside the map or inside a building. Without `around_cars`, cars are ignored.
        """
        x, y = float(tx[0]), float(tx[1])
        height, width = self.buildings.shape
        row, column = map(int, pixel_of((x, y)))
        if not (0 <= row < height and 0 <= column < width) or self.buildings[row, column]:
            raise ValueError(f"transmitter ({x:g}, {y:g}): is outside the {width}x{height} px map or inside a building")
        ground = np.where(self.buildings, BUILDING, GROUND).astype(np.int8)
        walls = self.walls
        if around_cars and self.cars is not None:
            ground[self.cars], walls = CAR, self.walls_and_cars
        loss = _search(ground, self.interior, walls, self.walls, x, y, row * width + column)
        return np.where(self.buildings, np.inf, loss.reshape(height, width))

    def path_gain(self, tx: tuple[float, float]) -> np.ndarray:
        """The map with cars, if any: (H, W) float32 in dB, at least GAIN_MIN_DB, its value inside buildings; `tx` as for `loss`."""
        return self.path_gains(tx)[1]

    def path_gains(self, tx: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """`path_gain` without and with the cars, which have half of their effect, as in RadioMapSeer.

        With cars, it is the mean, in dB, of the map without cars and of the one around them, and never above the former.
        """

        def gain(around_cars: bool = False) -> np.ndarray:
            return np.maximum(GAIN_MAX_DB - self.loss(tx, around_cars), GAIN_MIN_DB).astype(np.float32)

        without = gain()
        return without, without if self.cars is None else np.minimum(without, (without + gain(around_cars=True)) / 2)
