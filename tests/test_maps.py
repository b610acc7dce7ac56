"""Predicted maps as files."""

import json
from dataclasses import replace

import numpy as np
import rasterio
from PIL import Image

from data.geometry.georeference import Georeference
from data.geometry.layout import Layout
from data.scene import Scene
from evaluation.maps import best_server, draw_map, write_coverage, write_map

GRID = Georeference(500_000.0, 4_000_000.0, 1.0, 1.0, False, 32632)


def test_best_server_and_coverage(tmp_path):
    gains, built = np.array([[[0.5, 0.1, np.nan, 0.9]], [[0.1, 0.15, np.nan, 0.3]]]), np.array([[False] * 3 + [True]])
    server, gain = best_server(gains, built)
    assert server.tolist() == [[1, 2, 0, 0]] and np.allclose(gain, [[0.5, 0.15, np.nan, np.nan]], equal_nan=True)
    assert not best_server(gains, np.ones((1, 4), bool))[0].any()
    summary = write_coverage(tmp_path, "city", gains, [Scene("a", built, (0, 0)), Scene("b", built, (1, 0))], -127)
    assert summary["predicted_fraction_of_open_area"] == 2 / 3
    assert summary["covered_fraction_of_predicted_area"] == 1 / 2
    assert summary["fraction_predicted_for_all_transmitters"] == 1
    gains[1, 0, 0] = np.nan  # outside its crop
    summary = write_coverage(tmp_path, "city", gains, [Scene("a", built, (0, 0)), Scene("b", built, (1, 0))], -127)
    assert summary["fraction_predicted_for_all_transmitters"] == 1 / 2


def test_maps_of_footprints_are_geotiffs_too(tmp_path):
    """A square of 64 m predicted in a city of 3 km, by two transmitters."""
    shape, gain = (2500, 3000), np.full((2500, 3000), np.nan, np.float32)
    gain[1000:1064, 2000:2064] = 0.5
    square = np.array([[2010.0, 1010], [2020, 1010], [2020, 1020], [2010, 1020]])
    scenes = [Scene(name, Layout([square], shape), tx) for name, tx in (("a", (2005, 1030)), ("b", (2050, 1030)))]
    for scene in scenes:
        write_map(tmp_path, scene.name, gain, gain * 0.01, GRID)
        draw_map(tmp_path, scene, gain, gain * 0.01)
    write_coverage(tmp_path, "city", np.stack([gain, gain * 0.3]), scenes, -100, GRID)
    kinds = (".npy", ".png", ".tif", "_figure.png", "_std.npy", "_std.tif")
    names = {f"{name}{kind}" for name in "ab" for kind in kinds}
    of_all = ("coverage.json", "coverage.png", "coverage.tif", "best_server.npy", "best_server.tif")
    assert {path.name for path in tmp_path.iterdir()} == names | {f"city_{name}" for name in of_all}
    summary = json.loads((tmp_path / "city_coverage.json").read_text())
    assert [t["best_server_fraction"] for t in summary["transmitters"]] == [1, 0] and summary["threshold_db"] == -100
    for name, value in (("a", -97.42), ("a_std", 0.4958), ("city_best_server", 1), ("city_coverage", 1)):
        with rasterio.open(tmp_path / f"{name}.tif") as found:
            assert found.crs.to_epsg() == 32632 and found.shape == shape
            x, y = found.xy(1050, 2050)
            assert np.isclose(next(found.sample([(x, y)]))[0], value, atol=1e-3) and np.isnan(found.read(1)[0, 0])


def test_figures_show_cars(tmp_path):
    """A map alone, and one beside the truth."""
    gain, car = np.full((64, 64), 0.5, np.float32), np.array([[10.0, 10], [30, 10], [30, 20], [10, 20]])
    scene = Scene("s", Layout([car + 30], (64, 64)), (5, 5), cars=Layout([car], (64, 64)))
    for truth in (None, gain):
        shown = []
        for given in (replace(scene, gain=truth, cars=None), replace(scene, gain=truth)):
            draw_map(tmp_path, given, gain)
            shown.append(np.array(Image.open(tmp_path / "s_figure.png").convert("RGB")))
        changed = (shown[0] != shown[1]).any(-1)
        assert 0.005 < changed.mean() < 0.1 and (shown[1][changed] == 255).all()
