"""Cars in small groups along routes from border to border, as RadioMapSeer has them along its roads (docs/data.md)."""

import numpy as np
import shapely
from scipy import ndimage, sparse
from scipy.sparse.csgraph import dijkstra

from ..crop import SIDE
from ..geometry.cars import car_outline
from ..geometry.layout import Layout

STREETS = (700.0, 1500.0)  # m of streets with cars on a map of RadioMapSeer
TRIES = 20  # routes that are looked for until there are as many metres
CELL = 4  # m, between the points of a route
NARROW, WIDE = 6.0, 20.0  # m to the nearest wall: routes avoid what is closer or farther away
CLEAR = 3.0  # m to the nearest wall, at least
GROUP, SPREAD = 3, 4.0  # cars tried together, and the standard deviation of their places along the street, m
LANE = 3.0  # m from the middle of a street to its cars
APART = 1.5  # m between two cars, so that a picture shows which is which


def random_cars(city: Layout, rng: np.random.Generator) -> Layout:
    """Cars beside some streets, apart from each other and from buildings; 100 on 256 x 256 m, fewer without room."""
    scale = city.shape[0] * city.shape[1] / SIDE**2
    count = round(100 * scale)
    points, directions = _streets(city, rng, rng.uniform(*STREETS) * scale)
    if not len(points):
        return Layout([], city.shape)
    group = rng.integers(len(points), size=count).repeat(GROUP)
    along, across = rng.normal(0, SPREAD, len(group)), rng.choice([-LANE, LANE], len(group))
    angle = directions[group]
    x = points[group, 0] + along * np.cos(angle) - across * np.sin(angle)
    y = points[group, 1] + along * np.sin(angle) + across * np.cos(angle)
    degrees = np.degrees(angle) + rng.choice([0, 90], len(group))
    centres = np.column_stack([x, y]).round()
    rings = np.array([car_outline(each, turn) for each, turn in zip(centres, degrees, strict=True)]).reshape(-1, 4, 2)
    rings = rings[((rings >= 0) & (rings <= np.array(city.shape[::-1]) - 1)).all(axis=(1, 2))]
    cars, walls = shapely.polygons(rings), shapely.STRtree([shapely.LinearRing(ring) for ring in city.outlines])
    column, row = rings.mean(axis=1).round().astype(int).T
    free = ~city.inside[row, column]
    free[walls.query(cars, predicate="intersects")[0]] = False
    kept = []
    for number, ring in enumerate(rings):
        if free[number]:
            kept.append(ring)
            free[shapely.dwithin(cars[number], cars, APART)] = False
    return Layout(kept[:count], city.shape)


def _streets(city: Layout, rng: np.random.Generator, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) of x, y on `wanted` m of streets, CELL apart, and their directions (N,) in radians."""
    clearance = ndimage.distance_transform_edt(~city.inside) if city.inside.any() else np.full(city.shape, WIDE)
    clearance = clearance[CELL // 2 :: CELL, CELL // 2 :: CELL]
    number, graph = np.arange(clearance.size).reshape(clearance.shape), _grid(clearance)
    points, directions, passed = [np.zeros((0, 2))], [np.zeros(0)], set[int]()
    for turn in range(TRIES):
        near, far = (number[:, 0], number[:, -1]) if turn % 2 else (number[0], number[-1])
        way, before = dijkstra(graph, directed=False, indices=rng.choice(near), return_predecessors=True)
        ends = far[np.isfinite(way[far])]
        if not len(ends):
            continue
        route = [rng.choice(ends)]
        while before[route[-1]] >= 0:
            route.append(before[route[-1]])
        row, column = np.divmod(np.array(route, float), clearance.shape[1])
        smooth = ndimage.gaussian_filter1d(np.column_stack([column, row]), 2, axis=0, mode="nearest") * CELL + CELL // 2
        step = np.gradient(smooth, axis=0)
        new = [cell not in passed for cell in route]
        points.append(smooth[new])
        directions.append(np.arctan2(step[new, 1], step[new, 0]))
        passed.update(route)
        if len(passed) * CELL > wanted:
            break
    return np.concatenate(points), np.concatenate(directions)


def _grid(clearance: np.ndarray) -> sparse.csr_array:
    """Costs of the steps between neighbouring points of a grid (h, w), each so many metres from the nearest wall."""
    metres = np.maximum(clearance, CLEAR)
    cost = np.where(clearance < CLEAR, np.inf, 1 + (NARROW / metres) ** 2 + (metres / WIDE) ** 2).ravel()
    number = np.arange(cost.size).reshape(clearance.shape)
    straight = ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:]))
    diagonal = ((number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1]))
    start, end = np.concatenate([np.reshape(pair, (2, -1)) for pair in (*straight, *diagonal)], axis=1)
    length = np.where(np.arange(len(start)) < sum(pair[0].size for pair in straight), 1, np.sqrt(2))
    price = length * (cost[start] + cost[end]) / 2
    used = np.isfinite(price)
    return sparse.csr_array((price[used], (start[used], end[used])), shape=(cost.size, cost.size))
