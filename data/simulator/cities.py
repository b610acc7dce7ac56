"""Random cities: streets cut a map into blocks and lanes cut blocks into lots, in one rotated frame per district.

A lot carries a building or stays open; a smooth bend of the whole map makes streets and long buildings curve. Size,
density and regularity vary, so that the spread over maps matches real cities, not only the mean.
"""

from typing import Any, NamedTuple

import numpy as np
import shapely
from scipy import ndimage

from ..geometry.layout import Layout
from ..geometry.outlines import drop_straight
from ..geometry.registration import snap

BORDER_LOSS = 0.7  # fraction of lots across the map's border that stay open; real maps have few cut buildings
LOTS_PER_BLOCK = 12  # area of the largest block, in median lots
EDGE_STEP = 14.0  # m; walls are cut into pieces of at most this length before the bend


class Style:
    """The character of one map, drawn at random."""

    def __init__(self, rng: np.random.Generator):
        self.built = np.clip(rng.normal(0.88, 0.22), 0.25, 1.0)  # fraction of lots that carry a building
        self.open_blocks = np.clip(rng.normal(0.08, 0.13), 0, 0.6)  # fraction of blocks that stay completely open
        self.lot_area = np.exp(rng.normal(6.65, 0.5))  # m2, median lot
        self.lot_spread = rng.uniform(0.35, 0.9)  # standard deviation of the logarithm of the area
        self.street = rng.uniform(8, 21)  # m, width between blocks
        self.lane = rng.uniform(2.0, 8.0)  # m, width between lots
        self.setback = rng.uniform(0.02, 0.4)  # largest fraction by which a building is smaller than its lot
        self.regular = rng.uniform(0.1, 0.9)  # fraction of blocks that are cut into equal lots
        self.slabs = rng.choice([0.05, 0.2, 0.7], p=[0.4, 0.35, 0.25])  # of those with rows of one long building
        self.irregular = rng.choice([0.5, 2.0, 6.0, 14.0], p=[0.55, 0.3, 0.12, 0.03])  # degrees, std of directions
        self.districts = rng.choice([1, 2, 3, 4], p=[0.5, 0.27, 0.15, 0.08])
        self.bend = rng.choice([0.0, 5.0, 16.0], p=[0.5, 0.25, 0.25])  # m, amplitude of the bend of the whole map


class Lot(NamedTuple):
    """A rectangle in a district's frame, in m from the map's centre; arrays of x and y."""

    centre: np.ndarray
    sides: np.ndarray
    fill: np.ndarray  # fraction of the sides that a building takes
    plain: bool  # without wings or a courtyard


def random_city(rng: np.random.Generator, size: int = 256) -> Layout:
    """A layout of size x size metres; as in RadioMapSeer, corners are whole and buildings are cut off at the border."""
    style = Style(rng)
    centres = rng.uniform(0, size, (style.districts, 2))
    base = rng.uniform(0, np.pi / 2)
    bend = _random_bend(rng, style)
    buildings = np.zeros((size, size), bool)
    kept: list[np.ndarray] = []
    for district in range(style.districts):
        angle = base if district == 0 else base + rng.normal(0, 0.45)
        density = np.clip(style.built + rng.normal(0, 0.12), 0.1, 1.0)
        for lot in _lots(rng, style, size):
            centre = _rotate(lot.centre[None], angle)[0] + size / 2
            mine = np.argmin(((centres - centre) ** 2).sum(1)) == district
            if not mine or rng.random() > density:
                continue
            crosses = (np.abs(centre - size / 2) + lot.sides.max() / 2 > size / 2).any()
            if crosses and rng.random() < BORDER_LOSS:
                continue
            turn = angle + np.radians(rng.normal(0, style.irregular))
            _add(buildings, kept, [bend(_rotate(ring, turn) + centre) for ring in _building(rng, lot)])
    return Layout(kept, (size, size))


def _random_bend(rng: np.random.Generator, style: Style):
    """A smooth mapping of outlines (N, 2) -> (M, 2) that shifts points sideways along a long sine wave."""
    direction = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(direction), np.sin(direction)])
    across = np.array([-along[1], along[0]])
    wave, phase = 2 * np.pi / rng.uniform(180, 420), rng.uniform(0, 2 * np.pi)

    def bend(ring: np.ndarray) -> np.ndarray:
        if style.bend == 0:
            return ring
        pieces = []
        for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            count = int(np.hypot(*(end - start)) / EDGE_STEP) + 1
            pieces.append(start + (end - start) * (np.arange(count) / count)[:, None])
        points = np.concatenate(pieces)
        shift = style.bend * np.sin(points @ along * wave + phase)
        return drop_straight(points + shift[:, None] * across)

    return bend


def _lots(rng: np.random.Generator, style: Style, size: int) -> list[Lot]:
    """The lots of a district's street grid, which covers the map in any rotation."""
    reach = np.full(2, size * 0.75)  # a little more than half the diagonal: the frame may be rotated
    pending = [(-reach, reach, False)]
    lots = []
    while pending:
        low, high, inside_block = pending.pop()
        sides = high - low
        wanted = style.lot_area * np.exp(rng.normal(0, style.lot_spread))
        if sides.min() < 5:
            continue
        streets = sides.prod() > LOTS_PER_BLOCK * style.lot_area
        if not streets and not inside_block:
            inside_block = True
            if rng.random() < style.open_blocks:
                continue
            if rng.random() < style.regular:
                lots += _equal_lots(rng, style, low, sides)
                continue
        if sides.prod() < max(wanted, 40):
            if sides.max() < 6 * sides.min():
                lots.append(Lot((low + high) / 2, sides, 1 - rng.uniform(0, style.setback, 2), False))
            continue
        gap = style.street * rng.uniform(0.7, 1.3) if streets else style.lane * rng.uniform(0.6, 1.4)
        cut = rng.uniform(0.32, 0.68)
        axis = 0 if sides[0] > sides[1] * rng.uniform(0.8, 1.25) else 1
        middle = low[axis] + cut * sides[axis]
        first, second = high.copy(), low.copy()
        first[axis], second[axis] = middle - gap / 2, middle + gap / 2
        pending += [(low, first, inside_block), (second, high, inside_block)]
    return lots


def _equal_lots(rng: np.random.Generator, style: Style, corner: np.ndarray, block: np.ndarray) -> list[Lot]:
    """Rows of equal lots along a block's longer side; with probability `style.slabs` each row is one lot."""
    area = style.lot_area * np.exp(rng.normal(-0.1, style.lot_spread / 2))
    long, short = block.max(), block.min()
    rows = max(1, round(short / np.sqrt(area)))
    columns = 1 if rng.random() < style.slabs else max(1, round(long * short / rows / area))
    if columns == 1 and long / short * rows < 3:
        rows += 1
    gap = style.lane * rng.uniform(0.7, 1.3)
    steps = np.array([(long + gap) / columns, (short + gap) / rows])
    sides = steps - gap
    if sides.min() < 5:
        return []
    fill = 1 - rng.uniform(0, style.setback, 2)
    turn = -1 if block[0] < block[1] else 1  # rows are along y: swap both axes
    lots = []
    for row, column in np.ndindex(rows, columns):
        centre = (np.array([column, row]) + 0.5) * steps - gap / 2
        own = np.clip(fill * rng.normal(1, 0.04, 2), 0.3, 1)
        lots.append(Lot(corner + centre[::turn], sides[::turn], own[::turn], rng.random() < 0.6))
    return lots


def _building(rng: np.random.Generator, lot: Lot) -> list[np.ndarray]:
    """Outline around the origin that fits into a lot; a second ring is a courtyard."""
    w, h = lot.sides * lot.fill / 2
    small = min(w, h)
    shape = "box" if lot.plain else rng.choice(["box", "L", "U", "T", "court"], p=[0.6, 0.18, 0.06, 0.06, 0.1])
    if small < 5 and shape != "L":
        shape = "box"
    depth = np.clip(rng.uniform(0.35, 0.65) * 2 * small, 4, 14)  # of a wing, m
    ring: Any
    court: list[Any] = []
    if max(w, h) > 16 and rng.random() < 0.4:
        ring = _stepped(rng, w, h)
    elif shape == "L":
        x, y = w - rng.uniform(0.3, 0.7) * 2 * w, h - rng.uniform(0.3, 0.7) * 2 * h
        ring = [(-w, -h), (w, -h), (w, y), (x, y), (x, h), (-w, h)]
    elif shape == "U" and 2 * w > 2.4 * depth:
        inner = [(w - depth, h), (w - depth, -h + depth), (-w + depth, -h + depth), (-w + depth, h)]
        ring = [(-w, -h), (w, -h), (w, h), *inner, (-w, h)]
    elif shape == "T":
        stem, bar = max(depth / 2, 2.0), -h + min(depth, 1.2 * h)
        ring = [(-w, -h), (w, -h), (w, bar), (stem, bar), (stem, h), (-stem, h), (-stem, bar), (-w, bar)]
    else:
        ring = [(-w, -h), (w, -h), (w, h), (-w, h)]
        if shape == "court" and 2 * small > 2.6 * depth:
            x, y = w - depth, h - depth
            court = [[(-x, -y), (x, -y), (x, y), (-x, y)]]
    flip = rng.choice([-1, 1], 2)
    return [np.array(each) * flip for each in (ring, *court)]


def _stepped(rng: np.random.Generator, w: float, h: float) -> np.ndarray:
    """A long building of several houses, each set back by a different amount."""
    long, short = max(w, h), min(w, h)
    houses = int(np.clip(round(2 * long / rng.uniform(9, 18)), 2, 7))
    fronts = (short - rng.uniform(0, 0.8, houses) * short)[::-1]
    ends = np.linspace(-long, long, houses + 1)[::-1]
    steps = np.column_stack([np.column_stack([ends[:-1], ends[1:]]).ravel(), fronts.repeat(2)])
    ring = np.concatenate([[(-long, -short), (long, -short)], steps])
    return ring[:, ::-1] if h > w else ring


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _add(buildings: np.ndarray, kept: list[np.ndarray], rings: list[np.ndarray]) -> None:
    """Add a building to the map unless it touches another one or hardly reaches into the map."""
    last = len(buildings) - 1
    parts = shapely.get_parts([shapely.clip_by_rect(shapely.Polygon(ring), 0, 0, last, last) for ring in rings])
    snapped = [snap(np.array(part.exterior.coords)[:-1]) for part in parts if part.geom_type == "Polygon"]
    rings = [ring for ring in snapped if len(ring) >= 3]
    if not rings:
        return
    corners = np.concatenate(rings)
    left, top = np.maximum(corners.min(axis=0).astype(int) - 3, 0)
    right, bottom = corners.max(axis=0).astype(int) + 5
    there = buildings[top:bottom, left:right]
    part = Layout([ring - (left, top) for ring in rings], there.shape).inside
    if part.sum() >= 12 and not (ndimage.binary_dilation(part, iterations=2) & there).any():
        there |= part
        kept.extend(rings)


def random_transmitter(city: Layout, rng: np.random.Generator) -> tuple[int, int]:
    """(x, y) of a random open pixel in the central 150 / 256 of the map, as in RadioMapSeer; ValueError if there is none."""
    height, width = city.shape
    top, left = round(height * 53 / 256), round(width * 53 / 256)
    open_pixels = ~ndimage.binary_dilation(city.inside)[top : height - top, left : width - left]
    places = np.argwhere(open_pixels) + (top, left)
    if not len(places):
        raise ValueError("no open pixel in the middle of the map for a transmitter")
    row, column = places[rng.integers(len(places))].tolist()
    return column, row
