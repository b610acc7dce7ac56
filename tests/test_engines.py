"""Real layouts and the ray tracer, where their packages are installed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data import DataError, RadioMapSeer, osm_cities, ray_tracing
from data.layout import Layout

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_dataset.py"


def make(out, *arguments):
    command = [sys.executable, SCRIPT, "--out", out, "--maps", "2", "--tx", "1", "--size", "128", "--workers", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(DataError, match="atlantis.*choose from munich"):
        osm_cities.scene_folder("atlantis")

    def nothing(name):
        raise osm_cities.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(osm_cities.importlib.metadata, "distribution", nothing)
    with pytest.raises(DataError, match="requirements-sionna.txt"):
        osm_cities.scene_folder("munich")
    monkeypatch.setitem(sys.modules, "drjit", None)
    with pytest.raises(DataError, match="requirements-sionna.txt"):
        ray_tracing.require_sionna()


def test_real_layouts(tmp_path):
    pytest.importorskip("plyfile", reason="real layouts need: pip install -r requirements-sionna.txt")
    city = osm_cities.real_city(("munich",), np.random.default_rng(0), 256)
    assert city.inside.shape == (256, 256) and osm_cities.BUILT[0] <= city.inside.mean() <= osm_cities.BUILT[1]
    again = osm_cities.real_city(("munich",), np.random.default_rng(0), 256)
    assert (again.inside == city.inside).all()
    done = make(tmp_path / "tree", "--layouts", "munich,etoile")
    assert done.returncode == 0, done.stderr
    assert "OpenStreetMap" in (tmp_path / "tree" / "ATTRIBUTION.txt").read_text()
    assert json.loads((tmp_path / "tree" / "dataset.json").read_text())["settings"]["layouts"] == "munich,etoile"
    assert len(RadioMapSeer(tmp_path / "tree")) == 2
    refused = make(tmp_path / "tree")
    assert refused.returncode and "layouts=munich,etoile" in refused.stderr


def test_ray_tracer():
    try:
        ray_tracing.require_sionna()
    except DataError as error:
        pytest.skip(str(error))
    buildings = np.zeros((64, 64), bool)
    buildings[20:44, 30:36] = True
    tracer = ray_tracing.RayTracer(Layout.traced(buildings))
    gain = tracer.path_gain((10, 32))
    assert gain.shape == (64, 64) and (gain[buildings] == -147).all()
    # free space at 10 m of height difference and distance: 20 log10(4 pi d / lambda)
    distance = np.hypot(10, ray_tracing.TRANSMITTER - ray_tracing.RECEIVER)
    assert gain[32, 20] == pytest.approx(-20 * np.log10(4 * np.pi * distance * ray_tracing.FREQUENCY / 3e8), abs=4)
    assert gain[32, 50] < gain[32, 20] - 20  # behind the building
    with pytest.raises(ValueError, match="inside a building"):
        tracer.path_gain((32, 32))
