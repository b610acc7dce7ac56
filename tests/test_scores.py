"""Metrics, untrained predictors and calibration against direct formulas and known distributions."""

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from data import DataError, Scene
from data.geometry.layout import Layout
from data.geometry.registration import picture_of, snap
from data.units import apply_noise_floor
from evaluation.calibration import STEP_DB, crps, measure_samples
from evaluation.metrics import PERFECT_PSNR, map_scores, measure, ssim, summary_of
from evaluation.records import Records, csv_of
from evaluation.references import log_distance_model, los_nlos_model
from evaluation.regions import REGION_NAMES, Regions
from evaluation.report import difference, interval, terminal_report
from evaluation.scoring import Evaluation, reference_scores


def direct_ssim(x, y):
    """The definition, one window at a time."""
    wave = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window, values = np.outer(wave, wave) / wave.sum() ** 2, []
    for row, column in np.ndindex(x.shape[0] - 10, x.shape[1] - 10):
        a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
        cov = (window * (a - ma) * (b - mb)).sum()
        values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_map_scores():
    target, prediction = np.full((16, 16), 0.5), np.full((16, 16), 0.6)
    scores = map_scores(prediction, target)
    assert scores["nmse"] == pytest.approx(0.04) and scores["rmse"] == pytest.approx(0.1)
    assert scores["psnr"] == pytest.approx(20) and map_scores(target, target)["psnr"] == PERFECT_PSNR
    assert math.isnan(map_scores(target, np.zeros((16, 16)))["nmse"])
    random = np.random.default_rng(0)
    x = random.random((20, 24))
    y = np.clip(x + 0.2 * random.standard_normal(x.shape), 0, 1)
    assert ssim(x, y) == pytest.approx(direct_ssim(x, y), abs=1e-9) and ssim(x, x) == pytest.approx(1)


def walled_scene(**more):
    buildings = np.zeros((16, 16), bool)
    buildings[:, 8] = True
    gain = np.where(buildings, 0, 0.5).astype(np.float32)
    return Scene("0_0", Layout.traced(buildings), (2.0, 3.0), gain=gain, **more)


def test_parts_of_a_map_are_scored_apart():
    """Line of sight and shadow, and the places that an NMSE is the sum of."""
    scene = walled_scene()
    prediction = scene.gain + np.float32(0.1) * (np.arange(16) < 8) - np.float32(0.2) * (np.arange(16) > 8)
    row = measure("a", prediction, scene.gain, Regions.of(scene))
    assert row["nmse_los"] == pytest.approx(0.04) and row["nmse_nlos"] == pytest.approx(0.16)
    scene.gain[0, 0] = 0
    prediction = np.where(scene.buildings, 0.1, 0.4).astype(np.float32)
    row = measure("a", prediction, scene.gain, Regions.of(scene))
    found, power = row["nmse_by_region"], float((scene.gain**2).sum())
    assert list(found) == list(REGION_NAMES) and sum(found.values()) == pytest.approx(row["nmse"])
    assert found["inside buildings"] == pytest.approx(16 * 0.01 / power, rel=1e-5)
    assert found["outage (zero in the open)"] == pytest.approx(0.16 / power, rel=1e-5)
    assert found["next to a wall"] == pytest.approx(32 * 0.01 / power, rel=1e-5)
    assert found["line of sight"] == pytest.approx((7 * 16 - 1) * 0.01 / power, rel=1e-5)


def test_conventions_against_their_definitions():
    random = np.random.default_rng(1)
    layout = Layout([snap(np.array([[5, 6], [15, 6], [15, 20], [5, 20]], float))], (32, 32))
    pairs = [(random.random((32, 32)), random.random((32, 32))) for _ in range(3)]
    own = Regions.of(Scene("0_0", layout, (1, 1), gain=np.ones((32, 32))))
    summary = summary_of([measure(str(index), p, t, own) for index, (p, t) in enumerate(pairs)])
    assert summary["maps"] == 3 and summary["without_energy"] == 0
    errors = [(p - t)[~layout.inside] for p, t in pairs]
    assert summary["rmse_db"] == pytest.approx(99.16 * np.sqrt(np.mean(np.square(errors))))
    mask = 1 - picture_of(layout)
    for found, change in (
        (summary, lambda gain: gain),
        (summary["thresholded"], apply_noise_floor),
        (summary["masked"], lambda gain: gain * mask),
    ):
        changed = [(change(p), change(t)) for p, t in pairs]
        error, power = sum(((p - t) ** 2).sum() for p, t in changed), sum((t**2).sum() for _, t in changed)
        assert found["nmse"] == pytest.approx(np.mean([((p - t) ** 2).sum() / (t**2).sum() for p, t in changed]))
        assert found["rmse"] == pytest.approx(np.mean([np.sqrt(((p - t) ** 2).mean()) for p, t in changed]))
        assert found["nmse_whole_set"] == pytest.approx(error / power)
        assert found["rmse_whole_set"] == pytest.approx(math.sqrt(error / (3 * 32**2)))
        assert found["rmse_whole_set"] ** 2 / found["nmse_whole_set"] == pytest.approx(found["target_power"])


def test_references():
    scene = walled_scene()
    free, model = log_distance_model(scene), los_nlos_model(scene)
    assert free[3, 2] == pytest.approx(1) and free[3, 12] == pytest.approx(1 - 25 / 99.16)
    assert model[3, 6] == free[3, 6]
    assert model[3, 12] == pytest.approx(1 - (28.6 + 8) / 99.16)
    assert (free[scene.buildings] == 0).all() and (model[scene.buildings] == 0).all()
    hidden = replace(scene, known=Layout([], (16, 16)))  # a building that the condition does not show is not known here
    assert log_distance_model(hidden)[3, 8] > 0


def test_maps_without_energy_and_missing_maps_are_named_and_left_out():
    scenes = [walled_scene(tx_is_known=number != 1) for number in range(4)]
    scenes[0].gain = np.zeros_like(scenes[0].gain)
    records = []
    for number, scene in enumerate(scenes):
        gain = scene.gain + np.float32(0.01 * (4 - number))
        ours = measure(f"{number}_0", gain, scene.gain, Regions.of(scene))
        records.append({"ours": ours} | reference_scores(scene, Regions.of(scene)))
    evaluation = Evaluation(records)
    rows, notes = evaluation.summaries(), evaluation.notes()
    assert [note.split(";")[0] for note in notes] == [
        *(f"{name}: scored on 3 of 4 maps" for name in ("simulator", "LOS/NLOS path-loss model", "25 log10 d")),
        "1 of 4 maps are zero everywhere and have no NMSE: 0_0",
    ]
    ours = [row["nmse"] for row in evaluation.rows["ours"]]
    assert rows["ours"]["nmse"] == pytest.approx(np.mean(ours[1:])) and rows["ours"]["without_energy"] == 1
    assert sum(rows["ours"]["nmse_by_region"].values()) == pytest.approx(rows["ours"]["nmse"])
    assert evaluation.best_to_worst("ours", 3) == [3, 2, 1] and evaluation.best_to_worst("ours", 2) == [3, 1]
    text = terminal_report(rows, notes)
    assert "nan" not in text and max(map(len, text.splitlines())) <= 80
    lines = csv_of(records).splitlines()
    assert len(lines) == 1 + 4 + 3 * 3 and lines[1].startswith("ours,0_0,,0.039")


def test_interval_covers_the_mean_at_its_rate_also_where_the_maps_of_a_city_are_alike():
    random, names = np.random.default_rng(0), [f"{city}_{tx}" for city in range(40) for tx in range(5)]
    hits = 0
    for _ in range(100):
        low, high = interval((random.exponential(1.0, (40, 1)) * random.uniform(0.5, 1.5, (40, 5))).ravel(), names)
        hits += low < 1.0 < high
    assert 88 <= hits <= 99
    assert interval([1.0, 2.0], ["3_0", "3_1"]) is None and interval([0.5, 0.5], ["a", "b"]) == [0.5, 0.5]
    assert difference(np.array([0.1, math.nan, 0.1]), ["1_0", "2_0", "3_0"]) == "+0.1000 [+0.1000, +0.1000]"


def test_records_of_other_settings_and_other_files_are_left_alone(tmp_path):
    path, settings = tmp_path / "new" / "r.jsonl", {"seed": 0, "steps": None}
    Records(path, settings).add(7, {"nmse": math.nan})
    for cut, known in ((0, 1), (1, 0), (25, 0)):  # a record, and the settings, that were cut in half
        path.write_bytes(path.read_bytes()[: -cut or None])
        assert len(Records(path, settings).known) == known
    with pytest.raises(DataError, match="r.jsonl: was written with seed 0, not 1; choose another file"):
        Records(path, {"seed": 1, "steps": None})
    for content in (b"my own\n", b"no line", b"[]\n", b'{"settings": {}}\n{}\n'):
        path.write_bytes(content)
        with pytest.raises(DataError, match="does not hold scores"):
            Records(path, {})
        assert path.read_bytes() == content


def calibration(spread_ratio, count):
    """Of truths from N(0.5, 0.02) and samples from N(0.5, 0.02 * spread_ratio)."""
    rng, rows, side = np.random.default_rng(0), [], 60
    where = Regions(*np.ones((3, side, side), bool), {}, np.zeros((side, side), int))
    for number in range(20):
        truth = 0.5 + 0.02 * rng.standard_normal((side, side))
        samples = 0.5 + 0.02 * spread_ratio * rng.standard_normal((count, side, side))
        rows.append(measure(str(number), samples.mean(0), truth, where, samples))
    return summary_of(rows)["calibration"]


@pytest.mark.parametrize("ratio, count, within", [(1, 2, 0.012), (1, 20, 0.012), (0.5, 20, 0.05), (2, 20, 0.05)])
def test_narrow_samples_cover_less_and_wide_ones_more(ratio, count, within):
    found, normal = calibration(ratio, count), NormalDist()
    for level in found["coverage"] if ratio == 1 else ["0.9"]:
        expected = 2 * normal.cdf(ratio * normal.inv_cdf(0.5 + float(level) / 2)) - 1
        assert found["coverage"][level] == pytest.approx(expected, abs=within)
    unit = 0.02 * 255 * STEP_DB
    assert found["spread"] == pytest.approx(unit * ratio * (1 + 1 / count) ** 0.5, rel=0.02)
    assert found["error"] == pytest.approx(unit * (1 + ratio**2 / count) ** 0.5, rel=0.02)


def test_crps_of_an_ensemble():
    rng = np.random.default_rng(2)
    samples, truth = rng.standard_normal((6, 50)), rng.standard_normal(50)
    pairs = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (2 * 6 * 5)
    assert np.allclose(crps(samples, truth), np.abs(samples - truth).mean(0) - pairs)
    many, y = rng.standard_normal((40_000, 1)), np.array([0.7])
    normal = NormalDist()
    exact = 0.7 * (2 * normal.cdf(0.7) - 1) + 2 * normal.pdf(0.7) - np.pi**-0.5  # Gneiting & Raftery, 2007
    assert crps(many, y)[0] == pytest.approx(exact, abs=0.01)


def test_what_is_known_exactly_is_calibrated():
    truth = np.random.default_rng(1).integers(0, 256, 3600) / 255
    found = measure_samples(np.stack([truth] * 8) + 0.001, truth, "a")  # less than half a grey level
    assert found["coverage"]["0.5"] == pytest.approx(0.5, abs=0.03)
    assert found["crps"] == found["spread"] == found["error"] == 0
