"""Scenes that are known in part: what is left out, and measured points."""

from dataclasses import replace

import numpy as np
import pytest

from data import DataError, FlatTree, open_tree
from data.conditions import CONDITION_CHANNELS, condition
from data.crop import crop
from data.geometry.layout import Layout
from data.incomplete import Incomplete
from data.measurements import spread_points
from data.samples.augment import Augmentation
from data.samples.document import RadioUNet_c
from data.simulator import line_of_sight, random_cars
from data.simulator.scenes import random_scenes
from evaluation.references import simulator_map

CHANNELS = ("buildings", "transmitter", "measured_gain", "measured")


@pytest.fixture(scope="module")
def scene():
    return random_scenes(3)[0]


def renamed(scene, count):
    """Scenes that differ in what is drawn for them."""
    return [replace(scene, name=str(number)) for number in range(count)]


def test_missing_buildings_go_whole_and_are_not_certain(scene):
    assert Incomplete().apply(scene) is scene
    with pytest.raises(DataError, match="set points, too"):
        Incomplete(points_noise=2.0)
    poorer = Incomplete(missing_buildings=3, exactly=True).shown(scene)
    assert len(poorer.shown.outlines) <= len(scene.layout.outlines) - 3
    assert (poorer.ori_mask == poorer.shown.inside).all() and (poorer.buildings == scene.buildings).all()
    counts = {len(Incomplete(missing_buildings=2).shown(each).shown.outlines) for each in renamed(scene, 30)}
    assert len(counts) == 3  # none, one or two
    square = np.array([[0.0, 0], [20, 0], [20, 20], [0, 20]])
    layout = Layout([square + 5, square / 2 + 10, square / 2 + 40], (64, 64))
    for each in renamed(replace(scene, layout=layout, gain=None, tx=(1.0, 1.0)), 8):
        known = Incomplete(missing_buildings=1, exactly=True).shown(each).shown
        assert len(known.outlines) in (1, 2)  # the small building, or the large one with its courtyard
        assert (layout.inside & ~known.inside).any() and not (known.inside & ~layout.inside).any()
    empty = replace(scene, layout=Layout([], (64, 64)), gain=None, tx=(1.0, 1.0))
    assert not Incomplete(missing_buildings=2, exactly=True).shown(empty).shown.outlines


def test_buildings_of_one_or_two_pixels_and_courtyards_of_one_stay(scene):
    mask = np.zeros((24, 24), bool)
    mask[4, 4] = mask[8, 8:10] = mask[16:18, 20] = True
    mask[12:15, 3:6] = True
    mask[13, 4] = False
    small = replace(scene, layout=Layout.traced(mask), gain=None, tx=(4.0, 1.0))
    assert np.array_equal(Incomplete(outline_error=1e-6).shown(small).shown.inside, mask)
    assert not line_of_sight(small.layout, (4.0, 1.0))[6, 4]  # it blocks


def test_wrong_outlines_make_no_pixel_certain(scene):
    wrong = Incomplete(outline_error=2.0).shown(scene)
    assert (wrong.shown.inside != scene.layout.inside).any() and not wrong.ori_mask.any()
    near = replace(scene, tx=scene.layout.nearest_open(tuple(scene.layout.outlines[0][0])))
    for each in renamed(near, 60):  # nor is the transmitter inside a building that came to lie over it
        known = Incomplete(outline_error=3.0).shown(each)
        assert not known.shown.inside[round(known.shown_tx[1]), round(known.shown_tx[0])]
    squares = np.array([[0.0, 0], [9, 0], [9, 9], [0, 9]]) + 40 * np.array([*np.ndindex(6, 6)])[:, None] + 10
    moved = Incomplete(outline_error=2.0).shown(replace(scene, layout=Layout([*squares], (256, 256)))).shown.outlines
    assert len(moved) == 36 and np.ptp(moved, axis=1) == pytest.approx(9)  # each building as a whole
    assert 1 < np.std((np.mean(moved, axis=1) - 14.5 + 20) % 40) < 3
    beside = replace(scene, layout=Layout([squares[0], squares[0] + (9, 0)], (256, 256)))
    for each in renamed(beside, 20):  # open ground only between the two
        known = Incomplete(outline_error=2.0).shown(each).shown
        assert (np.diff(known.inside.astype(int), axis=1) == 1).sum(1).max() <= len(known.outlines)


def test_an_uncertain_transmitter(scene):
    lost = Incomplete(transmitter_unknown=1.0).shown(scene)
    assert lost.shown_tx is None and lost.tx == scene.tx
    for name in ("transmitter", "line_of_sight", "log_distance", "detour", "simulated"):
        assert not CONDITION_CHANNELS[name](lost, 64).any()
    near = [Incomplete(transmitter_error=3.0).shown(each) for each in renamed(scene, 40)]
    assert not any(each.shown.inside[round(each.shown_tx[1]), round(each.shown_tx[0])] for each in near)
    assert 1.5 < np.std([np.subtract(each.shown_tx, scene.tx) for each in near]) < 5
    assert np.abs(CONDITION_CHANNELS["simulated"](near[0], 256) - scene.gain).max() > 0.01


def test_cars_that_the_condition_does_not_show(scene):
    with_cars = replace(scene, cars=random_cars(scene.layout, np.random.default_rng(0)))
    hidden = Incomplete(cars_unknown=1.0).shown(with_cars)
    for name in ("cars", "simulated"):
        without, shown, lost = (CONDITION_CHANNELS[name](each, 256) for each in (scene, with_cars, hidden))
        assert np.array_equal(lost, without) and not np.array_equal(shown, without)
    known = [Incomplete(cars_unknown=0.5).shown(each).shown_cars for each in renamed(with_cars, 40)]
    assert 8 < known.count(None) < 32


def test_points_lie_where_something_is_received(scene):
    def points(each=scene, **how):
        return Incomplete(**how).apply(each).measurements

    exact = points(points=50, exactly=True)
    x, y, gain = exact.T
    assert exact.shape == (50, 3) and (scene.gain[y.astype(int), x.astype(int)] == gain).all()
    assert (gain > 0).all() and len(set(zip(x, y, strict=True))) == 50
    difference = points(points=50, points_noise=5.0, points_jitter=2.0, exactly=True) - exact
    assert 2 < np.std(difference[:, 2]) * 99.16 < 8 and 1 < np.std(difference[:, :2]) < 3
    counts = [len(points(each, points=99)) for each in renamed(scene, 200)]
    assert min(counts) == 0 and max(counts) > 50 and 5 < np.median(counts) < 14


@pytest.mark.parametrize("size", [64, 32])
def test_a_point_speaks_for_its_neighbourhood(size):
    """Weights exp(-d / 15) / d against 0.02, d in metres of a map of 64 px, whatever the resolution."""
    values, confidence = spread_points(np.array([[20, 10, 0.8]], np.float32), 64, size, 0.2)
    step = 64 // size
    row, column = 10 // step, 20 // step
    assert values[row, column] == pytest.approx(0.8, abs=0.003) and confidence[row, column] > 0.997
    away = np.exp(-12 / 15) / 12
    assert confidence[row, column + 12 // step] == pytest.approx(away / (away + 0.02), abs=1e-6)
    assert values[row, column + 12 // step] == pytest.approx(0.2 + 0.6 * away / (away + 0.02), abs=1e-6)
    assert abs(values[-1, -1] - 0.2) < 0.02 and confidence.min() >= 0
    points = np.array([[0, 0, 0.2], [1, 1, 0.4], [63, 31, 0.5]], np.float32)  # two of them in a pixel of 2 m
    values, confidence = spread_points(points, 64, 32)
    assert values[0, 0] == pytest.approx(0.3, abs=0.002) and values[15, 31] == pytest.approx(0.5, abs=0.002)
    assert confidence[15, 31] < confidence[0, 0] < 1


def test_the_condition_shows_given_measurements(scene):
    """They correct the simulated channel as far as they reach, by the difference that was measured."""
    known = replace(scene, measurements=np.array([[100, 39, 0.9], [100, 39, 0.7]], np.float32))
    plain, cond = (condition(each, (*CHANNELS, "simulated"), 256) for each in (scene, known))
    assert cond[2, 39, 100] == pytest.approx(0.6, abs=0.01) and cond[3, 39, 100] > 0.99 and cond[3, 250, 250] < -0.99
    assert (plain[2:4] == -1).all() and (cond[:2] == plain[:2]).all()
    near = slice(36, 43), slice(97, 104)
    assert cond[4, 39, 100] == pytest.approx(0.6, abs=0.01) and (cond[4][near] > plain[4][near] + 0.3).all()
    assert np.allclose(cond[4, :, 180:], plain[4, :, 180:], atol=1e-3)
    assert np.allclose(simulator_map(known), np.where(scene.ori_mask, 0, (cond[4] + 1) / 2), atol=1e-5)
    part = crop(replace(known, known_tx=(50.0, 60.0)), 128).scene  # positions move with the crop
    first = np.subtract(known.tx, part.tx)
    assert np.allclose(part.known_tx + first, (50, 60))
    assert len(part.measurements) == 0 or np.allclose(part.measurements[0, :2] + first, [100, 39])


@pytest.mark.parametrize("jitter, size", [(0.0, 256), (4.0, 64)])
def test_points_leave_a_right_simulation_as_it_is(scene, jitter, size):
    """At any resolution, and where a position is off and lies in a building."""
    points = Incomplete(points=300, points_jitter=jitter, exactly=True).apply(scene).measurements
    if jitter:  # values of the street, at places in buildings alone
        column, row = np.floor(points[:, :2] + 0.5).astype(int).T
        points = points[scene.layout.inside[row, column]]
        assert len(points) > 5
    plain, told = (condition(s, ("simulated",), size) for s in (scene, replace(scene, measurements=points)))
    assert np.abs(told - plain).max() < 0.01


def test_a_dataset_draws_points_by_the_sample_s_key(radiomapseer):
    channels = (*CHANNELS, "simulated")  # which the points correct
    how = {"image_size": 32, "cond_size": 32, "cond_channels": channels, "augmentation": Augmentation()}
    dataset = RadioUNet_c(radiomapseer, incomplete=Incomplete(points=30), **how)
    cached = RadioUNet_c(radiomapseer, incomplete=Incomplete(points=30), cache=True, **how)
    assert dataset[1, 5]["cond"].allclose(cached[1, 5]["cond"], atol=1e-3)
    assert not dataset[1, 5]["cond"].equal(dataset[1, 6]["cond"])
    samples = [dataset[1, key] for key in range(9)]
    measured = [sample["cond"][3] > 0.991 for sample in samples]
    assert sum(int(where.sum()) for where in measured) > 20
    for sample, where in zip(samples, measured, strict=True):  # turned with the image
        assert not where.any() or (sample["cond"][2] - sample["image"][0])[where].abs().max() < 0.1
    expected = condition(Incomplete(points=30).apply(dataset.scene(1)), channels, 32)  # by the name, as for scoring
    assert np.allclose(dataset[1]["cond"], expected, atol=0.01) and "native" not in dataset[1]
    plain = RadioUNet_c(radiomapseer, **how)
    poorer = RadioUNet_c(radiomapseer, incomplete=Incomplete(missing_buildings=1, exactly=True), **how)
    assert plain.identity() == dataset.identity() != poorer.identity()
    assert (poorer.scene(0).shown.inside != plain.scene(0).shown.inside).any()


def test_a_ready_made_condition_cannot_be_measured_on(flat_tree):
    scene = FlatTree(flat_tree).scene(0)
    assert Incomplete(exactly=True).apply(scene) is scene
    with pytest.raises(DataError, match="scene s0: has a ready-made condition"):
        Incomplete(points=3).apply(scene)
    with pytest.raises(DataError, match="has a ready-made condition"):
        RadioUNet_c(flat_tree, incomplete=Incomplete(missing_buildings=1))
    with pytest.raises(DataError, match="ready-made conditions; no buildings"):
        open_tree(flat_tree, missing_buildings=1)
