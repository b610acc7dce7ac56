"""The simulator against closed forms, symmetries and brute force."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import RadioMapSeer
from data.simulator import Laws, Simulator, detour_distance, line_of_sight, random_city, random_transmitter, simulate
from data.simulator.polygons import corners_of, rasterize, rings_from_mask, turn_angles
from data.simulator.statistics import layout_statistics, merge
from data.simulator.visibility import blocked, make_walls
from data.units import GAIN_MAX_DB, GAIN_MIN_DB

ROOT = Path(__file__).resolve().parents[1]


def block(size=64, rows=slice(24, 40), columns=slice(28, 36)):
    buildings = np.zeros((size, size), bool)
    buildings[rows, columns] = True
    return buildings


def test_free_space_is_25_log10_d():
    gain = simulate(np.zeros((64, 64), bool), (10, 20))
    rows, columns = np.indices((64, 64))
    d = np.maximum(np.hypot(columns - 10, rows - 20), 1)
    assert np.allclose(gain, GAIN_MAX_DB - 25 * np.log10(d), atol=1e-4)


def test_one_corner_by_hand():
    """A pixel behind a block: the shorter way around, over the roof, or the least of the two."""
    laws, buildings = Laws(), block()
    tx, pixel = (20, 32), (44, 20)
    gain = simulate(buildings, tx)[pixel[1], pixel[0]]
    corner = np.array([27.5, 23.5])  # the two upper corners of the block, at the edges of its pixels
    corner2 = np.array([35.5, 23.5])

    def turn(a, b, c):
        u, v = (b - a) / np.hypot(*(b - a)), (c - b) / np.hypot(*(c - b))
        return np.degrees(np.arccos(u @ v))

    start, end = np.array(tx, float), np.array(pixel, float)
    # from tx around the first corner, the second one does not bend the path any more if it lies behind the line
    around = []
    for path in ([start, corner, end], [start, corner, corner2, end]):
        length = sum(np.hypot(*(b - a)) for a, b in zip(path[:-1], path[1:], strict=True))
        turns = [turn(a, b, c) for a, b, c in zip(path[:-2], path[1:-1], path[2:], strict=True)]
        loss = sum(laws.per_corner + min(laws.per_degree * t, laws.turn_limit) for t in turns)
        around.append(laws.offset + laws.slope * np.log10(length) + loss)
    assert gain == pytest.approx(GAIN_MAX_DB - around[0], abs=0.35)  # the outline is known to a fraction of a pixel
    assert around[0] < around[1]


def test_over_the_roof_by_hand():
    """A wall across the whole map leaves only the way over it."""
    laws = Laws()
    buildings = block(rows=slice(0, 64), columns=slice(30, 34))
    gain = simulate(buildings, (10, 32))
    h, up, down, total = laws.roof_height, 19.5, 16.5, 40.0  # walls at x = 29.5 and 33.5, pixel at x = 50
    length = np.hypot(up, h) + (total - up - down) + np.hypot(down, h)
    turns = [np.degrees(np.arctan2(h, up)), np.degrees(np.arctan2(h, down))]
    loss = sum(laws.per_corner + min(laws.per_degree * t, laws.turn_limit) for t in turns)
    expected = GAIN_MAX_DB - (laws.offset + laws.slope * np.log10(length) + loss)
    assert gain[32, 50] == pytest.approx(expected, abs=0.3)


def test_buildings_and_bounds():
    buildings = block()
    gain = simulate(buildings, (10, 10))
    assert (gain[buildings] == GAIN_MIN_DB).all() and gain.dtype == np.float32
    assert gain.max() <= GAIN_MAX_DB and gain.min() >= GAIN_MIN_DB and gain[10, 10] == pytest.approx(GAIN_MAX_DB)
    for tx, message in (((30, 30), "inside a building"), ((64, 3), "outside"), ((-1, 3), "outside")):
        with pytest.raises(ValueError, match=message):
            simulate(buildings, tx)


def test_flips_and_quarter_turns():
    buildings = random_city(np.random.default_rng(3), 64).buildings
    x, y = random_transmitter(buildings, np.random.default_rng(4))
    base = simulate(buildings, (x, y))
    flipped = simulate(buildings[:, ::-1].copy(), (63 - x, y))[:, ::-1]
    turned = np.rot90(simulate(np.rot90(buildings).copy(), (y, 63 - x)), -1)
    for other in (flipped, turned):  # outlines are traced from another starting point: equal but for a few pixels
        assert np.mean(np.abs(base - other) > 1.0) < 0.03


def test_line_of_sight_against_brute_force():
    buildings = random_city(np.random.default_rng(1), 64).buildings
    tx = random_transmitter(buildings, np.random.default_rng(2))
    visible = line_of_sight(buildings, tx)
    assert not visible[buildings].any() and visible[tx[1], tx[0]]
    for row, column in np.random.default_rng(0).integers(0, 64, (300, 2)):
        if buildings[row, column]:
            continue
        share = np.linspace(0, 1, 2000)[1:-1]
        r = np.floor(tx[1] + (row - tx[1]) * share + 0.5).astype(int)
        c = np.floor(tx[0] + (column - tx[0]) * share + 0.5).astype(int)
        hits = buildings[r, c].mean()
        if hits == 0:
            assert visible[row, column]
        elif hits > 0.01:  # more than a grazed corner
            assert not visible[row, column]


def test_detour_distance():
    open_field = detour_distance(np.zeros((64, 64), bool), (10, 20), cell=1)
    rows, columns = np.indices((64, 64))
    straight = np.hypot(columns - 10, rows - 20)
    assert (open_field >= straight - 1e-3).all() and (open_field <= 1.03 * straight + 1e-3).all()
    wall = np.zeros((64, 64), bool)
    wall[8:, 30:34] = True
    around = detour_distance(wall, (20, 40), cell=1)
    expected = np.hypot(30 - 20, 40 - 7.5) + 4 + np.hypot(44 - 34, 40 - 7.5)
    assert around[40, 44] == pytest.approx(expected, rel=0.05)
    assert np.isinf(around[wall]).all()
    wall[:, 30:34] = True
    assert np.isinf(detour_distance(wall, (20, 40))[:, 36:]).all()


def test_rays_against_segments_brute_force():
    random = np.random.default_rng(0)
    segments = random.uniform(0, 40, (30, 4))
    walls = make_walls(segments, (40, 40))
    for x0, y0, x1, y1 in random.uniform(0, 39, (300, 4)):
        d = np.array([x1 - x0, y1 - y0])
        e = segments[:, 2:] - segments[:, :2]
        cross = d[0] * e[:, 1] - d[1] * e[:, 0]
        offset = segments[:, :2] - [x0, y0]
        t = (offset[:, 0] * e[:, 1] - offset[:, 1] * e[:, 0]) / cross
        u = (offset[:, 0] * d[1] - offset[:, 1] * d[0]) / cross
        margin = 0.6 / np.hypot(*d)
        expected = ((t > margin) & (t < 1 - margin) & (u >= 0) & (u <= 1)).any()
        assert blocked(walls, x0, y0, x1, y1, 0.6) == expected


def test_polygons_of_a_mask():
    rings = rings_from_mask(block())
    assert len(rings) == 1 and len(rings[0]) == 4
    assert np.allclose(np.sort(rings[0][:, 0]), [27.5, 27.5, 35.5, 35.5], atol=0.3)
    assert np.allclose(np.abs(turn_angles(rings[0])), 90, atol=3)
    court = block()
    court[28:36, 30:34] = False
    assert len(rings_from_mask(court)) == 2
    assert len(corners_of(rings_from_mask(court), court)) == 4  # the courtyard's corners are concave


def test_rasterize_is_the_inverse_within_half_a_pixel():
    ring = np.array([[4.5, 4.5], [20.5, 4.5], [20.5, 12.5], [4.5, 12.5]])
    mask = rasterize([ring], 32)
    expected = np.zeros((32, 32), bool)
    expected[5:13, 5:21] = True
    assert (mask == expected).all()
    hole = rasterize([ring, ring * 0.5 + [6.25, 4.25]], 32)
    assert hole.sum() < mask.sum()


def test_exact_outlines_and_traced_ones_agree():
    city = random_city(np.random.default_rng(5), 96)
    tx = random_transmitter(city.buildings, np.random.default_rng(6))
    exact, traced = Simulator(city.buildings, city.rings).path_gain(tx), simulate(city.buildings, tx)
    error = (exact - traced)[~city.buildings] / 99.16
    assert (error**2).mean() < 0.003


def test_cities_are_reproducible_and_varied():
    a, b = (random_city(np.random.default_rng(7), 128).buildings for _ in range(2))
    assert (a == b).all()
    coverage = [random_city(np.random.default_rng(s), 128).buildings.mean() for s in range(12)]
    assert 0.03 < min(coverage) < 0.2 < max(coverage) < 0.6
    with pytest.raises(ValueError, match="no open pixel"):
        random_transmitter(np.ones((64, 64), bool), np.random.default_rng(0))


def test_layout_statistics_of_a_known_map():
    buildings = np.zeros((64, 64), bool)
    buildings[10:20, 10:30] = True
    buildings[10:20, 36:46] = True
    figures = layout_statistics(buildings)
    assert figures["buildings"] == [2] and figures["coverage"] == [300 / 4096]
    assert sorted(figures["area"]) == [100, 200] and figures["gap"] == [7, 7]
    assert sorted(figures["aspect"]) == pytest.approx([1, 2]) and figures["filled"] == pytest.approx([1, 1])
    assert figures["alignment"][0] == pytest.approx(1, abs=1e-3)
    assert merge([figures, figures])["buildings"] == [2, 2]


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def test_make_dataset(tmp_path):
    common = ("--tx", 2, "--seed", 5, "--size", 64)
    done = script("make_dataset.py", "--out", tmp_path / "a", "--maps", 3, "--workers", 1, *common)
    assert done.returncode == 0, done.stderr
    made = files(tmp_path / "a")
    assert len(made) == 3 + 6 + 6
    scene = RadioMapSeer(tmp_path / "a").scene(0)
    assert scene.gain.shape == (64, 64) and (scene.gain[scene.buildings] == 0).all()
    assert scene.gain[int(scene.tx[1]), int(scene.tx[0])] == 1
    # the same whatever the workers and whatever was there; more maps leave the first ones alone
    assert script("make_dataset.py", "--out", tmp_path / "b", "--maps", 1, "--workers", 2, *common).returncode == 0
    (tmp_path / "b" / "gain" / "DPM" / "0_1.png").unlink()
    assert script("make_dataset.py", "--out", tmp_path / "b", "--maps", 3, "--workers", 2, *common).returncode == 0
    assert files(tmp_path / "b") == made
    other = script("make_dataset.py", "--out", tmp_path / "a", "--maps", 3, "--tx", 2, "--seed", 6, "--size", 64)
    assert other.returncode == 2 and "seed=5" in other.stderr and "Traceback" not in other.stderr
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    refused = script("make_dataset.py", "--out", mine, "--maps", 1, *common)
    assert refused.returncode == 2 and (mine / "thesis.txt").read_text() == "precious"
    odd = script("make_dataset.py", "--out", tmp_path / "c", "--maps", 1, "--tx", 1, "--size", 100)
    assert odd.returncode == 2 and "--size" in odd.stderr and not (tmp_path / "c").exists()
    assert json.loads((tmp_path / "a" / "dataset.json").read_text())["settings"]["seed"] == 5


def test_simulate_one_city(tmp_path):
    city, out = tmp_path / "city.png", tmp_path / "map.png"
    Image.fromarray(block(64)[:48].astype(np.uint8) * 255).save(city)
    done = script("simulate.py", "--buildings", city, "--tx", "10,10", "--out", out)
    assert done.returncode == 0, done.stderr
    assert np.array(Image.open(out)).shape == (48, 64)
    for arguments, message in (
        (("--buildings", city, "--tx", "10,10", "--out", out), "--force"),
        (("--buildings", city, "--tx", "30,30", "--out", tmp_path / "x.png"), "inside a building"),
        (("--buildings", city, "--tx", "99,9", "--out", tmp_path / "x.png"), "outside"),
        (("--buildings", city, "--tx", "nine", "--out", tmp_path / "x.png"), "X,Y"),
        (("--buildings", tmp_path / "no.png", "--tx", "1,1", "--out", tmp_path / "x.png"), "no.png"),
    ):
        refused = script("simulate.py", *arguments)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
