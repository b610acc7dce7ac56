"""Random city layouts: blocks along streets, rows of buildings, courts, large halls, open squares.

A map is cut into blocks by streets and blocks into lots by lanes, in one rotated frame a district; a lot carries a
building or stays open. How large, how dense and how regular differs from map to map, so that the spread over maps, not
only the mean, is that of real cities (the figures stand in docs/simulator.md).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .polygons import rasterize

BORDER_LOSS = 0.45  # share of the lots across the map's border that stay open; real maps have few cut buildings


@dataclass
class City:
    """A layout, one pixel a metre.

    Attributes:
        buildings: (size, size) bool.
        rings: exact outlines, (N, 2) arrays of x, y; a ring inside another one is a courtyard.
    """

    buildings: np.ndarray
    rings: list[np.ndarray]


@dataclass
class Style:
    """What is drawn once a map."""

    built: float  # share of lots that carry a building
    lot_area: float  # m2, median lot
    lot_spread: float  # of the logarithm
    street: float  # m, width between blocks
    lane: float  # m, width between lots
    setback: float  # largest share by which a building is smaller than its lot
    irregular: float  # degrees, standard deviation of a building's direction
    districts: int


def random_style(rng: np.random.Generator) -> Style:
    """The character of one map."""
    return Style(
        built=float(np.clip(rng.normal(0.68, 0.22), 0.15, 0.98)),
        lot_area=float(np.exp(rng.normal(6.75, 0.5))),
        lot_spread=float(rng.uniform(0.35, 0.9)),
        street=float(rng.uniform(9, 24)),
        lane=float(rng.uniform(2.0, 8.0)),
        setback=float(rng.uniform(0.03, 0.42)),
        irregular=float(rng.choice([0.5, 2.0, 6.0, 14.0], p=[0.45, 0.35, 0.15, 0.05])),
        districts=int(rng.choice([1, 2, 3, 4], p=[0.5, 0.28, 0.15, 0.07])),
    )


def random_city(rng: np.random.Generator, size: int = 256) -> City:
    """Draw a layout of size x size metres."""
    style = random_style(rng)
    centres = rng.uniform(0, size, (style.districts, 2))
    base = rng.uniform(0, np.pi / 2)
    buildings = np.zeros((size, size), bool)
    kept: list[np.ndarray] = []
    for district in range(style.districts):
        angle = base if district == 0 else base + rng.normal(0, 0.35)
        density = float(np.clip(style.built + rng.normal(0, 0.12), 0.1, 1.0))
        for lot in _lots(rng, style, size):
            centre = _rotate(lot[:2][None], angle)[0] + size / 2
            mine = int(np.argmin(((centres - centre) ** 2).sum(1))) == district
            if not mine or rng.random() > density:
                continue
            crosses = (np.abs(centre - size / 2) + max(lot[2:]) / 2 > size / 2).any()
            if crosses and rng.random() < BORDER_LOSS:
                continue
            rings = _building(rng, style, lot[2], lot[3])
            turn = angle + np.radians(rng.normal(0, style.irregular))
            placed = [_rotate(ring, turn) + centre for ring in rings]
            _add(buildings, kept, placed, size)
    return City(buildings, kept)


def _lots(rng: np.random.Generator, style: Style, size: int) -> list[np.ndarray]:
    """(x, y, width, height) about the map's centre."""
    reach = size * 0.75  # half the diagonal and a little: the frame may be rotated
    pending = [(-reach, -reach, reach, reach)]
    lots = []
    while pending:
        x0, y0, x1, y1 = pending.pop()
        width, height = x1 - x0, y1 - y0
        wanted = style.lot_area * np.exp(rng.normal(0, style.lot_spread))
        if min(width, height) < 5:
            continue
        if width * height < max(wanted, 40):
            if max(width, height) < 6 * min(width, height):
                lots.append(np.array([(x0 + x1) / 2, (y0 + y1) / 2, width, height]))
            continue
        block = width * height > 12 * style.lot_area
        gap = style.street * rng.uniform(0.7, 1.3) if block else style.lane * rng.uniform(0.6, 1.4)
        cut = rng.uniform(0.32, 0.68)
        if width > height * rng.uniform(0.8, 1.25):
            middle = x0 + cut * width
            pending += [(x0, y0, middle - gap / 2, y1), (middle + gap / 2, y0, x1, y1)]
        else:
            middle = y0 + cut * height
            pending += [(x0, y0, x1, middle - gap / 2), (x0, middle + gap / 2, x1, y1)]
    return lots


def _building(rng: np.random.Generator, style: Style, width: float, height: float) -> list[np.ndarray]:
    """Outline about the origin, inside a lot of width x height; a second ring is a courtyard."""
    w = width * (1 - rng.uniform(0, style.setback)) / 2
    h = height * (1 - rng.uniform(0, style.setback)) / 2
    small = min(w, h)
    shape = rng.choice(["box", "L", "U", "T", "court"], p=[0.66, 0.15, 0.05, 0.05, 0.09])
    if small < 5:
        shape = "box" if shape != "L" else "L"
    depth = float(np.clip(rng.uniform(0.35, 0.65) * 2 * small, 4, 14))  # of a wing, m
    if shape == "L":
        ring = [
            (-w, -h),
            (w, -h),
            (w, h - rng.uniform(0.3, 0.7) * 2 * h),
            (w - rng.uniform(0.3, 0.7) * 2 * w, 0),
            (0, h),
            (-w, h),
        ]
        inner_x, inner_y = ring[3][0], ring[2][1]
        ring[3], ring[4] = (inner_x, inner_y), (inner_x, h)
    elif shape == "U" and 2 * w > 2.4 * depth:
        ring = [
            (-w, -h),
            (w, -h),
            (w, h),
            (w - depth, h),
            (w - depth, -h + depth),
            (-w + depth, -h + depth),
            (-w + depth, h),
            (-w, h),
        ]
    elif shape == "T":
        stem = max(depth / 2, 2.0)
        bar = -h + min(depth, 1.2 * h)
        ring = [(-w, -h), (w, -h), (w, bar), (stem, bar), (stem, h), (-stem, h), (-stem, bar), (-w, bar)]
    else:
        ring = [(-w, -h), (w, -h), (w, h), (-w, h)]
    rings = [np.array(ring)]
    if shape == "court" and 2 * small > 2.6 * depth:
        rings.append(
            np.array(
                [(-w + depth, -h + depth), (w - depth, -h + depth), (w - depth, h - depth), (-w + depth, h - depth)]
            )
        )
    flip = np.array([rng.choice([-1, 1]), rng.choice([-1, 1])])
    return [ring * flip for ring in rings]


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _add(buildings: np.ndarray, kept: list[np.ndarray], rings: list[np.ndarray], size: int) -> None:
    """Put a building on the map unless it touches another one or hardly reaches into the map."""
    low = np.floor(rings[0].min(axis=0)).astype(int) - 3
    high = np.ceil(rings[0].max(axis=0)).astype(int) + 4
    if (high < 0).any() or (low > size).any():
        return
    side = int(max(high - low))
    local = rasterize([ring - low for ring in rings], side)  # (side, side), origin at `low`
    rows = slice(max(low[1], 0), min(low[1] + side, size))
    columns = slice(max(low[0], 0), min(low[0] + side, size))
    part = local[rows.start - low[1] : rows.stop - low[1], columns.start - low[0] : columns.stop - low[0]]
    if part.sum() < 12:
        return
    around = ndimage.binary_dilation(part, iterations=2)
    if (around & buildings[rows, columns]).any():
        return
    buildings[rows, columns] |= part
    kept.extend(rings)


def random_transmitter(buildings: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """(x, y) of a whole pixel in the open, in the central 150 / 256 of the map as in RadioMapSeer.

    Raises:
        ValueError: no open pixel there.
    """
    height, width = buildings.shape
    margin_y, margin_x = round(height * 53 / 256), round(width * 53 / 256)
    open_pixels = ~ndimage.binary_dilation(buildings)
    rows, columns = np.nonzero(open_pixels[margin_y : height - margin_y, margin_x : width - margin_x])
    if not len(rows):
        raise ValueError("no open pixel in the middle of the map for a transmitter")
    pick = int(rng.integers(len(rows)))
    return int(columns[pick]) + margin_x, int(rows[pick]) + margin_y
