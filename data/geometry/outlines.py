"""Outlines of buildings: tracing, simplifying, shrinking. A ring is an (N, 2) float64 array of x, y in pixels."""

from collections.abc import Sequence

import contourpy
import numpy as np
import shapely
from scipy import ndimage

from .georeference import pixel_of

TOLERANCE = 1.0  # px; largest distance of an outline from the midpoints of pixel edges
STRAIGHT = 8.0  # degrees; vertices that bend less are dropped


def rings_from_mask(buildings: np.ndarray) -> list[np.ndarray]:
    """Simplified outlines, courtyards included, of the 4-connected buildings of a mask (H, W) bool."""
    labels, _ = ndimage.label(buildings)
    rings = []
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        padded = np.pad(labels[window] == number, 1).astype(np.float64)
        origin = np.array([window[1].start - 1, window[0].start - 1])
        for contour in contourpy.contour_generator(z=padded).lines(0.5):
            points = contour[:-1] + origin
            if len(points) <= 6:  # of one or two pixels
                (left, top), (right, bottom) = points.min(0), points.max(0)
                rings.append(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]))
            else:
                ring = _simplify(points)
                rings.append(drop_straight(ring) if len(ring) >= 3 else points)  # a thin wall would vanish
    return rings


def _simplify(points: np.ndarray) -> np.ndarray:
    """Douglas-Peucker on a closed contour; then a line is fitted to each edge and neighbouring lines intersected."""
    centre = points.mean(axis=0)
    points = np.roll(points, -int(np.argmax(((points - centre) ** 2).sum(1))), axis=0)
    opposite = int(np.argmax(((points - points[0]) ** 2).sum(1)))
    halves = points[: opposite + 1], np.vstack([points[opposite:], points[:1]])
    lines = [shapely.LineString(half).simplify(TOLERANCE, preserve_topology=False) for half in halves]
    number = {point: index for index, point in enumerate(map(tuple, points.tolist()))}
    kept = {number[point] for line in lines for point in line.coords}
    return _fit_edges(points, sorted(kept))


def _fit_edges(points: np.ndarray, kept: list[int]) -> np.ndarray:
    """Move each kept vertex to where the least-squares lines of its two edges meet, if that is within 1.5 px."""
    lines = []
    for a, b in zip(kept, [*kept[1:], kept[0] + len(points)], strict=True):
        edge = points[np.arange(a, b + 1) % len(points)]
        start, end = edge[[0, -1]]
        if len(edge) >= 5:
            edge = edge[1:-1]  # vertices belong to two edges
        length = np.hypot(*(end - start))
        if len(edge) < 4 and length > 1e-9:
            lines.append(((start + end) / 2, (end - start) / length))
        else:
            middle = edge.mean(axis=0)
            lines.append((middle, np.linalg.svd(edge - middle, full_matrices=False)[2][0]))
    ring = points[kept]
    for index in range(len(ring)):
        (m1, d1), (m2, d2) = lines[index - 1], lines[index]
        cross = d1[0] * d2[1] - d1[1] * d2[0]
        if abs(cross) > 0.2:
            meeting = m1 + ((m2 - m1)[0] * d2[1] - (m2 - m1)[1] * d2[0]) / cross * d1
            if np.hypot(*(meeting - ring[index])) <= 1.5:
                ring[index] = meeting
    return ring


def drop_straight(ring: np.ndarray) -> np.ndarray:
    """Drop vertices of a ring (N, 2) that bend by less than STRAIGHT degrees, the flattest first."""
    while len(ring) > 3:
        arriving, leaving = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
        angles = np.abs(np.degrees(np.arctan2(cross, (arriving * leaving).sum(1))))
        if angles.min() >= STRAIGHT:
            break
        ring = np.delete(ring, np.argmin(angles), axis=0)
    return ring


def shrink(ring: np.ndarray, buildings: np.ndarray, distance: float) -> np.ndarray:
    """Move every edge of a ring by `distance` px into the building, on whichever side of the ring it lies."""
    edge = np.roll(ring, -1, axis=0) - ring
    length = np.hypot(edge[:, 0], edge[:, 1])
    tangent = edge / np.maximum(length, 1e-9)[:, None]
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    middle = (ring + np.roll(ring, -1, axis=0)) / 2
    vote = length * (is_building(buildings, middle + normal).astype(float) - is_building(buildings, middle - normal))
    if vote[length >= 1].sum() < 0:
        normal = -normal
    bisector = np.roll(normal, 1, axis=0) + normal
    square = (bisector**2).sum(1)
    # a mitre, unless the corner is too sharp: then twice the distance along the bisector
    scale = np.where(square > 0.3, 2 / np.maximum(square, 1e-12), 2 / np.maximum(np.sqrt(square), 1e-6))
    return ring + distance * bisector * scale[:, None]


def is_building(buildings: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points (N, 2) lie inside the buildings (H, W) bool, (N,) bool; points beyond the map are moved to its border."""
    return buildings[pixel_of(points.clip(0, np.array(buildings.shape[::-1]) - 1))]


def united(polygons: Sequence[shapely.Geometry] | np.ndarray) -> list[np.ndarray]:
    """The rings of polygons that may overlap, as one shape: outlines and courtyards."""
    return [
        np.array(ring.coords)[:-1]
        for part in shapely.get_parts(shapely.union_all(shapely.make_valid(np.array(polygons, object))))
        if isinstance(part, shapely.Polygon) and not part.is_empty
        for ring in (part.exterior, *part.interiors)
    ]


def segments_of(rings: list[np.ndarray]) -> np.ndarray:
    """(S, 4) wall segments of closed rings."""
    return np.concatenate([np.zeros((0, 4)), *(np.column_stack([ring, np.roll(ring, -1, axis=0)]) for ring in rings)])
