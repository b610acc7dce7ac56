"""Metrics and untrained predictors against direct formulas."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from data import DataError, Scene
from data.geometry.layout import Layout
from data.units import apply_noise_floor
from evaluation import figures
from evaluation.figures import comparison_figure, radio_map_figure
from evaluation.metrics import PERFECT_PSNR, Scores, detail, map_scores, ssim
from evaluation.references import MeanMap, log_distance_law, los_nlos_law
from evaluation.table import error_shares, interval
from scripts.evaluate import score_others


def direct_ssim(x, y):
    """The definition, one window at a time."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row in range(5, x.shape[0] - 5):
        for column in range(5, x.shape[1] - 5):
            a, b = x[row - 5 : row + 6, column - 5 : column + 6], y[row - 5 : row + 6, column - 5 : column + 6]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_ssim_is_its_definition():
    random = np.random.default_rng(0)
    x = random.random((20, 24))
    y = np.clip(x + 0.2 * random.standard_normal(x.shape), 0, 1)
    assert ssim(x, y) == pytest.approx(direct_ssim(x, y), abs=1e-9)
    assert ssim(x, x) == pytest.approx(1)


def test_map_scores():
    target, prediction = np.full((16, 16), 0.5), np.full((16, 16), 0.6)
    scores = map_scores(prediction, target)
    assert scores["nmse"] == pytest.approx(0.04) and scores["rmse"] == pytest.approx(0.1)
    assert scores["psnr"] == pytest.approx(20)
    assert map_scores(target, target)["psnr"] == PERFECT_PSNR
    assert math.isnan(map_scores(target, np.zeros((16, 16)))["nmse"])


def test_detail_is_power_of_fine_waves():
    y, x = np.indices((32, 32))
    fine, coarse = np.sin(2 * np.pi * x * 3 / 8), np.sin(2 * np.pi * y / 8)  # 2.7 and 8 pixels long
    target = 0.5 + 0.2 * fine + 0.2 * coarse
    assert detail(target, target) == 1
    assert detail(0.5 + 0.1 * fine + 0.4 * coarse, target) == pytest.approx(0.25)
    assert detail(0.5 + 0.2 * coarse, target) == pytest.approx(0, abs=1e-9)
    assert math.isnan(detail(target, np.full((32, 32), 0.3)))


def test_line_of_sight_and_shadow_are_scored_apart():
    target, prediction = np.full((16, 16), 0.5), np.full((16, 16), 0.5)
    visible = np.zeros((16, 16), bool)
    visible[:4] = True
    prediction[visible] += 0.1
    prediction[~visible] -= 0.2
    scores = Scores().add("a", prediction, target, {"los": visible, "nlos": ~visible})
    assert scores["nmse_los"] == pytest.approx(0.04) and scores["nmse_nlos"] == pytest.approx(0.16)
    summary = Scores()
    summary.add("a", prediction, target, {"los": visible, "nlos": ~visible})
    everywhere = np.ones((16, 16), bool)
    summary.add(
        "all in sight", prediction, target, {"los": everywhere, "nlos": ~everywhere}
    )  # no shadow: not counted there
    assert summary.summary()["nmse_nlos"] == pytest.approx(0.16)


def test_interval_covers_the_mean_at_its_rate():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = interval(random.exponential(1.0, 60))
        hits += low < 1.0 < high
    assert 88 <= hits <= 99
    assert interval([1.0]) is None and interval([0.5, 0.5]) == [0.5, 0.5]


def test_both_conventions():
    random = np.random.default_rng(1)
    pairs = [(random.random((16, 16)), random.random((16, 16))) for _ in range(3)]
    scores = Scores()
    for index, (p, t) in enumerate(pairs):
        scores.add(str(index), p, t)
    summary = scores.summary()
    assert summary["maps"] == 3
    assert summary["nmse"] == pytest.approx(np.mean([((p - t) ** 2).mean() / (t**2).mean() for p, t in pairs]))
    assert summary["rmse"] == pytest.approx(np.mean([np.sqrt(((p - t) ** 2).mean()) for p, t in pairs]))
    cut = [(apply_noise_floor(p), apply_noise_floor(t)) for p, t in pairs]
    errors, powers = sum(((p - t) ** 2).sum() for p, t in cut), sum((t**2).sum() for _, t in cut)
    assert summary["thresholded"]["nmse_whole_set"] == pytest.approx(errors / powers)
    assert summary["thresholded"]["rmse_whole_set"] == pytest.approx(math.sqrt(errors / (3 * 256)))


def walled_scene():
    buildings = np.zeros((16, 16), bool)
    buildings[:, 8] = True
    return Scene("0_0", Layout.traced(buildings), (2.0, 3.0), gain=np.where(buildings, 0, 0.5).astype(np.float32))


def test_baselines():
    scene = walled_scene()
    free, law = log_distance_law(scene), los_nlos_law(scene)
    assert free[3, 2] == pytest.approx(1) and free[3, 12] == pytest.approx(1 - 25 / 99.16)
    assert law[3, 6] == free[3, 6]
    assert law[3, 12] == pytest.approx(1 - (28.6 + 8) / 99.16)
    assert (free[scene.buildings] == 0).all() and (law[scene.buildings] == 0).all()
    mean = MeanMap([scene, Scene("1_0", scene.layout, (0.0, 0.0), gain=scene.gain * 2)])
    assert mean(scene)[0, 0] == pytest.approx(0.75) and mean(scene)[0, 8] == 0
    with pytest.raises(DataError, match="no scenes"):
        MeanMap([])
    with pytest.raises(DataError, match="7_7"):
        mean(Scene("7_7", Layout([], (8, 8)), (0.0, 0.0)))


def test_a_predictor_that_fails_on_a_map_is_said():
    def broken(scene):
        raise DataError("no way")

    scene, scores = walled_scene(), {"law": Scores(), "broken": Scores()}
    failures = score_others({"law": los_nlos_law, "broken": broken}, scores, scene, {"los": ~scene.buildings})
    assert failures == {"broken": "no way"} and len(scores["law"].rows) == 1 and not scores["broken"].rows


def test_error_by_place_adds_up():
    scene = walled_scene()
    scene.gain[0, 0] = 0
    visible = np.zeros((16, 16), bool)
    visible[:, :8] = True
    prediction = np.where(scene.buildings, 0.1, 0.4).astype(np.float32)
    shares = error_shares(prediction, scene, visible)
    power = float((scene.gain**2).sum())
    assert sum(shares.values()) == pytest.approx(map_scores(prediction, scene.gain)["nmse"], rel=1e-5)
    assert shares["inside buildings"] == pytest.approx(16 * 0.01 / power, rel=1e-5)
    assert shares["outage (zero in the open)"] == pytest.approx(0.16 / power, rel=1e-5)
    assert shares["beside a wall"] == pytest.approx(32 * 0.01 / power, rel=1e-5)
    assert shares["line of sight"] == pytest.approx((7 * 16 - 1) * 0.01 / power, rel=1e-5)


def test_figures_are_written(tmp_path):
    scene = walled_scene()
    row = {"name": "0_0", "real": scene.gain, "sampled": scene.gain, "buildings": scene.buildings, "tx": scene.tx}
    comparison_figure(tmp_path / "a" / "rows.png", [row, row])
    drawn = row | {"std": np.full((16, 16), 0.02), "points": np.array([[3, 4, 0.5]])}
    comparison_figure(tmp_path / "a" / "drawn.png", [drawn])
    comparison_figure(tmp_path / "rows.pdf", [row])
    assert (tmp_path / "rows.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "a" / "drawn.png").width > Image.open(tmp_path / "a" / "rows.png").width
    radio_map_figure(tmp_path / "map.png", scene.gain, scene.buildings, scene.tx, "a title")
    assert (tmp_path / "a" / "rows.png").stat().st_size > 5000 and (tmp_path / "map.png").stat().st_size > 3000


def test_a_large_map_is_drawn_coarser_in_the_same_place(monkeypatch):
    monkeypatch.setattr(figures, "LARGEST_SHOWN", 8)
    axes = Figure().subplots()
    image = figures._draw(axes, np.arange(600).reshape(20, 30))
    assert image.get_array().shape == (5, 8) and image.get_extent() == [-0.5, 29.5, 19.5, -0.5]
    monkeypatch.undo()
    assert figures._draw(axes, np.zeros((20, 30))).get_array().shape == (20, 30)
