"""The commands of the README on a tiny tree: the trainings as a user runs them, the rest in this process."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import train_vae
from denoising_diffusion_pytorch import predictor
from denoising_diffusion_pytorch.training import setup
from tests.commands import done, refused
from tests.conftest import save_grey
from tests.processes import ROOT, STAGES, environment, launcher, set_up

CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if "sample" not in path.stem)
METRICS = ("metrics.json", "metrics.jsonl")
TOWN = ROOT / "examples" / "town.geojson"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tree of 10 cities of 32 px, a configuration for it, both stages trained for a few steps."""
    root = tmp_path_factory.mktemp("work")
    sample = {"source": {"data_root": str(root / "data")}, "output_folder": str(root / "maps")}
    config = set_up(root, {"trainer": {"num_samples": 2, "results_folder": None}, "sample": sample})
    for stage, more in (("vae", []), ("ldm", ["first_stage_config.ckpt_path=radiodiff_results_VAE"])):
        line = [sys.executable, *launcher(1), STAGES[stage].__file__, "--cfg", config, *more]
        where = {"cwd": root, "env": environment() | {"PYTHONPATH": str(ROOT)}}
        result = subprocess.run(list(map(str, line)), **where, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    return root


@pytest.fixture
def model(workplace):
    return "--ckpt", workplace / "radiodiff_results_LDM"


def test_training_leaves_what_the_document_says_and_the_same_command_continues_it(workplace):
    for name in ("VAE", "LDM"):
        results = workplace / f"radiodiff_results_{name}"
        assert (results / "checkpoints" / "ckpt_4" / "model.safetensors").is_file()
        assert Image.open(results / "samples" / "sample_4.png").size[0] > 300
        assert "step=4 loss=" in (results / "train.log").read_text()
        assert list(results.glob("events.out.tfevents*"))
    again = ("train_cond_ldm.py", "--cfg", workplace / "tiny.yaml", "trainer.training_steps=6")
    assert "resumed from radiodiff_results_LDM/checkpoints/ckpt_4" in done(*again, cwd=workplace)
    assert (workplace / "radiodiff_results_LDM" / "checkpoints" / "ckpt_6").is_dir()


def test_sample_a_split_and_a_city_of_ones_own(workplace, tmp_path):
    base = ("sample.py", "--cfg", workplace / "tiny.yaml", f"sample.ckpt={workplace / 'radiodiff_results_LDM'}")
    for name, size in (("a", 1), ("b", 2)):
        done(*base, f"sample.output_folder={tmp_path / name}", f"sample.batch_size={size}", cwd=workplace)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["9_0.npy", "9_0.png", "9_0_figure.png", "9_1.npy", "9_1.png", "9_1_figure.png", *METRICS]
    decibels, grey = np.load(tmp_path / "a" / "9_0.npy"), np.array(Image.open(tmp_path / "a" / "9_0.png"))
    assert np.allclose(decibels, grey / 255 * 99.16 - 147, atol=0.21) and grey.shape == (32, 32)
    assert np.allclose(decibels, np.load(tmp_path / "b" / "9_0.npy"), atol=0.01)  # whatever the batch
    copy = shutil.copytree(workplace / "data", tmp_path / "another tree") / "gain" / "DPM"
    before = (copy / "9_0.png").read_bytes()
    refused(*base, f"sample.output_folder={copy}", words=["9_0.png: would be replaced"], cwd=workplace)
    assert (copy / "9_0.png").read_bytes() == before
    city = np.zeros((64, 64))
    city[20:30, 20:30] = 255
    save_grey(tmp_path / "city.png", city)
    own = ("--buildings", tmp_path / "city.png", "--tx")
    done(*base, f"sample.output_folder={tmp_path / 'c'}", *own, "5,6")
    grey = np.array(Image.open(tmp_path / "c" / "city_5_6.png"))
    assert grey.shape == (64, 64) and (grey[20:30, 20:30] == 0).all()
    save_grey(tmp_path / "cars.png", np.roll(city, 20))
    done(*base, f"sample.output_folder={tmp_path / 'd'}", *own, "5,6", "--cars", tmp_path / "cars.png")
    assert (np.array(Image.open(tmp_path / "d" / "city_5_6.png")) != grey).any()
    for name in ("city_5_6.png", "city_coverage.png"):
        shutil.copy(tmp_path / "cars.png", tmp_path / "d" / name)
        own_cars = (*own, "5,6", "--cars", tmp_path / "d" / name)
        refused(*base, f"sample.output_folder={tmp_path / 'd'}", *own_cars, words=["would be replaced; rename it"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "CAR_CHANNELS", frozenset())  # as if no channel showed them
        refused(*base, *own, "5,6", "--cars", tmp_path / "cars.png", words=["has no channel that shows cars"])
    for option, other in (
        (("--cars", "x.png"), "buildings"),
        (("--invert",), "buildings"),
        (("--eirp", "20"), "measurements"),
    ):
        refused("sample.py", *option, words=[f"{option[0]} needs --{other}"])
    refused("sample.py", *own, "5,6", "--threshold", "-90", words=["--threshold needs several --tx"])
    refused(*base, *own, "25,25", words=("inside a building", "the nearest open point is"))


def test_sample_several_draws_and_transmitters(model, tmp_path):
    """No configuration file, a large and oblong city, two transmitters, three draws; then a simulated city."""
    city = np.zeros((300, 400))
    city[20:30, 20:30] = 255
    save_grey(tmp_path / "town.png", city)
    own = ("--buildings", tmp_path / "town.png", "--tx", "5,6", "--tx", "390,290", "--num_samples", 3)
    out = done("sample.py", *model, *own, "--sampler", "ddpm", "--steps", 3, "--output_folder", tmp_path / "o")
    assert "only the 32 m x 32 m around the transmitter" in out  # the size of the training maps
    mean, std = np.load(tmp_path / "o" / "town_5_6.npy"), np.load(tmp_path / "o" / "town_5_6_std.npy")
    assert mean.shape == std.shape == (300, 400)
    assert np.isfinite(mean[:32, :32]).all() and np.isnan(mean[32:]).all() and np.isnan(mean[:, 32:]).all()
    assert std[:32, :32].max() > 0 and (std[20:30, 20:30] == 0).all() and np.allclose(mean[20:30, 20:30], -147)
    (tmp_path / "o" / "metrics.json").write_text("{}")
    again = done("sample.py", *model, *own[:4], "--output_folder", tmp_path / "o", "--figures", 0)
    assert "metrics.json has the scores of earlier maps" in again
    for name in ("town_5_6_std.npy", "town_5_6_figure.png"):
        assert not (tmp_path / "o" / name).exists()  # they were of another map
    assert "1.6% of the open area was predicted" in out and "of that has at least -127 dB" in out
    done("sample.py", *model, "--simulate", 3, "--output_folder", tmp_path / "s")
    (tmp_path / "s" / "metrics.jsonl").write_text("")  # as if these were the maps of a split
    refused("sample.py", *model, "--simulate", 3, "--output_folder", tmp_path / "s", words=["holds the maps of a data"])
    assert json.loads((tmp_path / "s" / "metrics.json").read_text())["maps"] == 1


def test_footprints_and_measured_power(model, tmp_path):
    """The map is a GeoTIFF too; a negative longitude is a value; received power becomes path gain."""
    city = ("--buildings", TOWN, "--tx", "10.002543,49.999488")
    out = done("sample.py", *model, *city, "--output_folder", tmp_path)
    assert "town.geojson: footprints: 58 of 58, in WGS 84 (EPSG:4326)" in out
    west = ("--buildings", TOWN, "--tx", "-80.0003,43.0")
    refused("sample.py", *model, *west, words=["-80.0003,43.0: is outside town"])
    (tmp_path / "drive.csv").write_text("PCI,lat,lon,dbm\n1,49.9993,10.002543,-92\n1,49.0,10.0,-92\n")
    drive = ("sample.py", *city, "--measurements", tmp_path / "drive.csv", "--output_folder", tmp_path / "drive")
    refused(*drive, words=["gain_db, or dbm with the transmitter's EIRP"])
    out = done(*drive, "--eirp", -10)
    assert "1 measured points from the columns lon, lat, dbm (minus the EIRP of -10 dBm)" in out
    assert "left out, outside the map or without a value: 1" in out and "1 of 1 measured points lie" in out
    decibels = np.load(tmp_path / "town_10.002543_49.999488.npy")
    with Image.open(tmp_path / "town_10.002543_49.999488.tif") as written:
        assert np.array_equal(np.asarray(written), decibels, equal_nan=True)
        x, y = written.tag_v2[33922][3:5]
    assert 9.999 < x < 10.001 and 49.9995 < y < 50.0005
    blind = ("sample.py", *model, "--simulate", 1, "--measurements", tmp_path / "drive.csv", "--eirp", 1)
    (tmp_path / "drive.csv").write_text("x,y,dbm\n3,4,-80\n")
    refused(*blind, words=("has no channel that shows measured points", "drive.csv"))


def test_the_released_model_is_used_where_none_is_named(tmp_path):
    out = done("sample.py", cwd=tmp_path)
    metrics = json.loads((tmp_path / "radiodiff_samples" / "metrics.json").read_text())
    assert metrics["maps"] == 1 and metrics["nmse"] < 0.03  # a trained model, not noise
    assert out.index("these scores mean nothing") < out.index("NMSE 0.")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_passes_a_dry_run(path, tmp_path, monkeypatch):
    if path.stem != "tiny_vae":
        monkeypatch.setattr(setup, "report", lambda *_: "")  # takes seconds for each
    command = "train_vae.py" if "first" in path.stem or "vae" in path.stem else "train_cond_ldm.py"
    command = "scripts/train_baseline.py" if "baseline" in path.stem else command
    out = done(command, "--cfg", path, "--dry_run", cwd=tmp_path)
    assert "parameters, " in out and "trainer:" in out and not list(tmp_path.iterdir())
    if path.stem == "tiny_vae":
        assert re.search(r"largest micro-batches, .* in 16 GiB, .* \d+ in 80 GiB\nwork of a step: [\d.]+ TFLOP", out)
        out = done(command, "trainer.seed=7", "--cfg", path, "data.cond_channels=[buildings, transmittr]", "--dry_run")
        assert "data.cond_channels: transmittr: only a tree of ready-made" in out
    if path.stem == "radio_train_m":
        assert "data.train.data_root" in out.splitlines()[-1]


def test_a_full_gpu_ends_in_one_line(workplace, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 0 bytes free.")

    monkeypatch.setattr(train_vae, "build_model", full)
    words = ["out of GPU memory", "trainer.batch_size", "2.00 GiB. GPU 0 has"]
    refused("train_vae.py", "--cfg", workplace / "tiny.yaml", words=words, cwd=tmp_path)


def test_mistakes_end_in_one_line(workplace, tmp_path, caplog):
    tiny, folder = workplace / "tiny.yaml", workplace / "radiodiff_results_VAE"
    broken = shutil.copytree(workplace / "data", tmp_path / "tree")
    (broken / "gain" / "DPM" / "0_0.png").write_bytes(b"nothing")
    train, vae = ("train_cond_ldm.py", "--cfg", tiny), ("train_vae.py", "--cfg")
    ckpt = f"first_stage_config.ckpt_path={folder}"
    for line, *words in (
        (("sample.py", "--simulate", "-1"), "--simulate", "whole number of at least 0"),
        (("sample.py", "--num_samples", "0"), "sample.num_samples"),
        (("sample.py", "trainer.steps=3"), "give one with --cfg"),
        (("sample.py", "--cfg", "x.yaml", "--seed", "3"), "with --cfg, write sample.seed=3"),
        (("sample.py", "--output_folder", tiny / "maps"), "Not a directory", "tiny.yaml"),
        ((*vae, "no.yaml"), "no.yaml"),
        (train, "first_stage_config.ckpt_path", "train_vae.py"),
        ((*train, ckpt, "data.cond_channels=[buildings,transmiter,cars]"), "transmiter"),
        ((*vae, ROOT / "configs" / "radio_train_m.yaml"), "data.train.data_root"),
        ((*vae, tiny, f"data.train.data_root={broken}", "data.cache=true"), "0_0.png"),
    ):
        refused(*line, words=words, cwd=tmp_path)
    refused(*train, "data.cond_channels=[buildings,transmitter,turns]", words=["data.cond_channels"], cwd=workplace)
    doubtful = ("data.train.split=all", "first_stage_config.lossconfig.discr_channels=16")
    refused("train_vae.py", "--cfg", tiny, *doubtful, words=["changed since", "discr_channels: 8 -> 16"], cwd=workplace)
    assert "2 of 2 validation maps are of cities that are trained on" in caplog.text
    unseen = ("data.train.simulation_type=carsDPM", "data.cond_channels=[buildings,transmitter]")
    refused("train_vae.py", "--cfg", tiny, *unseen, words=["there are: DPM"], cwd=tmp_path)
    assert "cars, which no channel shows" in caplog.text
    assert not list(tmp_path.glob("radiodiff_results*/checkpoints/*"))
