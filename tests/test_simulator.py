"""The simulator against closed forms, symmetries and brute force."""

import numpy as np
import pytest
import shapely
import torch
from scipy import ndimage
from shapely.ops import substring

from data import Scene
from data.conditions import condition
from data.geometry.cars import cars_from_picture, picture_of_cars
from data.geometry.layout import SUBROWS, Layout
from data.geometry.registration import EDGE
from data.samples.augment import symmetry
from data.simulator import Simulator, line_of_sight, random_cars, random_city, random_transmitter, shortest_paths
from data.simulator.compiled import compiled
from data.simulator.propagation import LOS_SLOPE, PER_BEND, SLOPE, TURN_ANGLE, TURN_LIMIT
from data.simulator.scenes import random_scenes
from data.units import GAIN_MAX_DB, GAIN_MIN_DB, GAIN_SPAN_DB


def simulate(mask, tx):
    """Path gain for a city that is known as pixels."""
    return Simulator(Layout.traced(mask)).path_gain(tx)


def block(rows=slice(24, 40), columns=slice(28, 36)):
    buildings = np.zeros((64, 64), bool)
    buildings[rows, columns] = True
    return buildings


def test_code_is_compiled_where_no_folder_can_keep_it(monkeypatch):
    def njit(cache=False, nogil=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr("data.simulator.compiled.njit", njit)
    assert compiled(block) is block


def test_free_space_is_25_log10_d():
    gain = simulate(np.zeros((64, 64), bool), (10, 20))
    rows, columns = np.indices((64, 64))
    d = np.maximum(np.hypot(columns - 10, rows - 20), 1)
    assert np.allclose(gain, GAIN_MAX_DB - 25 * np.log10(d), atol=1e-4)
    assert Simulator(Layout([], (1, 1))).path_gain((0, 0)) == pytest.approx(GAIN_MAX_DB)  # the smallest map
    assert all(np.isfinite(Simulator(Layout([], (8, 8))).loss(tx)).all() for tx in ((-0.5, -0.5), (7.49, 7.49)))


def around(*path):
    """Loss along a path of points in 2D or 3D with a bend at each inner one."""
    legs = np.diff(np.array(path, float), axis=0)
    lengths = np.linalg.norm(legs, axis=1)
    cosines = (legs[1:] * legs[:-1]).sum(1) / lengths[1:] / lengths[:-1]
    turns = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return SLOPE * np.log10(lengths.sum()) + (PER_BEND + TURN_LIMIT * np.minimum(turns / TURN_ANGLE, 1)).sum()


def test_one_corner_exactly():
    """Behind the corner of a block that reaches the lower border; its corner is the centre of an open pixel."""
    ring = np.array([[28, 24], [36, 24], [36, 80], [28, 80]]) + (-EDGE, EDGE)
    loss = Simulator(Layout([ring], (64, 64))).loss((20, 40))
    for (column, row), corners in (((44, 12), 1), ((60, 20), 1), ((40, 26), 2), ((38, 25), 2)):
        least = around((20, 40), *[(28, 24), (36, 24)][:corners], (column, row))
        over = around((20, 40, 0), (28, 40, 21), (36, row, 21), (column, row, 0))
        assert loss[row, column] == pytest.approx(least, abs=0.02) and least < over
    assert loss[40, 5] == pytest.approx(LOS_SLOPE * np.log10(15))
    short = ring - [[0, 0], [0, 0], [0, 46], [0, 46]]  # from corner to corner no path leads through the building
    loss = Simulator(Layout([short], (64, 64))).loss((20, 16))
    for column, row in ((36, 30), (37, 35)):  # nor from a corner to a pixel on the far wall
        least = min(around((20, 16), corner, (column, row)) for corner in ((36, 24), (27, 34)))
        assert loss[row, column] >= least - 0.5


@pytest.mark.parametrize("walls", [1, 3])
def test_over_the_roofs_by_hand(walls):
    """Walls across the whole map leave only the way over them, which bends twice however many there are.

    A pixel keeps the path that reaches it first; beyond a dark gap that need not be the least one.
    """
    buildings = np.zeros((64, 64), bool)
    for first in range(20, 20 + 10 * walls, 10):
        buildings[:, first : first + 4] = True
    loss = Simulator(Layout.traced(buildings)).loss((10, 32))
    last = 10 * walls + 13
    least = around((10, 32, 0), (20, 32, 21), (last, 32, 21), (last + 12, 32, 0))
    assert least - 0.5 < loss[32, last + 12] < least + (0.5 if walls == 1 else 5)
    assert np.isinf(loss[buildings]).all()


def test_cars_by_hand():
    """A car across the ray is climbed beside it and left beside it; paths over roofs pass over cars; the effect is halved."""
    car = np.array([[20, 30], [22, 30], [22, 34], [20, 34]]) + (-EDGE, EDGE)
    simulator = Simulator(Layout([], (64, 64)), cars=Layout([car], (64, 64)))
    free, around_cars = simulator.loss((10, 32)), simulator.loss((10, 32), around_cars=True)
    for column, bends in ((21, 1), (22, 1), (23, 2), (50, 2)):
        path = [(10, 32), (19, 32), (22, 32)][: bends + 1]
        assert around_cars[32, column] == pytest.approx(around(*path, (column, 32)))
    assert around_cars[10, 40] == free[10, 40] and around_cars[32, 19] == free[32, 19]
    assert np.allclose(GAIN_MAX_DB - simulator.path_gain((10, 32)), (free + around_cars) / 2)
    spot = Layout.traced(block(32, 21))  # smaller than a car, below the transmitter
    assert np.isfinite(Simulator(Layout([], (64, 64)), cars=spot).loss((21, 32), around_cars=True)).all()
    wall = Layout([np.array([[10, -1], [14, -1], [14, 64], [10, 64]]) + (-EDGE, EDGE)], (64, 64))
    behind = Simulator(wall, cars=Layout([car], (64, 64)))
    assert np.array_equal(behind.path_gain((3, 32)), Simulator(wall).path_gain((3, 32)))


def test_buildings_and_bounds():
    buildings = block()
    gain = simulate(buildings, (10, 10))
    assert (gain[buildings] == GAIN_MIN_DB).all() and gain.dtype == np.float32
    assert gain.max() <= GAIN_MAX_DB and gain.min() >= GAIN_MIN_DB and gain[10, 10] == pytest.approx(GAIN_MAX_DB)
    for tx, message in (((30, 30), "inside a building"), ((64, 3), "outside"), ((-1, 3), "outside")):
        with pytest.raises(ValueError, match=message):
            simulate(buildings, tx)


def turned_layout(layout, index):
    """The outlines of a square layout, transformed as `symmetry` transforms its pictures."""
    last = layout.shape[0] - 1
    rings = [ring * (-1, 1) + (last, 0) if index & 4 else ring for ring in layout.outlines]
    for _ in range(index & 3):
        rings = [np.column_stack([ring[:, 1], last - ring[:, 0]]) for ring in rings]
    return Layout(rings, layout.shape)


@pytest.mark.parametrize("index", range(1, 8))
def test_symmetries(index):
    """Of outlines and all that is drawn from them; the search breaks ties in the order of pixels, so that a few differ."""
    scene = random_scenes(3)[0]
    marked = np.zeros(scene.layout.shape, bool)
    marked[round(scene.tx[1]), round(scene.tx[0])] = True
    row, column = np.argwhere(symmetry(torch.from_numpy(marked), index).numpy())[0]
    turned = Scene("t", turned_layout(scene.layout, index), (float(column), float(row)))

    def same(image):
        return symmetry(torch.from_numpy(np.array(image)), index).numpy()

    assert (turned.ori_mask == same(scene.ori_mask)).all()
    assert np.abs(turned.layout.coverage - same(scene.layout.coverage)).max() < 1.5 / SUBROWS
    for name in ("line_of_sight", "detour", "log_distance", "transmitter", "simulated"):
        there, here = condition(turned, [name], 256)[0], same(condition(scene, [name], 256)[0])
        assert (np.abs(there - here) > 0.01).mean() < 2e-3, name


def test_line_of_sight_against_shapely():
    city = random_city(np.random.default_rng(1), 64)
    tx = random_transmitter(city, np.random.default_rng(2))
    visible = line_of_sight(city, tx)
    walls = shapely.MultiLineString([ring[[*range(len(ring)), 0]] for ring in city.outlines])
    assert not visible[city.inside].any() and visible[tx[1], tx[0]] and visible.any()
    for row, column in np.argwhere(~city.inside)[::7]:
        ray = shapely.LineString([tx, (column, row)])
        inner = substring(ray, 0.6, max(ray.length - 0.6, 0.6))
        assert visible[row, column] == (not shapely.intersects(inner, walls))


def test_shortest_paths():
    rows, columns = np.indices((65, 65))  # odd: cells of one pixel
    straight, (found, _) = np.hypot(columns - 10, rows - 20), shortest_paths(np.zeros((65, 65), bool), (10, 20))
    assert (found >= straight - 1e-3).all() and (found <= 1.03 * straight + 1e-3).all()
    for size in (64, 65):
        wall = np.zeros((size, size), bool)
        wall[8:, 30:34] = True
        expected = np.hypot(30 - 20, 40 - 7.5) + 4 + np.hypot(44 - 34, 40 - 7.5)
        for direct in (False, True):
            found, turn = shortest_paths(wall, (20, 40), straight=direct)
            assert found[40, 44] == pytest.approx(expected, rel=0.06) and np.isinf(found[wall]).all()
        assert not turn[:, :28].any() and turn[40, 44] == pytest.approx(2 * np.arctan2(32.5, 10), abs=0.1)
        wall[:, 30:34] = True
        assert all(np.isinf(found[:, 36:]).all() for found in shortest_paths(wall, (20, 40), straight=True))


def test_pixels_of_outlines():
    ring = np.array([[4.5, 4.5], [20.5, 4.5], [20.5, 12.5], [4.5, 12.5]])
    expected = np.zeros((32, 32), bool)
    expected[5:13, 5:21] = True
    layout = Layout([ring], (32, 32))
    for drawn in (layout.inside, layout.coverage, Scene("s", layout, None).ori_mask):
        assert (drawn == expected).all()
    court = Layout([ring, ring * 0.5 + [6.25, 4.25]], (32, 32))  # one inside another
    assert court.inside.sum() == court.coverage.sum() == 16 * 8 - 8 * 4
    triangle = Layout([np.array([[2.0, 2.0], [26.0, 2.0], [2.0, 14.0]])], (32, 32))
    assert triangle.coverage.sum() == pytest.approx(24 * 12 / 2, rel=1e-6) and 0 < triangle.coverage[2, 10] < 1
    assert not Layout([], (8, 8)).inside.any() and not Layout([], (8, 8)).coverage.any()
    ring = np.array([[10.0, 30.0], [30.0, 10.0], [40.0, 20.0], [20.0, 40.0]]) + (-EDGE, EDGE)
    inside = Layout([ring], (64, 64)).inside  # pixel centres on diagonal walls
    assert inside[20, 20] and inside[30, 30] and not inside[19, 20] and not inside[30, 31]
    assert inside[35, 15] and not inside[15, 35]  # the other diagonals moved to the left and down


def test_exact_outlines_and_traced_ones_agree():
    city = random_city(np.random.default_rng(5), 96)
    tx = random_transmitter(city, np.random.default_rng(6))
    exact, traced = Simulator(city).path_gain(tx), simulate(city.inside, tx)
    error = (exact - traced)[~city.inside] / GAIN_SPAN_DB
    assert (error**2).mean() < 0.003


def test_cities_are_reproducible_and_varied():
    a, b = (random_city(np.random.default_rng(7), 128) for _ in range(2))
    assert (a.inside == b.inside).all()
    coverage = [random_city(np.random.default_rng(s), 128).inside.mean() for s in range(12)]
    assert 0.03 < min(coverage) < 0.2 < max(coverage) < 0.6
    places = [random_transmitter(a, np.random.default_rng(seed)) for seed in range(40)]
    assert all(not a.inside[y, x] and min(x, y) >= 26 and max(x, y) <= 101 for x, y in places)
    with pytest.raises(ValueError, match="no open pixel"):
        random_transmitter(Layout.traced(np.ones((64, 64), bool)), np.random.default_rng(0))


@pytest.mark.parametrize("seed, size", [(0, 256), (3, 128)])
def test_random_cars_stand_in_the_street_and_apart(seed, size):
    city = random_city(np.random.default_rng(seed), size)
    cars, again = (random_cars(city, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(cars.outlines, again.outlines)
    assert 0.8 < len(cars.outlines) / (100 * (size / 256) ** 2) <= 1
    assert not (cars.inside & city.inside).any()
    buildings = shapely.MultiLineString([np.concatenate([ring, ring[:1]]) for ring in city.outlines])
    assert not shapely.intersects(shapely.polygons(cars.outlines), buildings).any()
    read = cars_from_picture(picture_of_cars(cars)).outlines  # also tells that they are whole, and apart
    assert sorted(np.sort(ring, 0).tolist() for ring in read) == sorted(np.sort(r, 0).tolist() for r in cars.outlines)
    assert ndimage.distance_transform_edt(~city.inside)[cars.inside].mean() < 25  # m; streets run along buildings
    assert not random_cars(Layout.traced(np.ones((size, size), bool)), np.random.default_rng(1)).outlines
