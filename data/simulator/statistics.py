"""Statistics of city layouts, for comparison with real cities."""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from ..layout import Layout

PERCENTILES = (5, 25, 50, 75, 95)
GAIN_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def _rectangle(points: np.ndarray) -> tuple[float, float]:
    """Short and long side of the smallest rectangle around points (N, 2), over edge directions in whole degrees."""
    best = (np.inf, 0.0, 0.0)
    for angle in np.radians(np.arange(90)):
        c, s = np.cos(angle), np.sin(angle)
        extent = np.ptp(points @ np.array([[c, -s], [s, c]]), axis=0) + 1
        best = min(best, (extent.prod(), extent.min(), extent.max()))
    return float(best[1]), float(best[2])


def layout_statistics(layout: Layout) -> dict[str, list[float]]:
    """Statistics of one layout: one value per map, or per building.

    Areas are in m2, sides and gaps in m. `alignment` is |mean of exp(4 i direction)| over wall length: 1 if all walls
    are parallel or perpendicular. `gap` is the distance to the nearest other building.
    """
    buildings = layout.inside
    labels, count = ndimage.label(buildings)
    out: dict[str, list[float]] = {"coverage": [float(buildings.mean())], "buildings": [float(count)]}
    for key in ("area", "short side", "long side", "aspect", "filled", "gap", "vertices", "on border"):
        out[key] = []
    height, width = buildings.shape
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[rows, columns] == number
        y, x = np.nonzero(mask)
        short, long = _rectangle(np.column_stack([x, y]).astype(float))
        out["area"].append(float(mask.sum()))
        out["short side"].append(short)
        out["long side"].append(long)
        out["aspect"].append(long / short)
        out["filled"].append(mask.sum() / (short * long))
        border = rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width
        out["on border"].append(float(border))
        if count > 1:
            out["gap"].append(_gap(labels, number, rows, columns))
    walls = []
    for ring in layout.outlines:
        out["vertices"].append(float(len(ring)))
        walls.append(np.roll(ring, -1, axis=0) - ring)
    if walls:
        edges = np.concatenate(walls)
        length = np.hypot(*edges.T)
        directions = np.exp(4j * np.arctan2(edges[:, 1], edges[:, 0]))
        out["alignment"] = [float(abs((length * directions).sum()) / length.sum())]
    return out


def _gap(labels: np.ndarray, number: int, rows: slice, columns: slice) -> float:
    """Distance from a building to the nearest other one."""
    for reach in (16, 64, max(labels.shape)):
        window = (
            slice(max(rows.start - reach, 0), rows.stop + reach),
            slice(max(columns.start - reach, 0), columns.stop + reach),
        )
        local = labels[window]
        others = (local != number) & (local > 0)
        if others.any():
            nearest = float(ndimage.distance_transform_edt(~others)[local == number].min())
            if nearest <= reach:
                return nearest
    return float(max(labels.shape))


def merge(parts: Iterable[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Pool the statistics of several maps."""
    pooled: dict[str, list[float]] = {}
    for part in parts:
        for key, values in part.items():
            pooled.setdefault(key, []).extend(values)
    return pooled
