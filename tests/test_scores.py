"""Metrics and untrained predictors against direct formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from data import DataError, Scene
from data.geometry.layout import Layout
from data.geometry.registration import picture_of, snap
from data.units import apply_noise_floor
from evaluation import figures
from evaluation.metrics import PERFECT_PSNR, Scores, detail, map_scores, measure, ssim
from evaluation.records import GrowingCsv, Records
from evaluation.references import MeanMap, log_distance_model, los_nlos_model
from evaluation.regions import Regions, error_by_region
from evaluation.report import report
from evaluation.scoring import Answer, Evaluation, record_of, record_of_references
from evaluation.table import averaged, difference, interval, table


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


def test_detail_is_power_of_fine_waves():
    y, x = np.indices((32, 32))
    fine, coarse = np.sin(2 * np.pi * x * 3 / 8), np.sin(2 * np.pi * y / 8)  # 2.7 and 8 pixels long
    target = 0.5 + 0.2 * fine + 0.2 * coarse
    assert detail(target, target) == 1
    assert detail(0.5 + 0.1 * fine + 0.4 * coarse, target) == pytest.approx(0.25)
    assert detail(0.5 + 0.2 * coarse, target) == pytest.approx(0, abs=1e-9)
    assert math.isnan(detail(target, np.full((32, 32), 0.3)))


def regions(visible):
    return Regions(np.ones_like(visible), np.zeros_like(visible), {"los": visible, "nlos": ~visible})


def test_line_of_sight_and_shadow_are_scored_apart():
    target, prediction = np.full((16, 16), 0.5), np.full((16, 16), 0.5)
    visible = np.zeros((16, 16), bool)
    visible[:4] = True
    prediction[visible] += 0.1
    prediction[~visible] -= 0.2
    scores = Scores()
    row = scores.add("a", prediction, target, regions(visible))
    assert row["nmse_los"] == pytest.approx(0.04) and row["nmse_nlos"] == pytest.approx(0.16)
    scores.add("all in sight", prediction, target, regions(np.ones((16, 16), bool)))  # no shadow: not counted there
    assert scores.summary()["nmse_nlos"] == pytest.approx(0.16)


def test_scores_that_the_first_map_does_not_have(tmp_path):
    """A map that is black everywhere has no measured points, the others have; files say the same as what was kept in memory."""
    target, where, scores, path = np.full((16, 16), 0.5), np.ones((16, 16), bool), Scores(), tmp_path / "new" / "m.csv"
    near = Regions(where, ~where, {"los": where, "nlos": ~where, "near": where})
    measured = measure("black", target, 0 * target, regions(where)), measure("near", 1.1 * target, target, near)
    records = Records(path.with_suffix(".jsonl"), {"seed": 0})
    for number, each in enumerate(measured):
        records.add(number, {"scores": {"ours": each}})
        scores.take(each)
    assert scores.summary()["nmse_near"] == pytest.approx(0.01)
    GrowingCsv(path, records.earlier())
    head, black, other = (line.split(",") for line in path.read_text().splitlines())
    column = head.index("nmse_near")
    assert black[column] == black[2] == "" and float(other[column]) == measured[1]["row"]["nmse_near"]
    again = Scores()
    for record in records.earlier():
        again.take(record["scores"]["ours"])
    assert str(again.summary()) == str(scores.summary())  # NaN included


@pytest.mark.parametrize("cut", [0, 5, 30, 45])
def test_a_line_that_was_cut_in_half_is_made_again(tmp_path, cut):
    path, settings = tmp_path / "r.jsonl", {"seed": 0, "steps": None}
    whole = Records(path, settings)
    for number in range(2):
        whole.add(number, {"n": number})
    expected = path.read_bytes()
    path.write_bytes(expected[: len(expected) - cut])
    again = Records(path, settings)
    assert len(again.known) == 2 - (cut > 0) - (cut > 25)
    for number in {0, 1} - again.known:
        again.add(number, {"n": number})
    assert path.read_bytes() == expected


def test_records_of_other_settings_and_other_files_are_left_alone(tmp_path):
    path = tmp_path / "r.jsonl"
    Records(path, {"seed": 0, "steps": None}).add(7, {})
    with pytest.raises(DataError, match="r.jsonl: was written with seed 0, not 1; name another place"):
        Records(path, {"seed": 1, "steps": None})
    for content in (b"my own\n", b"no line", b"[]\n", b'{"settings": {}}\n{}\n'):
        path.write_bytes(content)
        with pytest.raises(DataError, match="does not hold scores"):
            Records(path, {})
        with pytest.raises(DataError, match="holds something else"):
            GrowingCsv(path, [])
        assert path.read_bytes() == content


def test_interval_covers_the_mean_at_its_rate():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = interval(random.exponential(1.0, 60))
        hits += low < 1.0 < high
    assert 88 <= hits <= 99
    assert interval([1.0]) is None and interval([0.5, 0.5]) == [0.5, 0.5]


def test_conventions_against_their_definitions():
    random = np.random.default_rng(1)
    layout = make_layout()
    pairs = [(random.random((32, 32)), random.random((32, 32))) for _ in range(3)]
    scores, own = Scores(), Regions.of(Scene("0_0", layout, (1, 1)))
    assert (own.open == ~layout.inside).all() and (own.picture == picture_of(layout)).all()
    for index, (p, t) in enumerate(pairs):
        scores.add(str(index), p, t, own)
    summary = scores.summary()
    assert summary["maps"] == 3 and summary["without_energy"] == 0
    errors = [(p - t)[own.open] for p, t in pairs]
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


def make_layout():
    return Layout([snap(np.array([[5, 6], [15, 6], [15, 20], [5, 20]], float))], (32, 32))


def walled_scene():
    buildings = np.zeros((16, 16), bool)
    buildings[:, 8] = True
    return Scene("0_0", Layout.traced(buildings), (2.0, 3.0), gain=np.where(buildings, 0, 0.5).astype(np.float32))


def test_references():
    scene = walled_scene()
    free, model = log_distance_model(scene), los_nlos_model(scene)
    assert free[3, 2] == pytest.approx(1) and free[3, 12] == pytest.approx(1 - 25 / 99.16)
    assert model[3, 6] == free[3, 6]
    assert model[3, 12] == pytest.approx(1 - (28.6 + 8) / 99.16)
    assert (free[scene.buildings] == 0).all() and (model[scene.buildings] == 0).all()
    mean = MeanMap([scene, Scene("1_0", scene.layout, (0.0, 0.0), gain=scene.gain * 2 + 0.1)])
    assert mean(scene)[0, 0] == pytest.approx(0.8) and mean(scene)[0, 8] == 0
    hidden = replace(scene, known=Layout([], (16, 16)))  # a building that the condition does not show is not known here
    assert mean(hidden)[0, 8] == pytest.approx(0.05)
    with pytest.raises(DataError, match="no scenes"):
        MeanMap([])
    with pytest.raises(DataError, match="7_7"):
        mean(Scene("7_7", Layout([], (8, 8)), (0.0, 0.0)))


def test_maps_without_energy_and_failing_predictors_are_named_and_left_out():
    def fails_once(scene):
        if scene.name == "1_0":
            raise DataError("no way")
        return scene.gain

    scene = walled_scene()
    scenes = [replace(scene, name=f"{number}_0") for number in range(4)]
    scenes[0].gain = np.zeros_like(scene.gain)
    evaluation = Evaluation()
    for number, each in enumerate(scenes):
        own = record_of(each, {"ours": Answer(each.gain + np.float32(0.01 * (4 - number)))}, Regions.of(each))
        theirs = record_of_references(each, {"fails once": fails_once}, Regions.of(each))
        evaluation.add(own | theirs | {"scores": own["scores"] | theirs["scores"]})
    rows, notes = evaluation.summaries(), evaluation.notes()
    assert notes == [
        "fails once: scored on 3 of 4 maps; the first of the others: no way",
        "1 of 4 maps are zero everywhere and have no NMSE: 0_0",
    ]
    ours = [row["nmse"] for row in evaluation.scores["ours"].rows]
    assert rows["ours"]["nmse"] == pytest.approx(np.mean(ours[1:])) and rows["ours"]["without_energy"] == 1
    assert sum(evaluation.mean_by_region().values()) == pytest.approx(rows["ours"]["nmse"], rel=1e-5)
    assert evaluation.best_to_worst("ours", 3) == [3, 2, 1] and evaluation.best_to_worst("ours", 2) == [3, 1]
    text = report(rows, evaluation.mean_by_region(), notes)
    assert (
        "nan" not in text and max(map(len, text.splitlines())) <= 80 and text.index("ours") < text.index("fails once")
    )


def test_a_table_has_the_columns_that_are_known_and_seeds_are_averaged():
    rows = {"a": {"nmse": 0.5, "nmse_interval": [0.4, 0.6], "masked": {"nmse_whole_set": 0.1}}, "b": {"nmse": math.nan}}
    assert table(rows) == [
        ["", "NMSE", "NMSE masked, set"],
        ["a", "0.5000 [0.4000, 0.6000]", "0.1000"],
        ["b", "-", "-"],
    ]
    assert table({("x", "y"): rows["b"] | {"psnr": 1.0}}, heads=("", "n")) == [["", "n", "PSNR"], ["x", "y", "1.00"]]
    seeds = [{"nmse_per_map": [1.0, None], "deep": {"a": 2}}, {"nmse_per_map": [3.0, None], "deep": {"a": 4}}]
    mean = averaged(seeds)
    assert mean["deep"]["a"] == 3 and mean["nmse_per_map"][0] == 2 and math.isnan(mean["nmse_per_map"][1])
    assert difference(np.array([0.1, math.nan, 0.1])) == "+0.1000 [+0.1000, +0.1000]"


def test_error_by_region_adds_up():
    scene = walled_scene()
    scene.gain[0, 0] = 0
    visible = np.zeros((16, 16), bool)
    visible[:, :8] = True
    prediction = np.where(scene.buildings, 0.1, 0.4).astype(np.float32)
    found = error_by_region(prediction, scene, regions(visible))
    power = float((scene.gain**2).sum())
    assert sum(found.values()) == pytest.approx(map_scores(prediction, scene.gain)["nmse"], rel=1e-5)
    assert found["inside buildings"] == pytest.approx(16 * 0.01 / power, rel=1e-5)
    assert found["outage (zero in the open)"] == pytest.approx(0.16 / power, rel=1e-5)
    assert found["next to a wall"] == pytest.approx(32 * 0.01 / power, rel=1e-5)
    assert found["line of sight"] == pytest.approx((7 * 16 - 1) * 0.01 / power, rel=1e-5)


def test_a_large_map_is_drawn_coarser_in_the_same_place(monkeypatch):
    monkeypatch.setattr(figures, "LARGEST_SHOWN", 8)
    axes = Figure().subplots()
    image = figures._draw(axes, np.arange(600).reshape(20, 30))
    assert image.get_array().shape == (5, 8) and image.get_extent() == [-0.5, 29.5, 19.5, -0.5]
    monkeypatch.undo()
    assert figures._draw(axes, np.zeros((20, 30))).get_array().shape == (20, 30)
