"""The commands of the README, as a user runs them, on a tiny tree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.geometry.layout import Layout
from data.gis.geojson import read_city
from data.samples.document import RadioUNet_c
from denoising_diffusion_pytorch.predictor import Predictor
from tests.conftest import make_tree, save_grey
from tests.tiny import TINY, merged

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def command(*arguments, cwd=ROOT, launch=False):
    """Run a script of the repository; `launch` goes through accelerate."""
    start = [sys.executable]
    if launch:
        start += ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--cpu"]
        start += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script, *rest = map(str, arguments)
    return subprocess.run(
        [*start, str(ROOT / script), *rest], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def refused(result, *words):
    """A user's mistake: exit code 2, one line, no traceback."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tree of 10 maps of 32 px, a configuration for it, both stages trained for a few steps."""
    root = tmp_path_factory.mktemp("work")
    make_tree(root / "tree")
    settings = merged(
        TINY,
        {
            "first_stage_config": {"ddconfig": {"resolution": 32}},
            "data": {"train": {"data_root": str(root / "tree")}},
            "trainer": {"num_samples": 2, "results_folder": None},
            "sample": {"source": {"data_root": str(root / "tree")}, "output_folder": str(root / "maps")},
        },
    )
    (root / "tiny.yaml").write_text(yaml.safe_dump(settings))
    vae = command("train_vae.py", "--cfg", root / "tiny.yaml", cwd=root, launch=True)
    assert vae.returncode == 0, vae.stderr
    ldm = command(
        "train_cond_ldm.py",
        "--cfg",
        root / "tiny.yaml",
        "first_stage_config.ckpt_path=radiodiff_results_VAE",
        cwd=root,
        launch=True,
    )
    assert ldm.returncode == 0, ldm.stderr
    return root


def test_training_leaves_what_the_document_says(workplace):
    for name in ("VAE", "LDM"):
        results = workplace / f"radiodiff_results_{name}"
        assert (results / "checkpoints" / "ckpt_4" / "model.safetensors").is_file()
        assert Image.open(results / "samples" / "sample_4.png").size[0] > 300
        assert "step=4 loss=" in (results / "train.log").read_text()
        assert list(results.glob("events.out.tfevents*")) and (results / "model_report.txt").is_file()
    report = (workplace / "radiodiff_results_LDM" / "model_report.txt").read_text()
    assert [line for line in report.splitlines() if line.startswith("model.first_stage_model ")][0].endswith("frozen")


def test_the_same_command_goes_on(workplace):
    again = command("train_cond_ldm.py", "--cfg", workplace / "tiny.yaml", "trainer.training_steps=6", cwd=workplace)
    assert again.returncode == 0, again.stderr
    assert "resumed from radiodiff_results_LDM/checkpoints/ckpt_4" in again.stdout
    assert (workplace / "radiodiff_results_LDM" / "checkpoints" / "ckpt_6").is_dir()


def test_joint_training(workplace, tmp_path):
    """Both stages at once need no autoencoder, and measure the latent scale again as it changes."""
    joint = ("first_stage_config.trainable=true", "first_stage_config.lossconfig.discr_start=1")
    out = command("train_cond_ldm.py", "--cfg", workplace / "tiny.yaml", *joint, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("latent scale factor") == 3  # at the start, at steps 2 and 4
    log = (tmp_path / "radiodiff_results_LDM" / "train.log").read_text()
    assert "reconstruction=" in log and "latent=" in log and "discriminator=" in log


def test_sample_a_split_and_a_city_of_ones_own(workplace, tmp_path):
    base = ("sample.py", "--cfg", workplace / "tiny.yaml", f"sample.ckpt={workplace / 'radiodiff_results_LDM'}")
    out = command(*base, f"sample.output_folder={tmp_path / 'a'}", "sample.batch_size=1", cwd=workplace)
    assert out.returncode == 0, out.stderr
    assert command(*base, f"sample.output_folder={tmp_path / 'b'}", "sample.batch_size=2").returncode == 0
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["9_0.npy", "9_0.png", "9_0_figure.png", "9_1.npy", "9_1.png", "9_1_figure.png", "metrics.json"]
    decibels, grey = np.load(tmp_path / "a" / "9_0.npy"), np.array(Image.open(tmp_path / "a" / "9_0.png"))
    assert np.allclose(decibels, grey / 255 * 99.16 - 147, atol=0.21) and grey.shape == (32, 32)
    assert np.allclose(decibels, np.load(tmp_path / "b" / "9_0.npy"), atol=0.01)  # whatever the batch
    city = np.zeros((64, 64))
    city[20:30, 20:30] = 255
    save_grey(tmp_path / "city.png", city)
    own = ("--buildings", tmp_path / "city.png", "--tx")
    out = command(*base, f"sample.output_folder={tmp_path / 'c'}", *own, "5,6")
    assert out.returncode == 0, out.stderr
    grey = np.array(Image.open(tmp_path / "c" / "city_5_6.png"))
    assert grey.shape == (64, 64) and (grey[20:30, 20:30] == 0).all()
    refused(command(*base, *own, "25,25"), "inside a building", "the nearest open point is")
    refused(command(*base, *own, "64,1"), "outside")


def test_a_flat_tree_is_sampled_like_the_scenes_it_was_made_from(workplace, tmp_path):
    ckpt, tree, flat = workplace / "radiodiff_results_LDM", workplace / "tree", tmp_path / "flat"
    predictor = Predictor(ckpt)
    data = predictor.config.data
    dataset = RadioUNet_c(tree, split="val", image_size=32, cond_size=data.cond_size, cond_channels=data.cond_channels)
    for folder in ("images", "conditions", "masks"):
        (flat / folder).mkdir(parents=True)
    for index in range(len(dataset)):
        scene, name = dataset.scene(index), dataset.source.names[index]
        save_grey(flat / "images" / f"{name}.png", scene.gain * 255)
        save_grey(flat / "masks" / f"{name}.png", scene.buildings * 255)
        np.save(flat / "conditions" / f"{name}.npy", dataset[index]["cond"].numpy())
    settings = (f"sample.ckpt={ckpt}", f"sample.source.data_root={flat}", f"sample.output_folder={tmp_path / 'maps'}")
    how = ("--cfg", workplace / "tiny.yaml", *settings, "sample.source.split=all")
    done = command("sample.py", *how)
    assert done.returncode == 0 and len(list((tmp_path / "maps").glob("*_figure.png"))) == len(dataset), done.stderr
    np.save(flat / "conditions" / f"{name}.npy", np.zeros((1, 2, 2), np.float32))
    refused(command("sample.py", *how), f"conditions/{name}.npy", "has shape (1, 2, 2), not")


def test_sample_several_draws_and_transmitters(workplace, tmp_path):
    """No configuration file, a large and oblong city, two transmitters, three draws; then a simulated city."""
    city = np.zeros((300, 400))
    city[20:30, 20:30] = 255
    save_grey(tmp_path / "town.png", city)
    ckpt = ("--ckpt", workplace / "radiodiff_results_LDM")
    own = ("--buildings", tmp_path / "town.png", "--tx", "5,6", "--tx", "390,290", "--num_samples", 3)
    how = ("--sampler", "ddpm", "--steps", 3)
    out = command("sample.py", *ckpt, *own, *how, "--output_folder", tmp_path / "o")
    assert out.returncode == 0, out.stderr
    assert "256 m x 256 m around the transmitter" in out.stdout
    mean, std = np.load(tmp_path / "o" / "town_5_6.npy"), np.load(tmp_path / "o" / "town_5_6_std.npy")
    assert mean.shape == std.shape == (300, 400)
    assert np.isfinite(mean[:256, :256]).all() and np.isnan(mean[256:]).all() and np.isnan(mean[:, 256:]).all()
    assert std[:256, :256].max() > 0 and (std[20:30, 20:30] == 0).all() and np.allclose(mean[20:30, 20:30], -147)
    coverage = json.loads((tmp_path / "o" / "coverage.json").read_text())
    assert 0 <= coverage["covered_fraction_of_predicted_area"] <= 1
    assert coverage["predicted_fraction_of_open_area"] == pytest.approx(
        (2 * 256**2 - 212 * 112 - 100) / (300 * 400 - 100)
    )
    assert "89.4% of the open area was predicted" in out.stdout and "of that has at least -127 dB" in out.stdout
    assert [(t["number"], t["name"]) for t in coverage["transmitters"]] == [(1, "town_5_6"), (2, "town_390_290")]
    assert sum(t["best_server_fraction"] for t in coverage["transmitters"]) == pytest.approx(1)
    server = np.load(tmp_path / "o" / "best_server.npy")
    assert server[0, 0] == 1 and server[299, 399] == 2 and server[25, 25] == 0
    out = command("sample.py", *ckpt, "--simulate", 3, "--output_folder", tmp_path / "s")
    assert out.returncode == 0, out.stderr
    assert json.loads((tmp_path / "s" / "metrics.json").read_text())["maps"] == 1


def test_footprints_and_measured_power(workplace, tmp_path):
    """The map is a GeoTIFF too; a negative longitude is a value; received power becomes path gain."""
    ckpt = ("--ckpt", workplace / "radiodiff_results_LDM")
    city = ("--buildings", ROOT / "examples" / "town.geojson", "--tx", "10.002543,49.999488")
    out = command("sample.py", *ckpt, *city, "--output_folder", tmp_path)
    assert out.returncode == 0, out.stderr
    assert "town.geojson: footprints: 58, in degrees (EPSG:4326)" in out.stdout
    west = ("--buildings", ROOT / "examples" / "town.geojson", "--tx", "-80.0003,43.0")
    refused(command("sample.py", *ckpt, *west), "-80.0003,43.0: is outside town")
    (tmp_path / "drive.csv").write_text("PCI,latitude,longitude,rsrp\n1,49.9993,10.002543,-92\n1,49.0,10.0,-92\n")
    drive = (*city, "--measurements", tmp_path / "drive.csv", "--output_folder", tmp_path / "drive")
    refused(command("sample.py", *drive), "rsrp is received power in dBm; give the transmitter's EIRP")
    out = command("sample.py", *drive, "--eirp", -10)
    assert out.returncode == 0, out.stderr
    assert "1 measured points from the columns longitude, latitude, rsrp (dBm, minus the EIRP of -10 dBm)" in out.stdout
    assert "outside the map and left out: 1" in out.stdout and "1 of 1 measured points lie" in out.stdout
    decibels = np.load(tmp_path / "town_10.002543_49.999488.npy")
    with Image.open(tmp_path / "town_10.002543_49.999488.tif") as written:
        assert np.array_equal(np.asarray(written), decibels, equal_nan=True)
        x, y = written.tag_v2[33922][3:5]
    assert 9.999 < x < 10.001 and 49.9995 < y < 50.0005
    town = Layout.traced(np.asarray(Image.open(ROOT / "examples" / "town.png")) > 0)
    footprints = read_city(ROOT / "examples" / "town.geojson").layout
    assert footprints.coverage.sum() == pytest.approx(town.coverage.sum(), rel=0.02)


def test_a_model_that_cannot_see_measured_points_says_so(workplace, tmp_path):
    (tmp_path / "points.csv").write_text("x,y,gain_db\n3,4,-80\n")
    ckpt = ("--ckpt", workplace / "radiodiff_results_LDM")
    city = ("--simulate", 1, "--measurements", tmp_path / "points.csv", "--output_folder", tmp_path / "c")
    refused(command("sample.py", *ckpt, *city), "has no channel that shows measured points", "points.csv")


def test_the_released_model_is_used_where_none_is_named(tmp_path):
    out = command("sample.py", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    metrics = json.loads((tmp_path / "radiodiff_samples" / "metrics.json").read_text())
    assert metrics["maps"] == 1 and metrics["nmse"] < 0.03  # a trained model, not noise
    assert out.stdout.index("an input of this model and the truth here") < out.stdout.index("NMSE 0.")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_passes_a_dry_run(path, tmp_path):
    if "sample" in path.stem:
        pytest.skip("sampling has no dry run; test_config.py loads the file")
    script = "train_vae.py" if "first" in path.stem or "vae" in path.stem else "train_cond_ldm.py"
    script = "scripts/train_baseline.py" if "baseline" in path.stem else script
    out = command(script, "--cfg", path, "--dry_run", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert "parameters in all" in out.stdout and "trainer:" in out.stdout
    assert not list(tmp_path.iterdir())
    if path.stem == "radio_train_m":
        assert "data.train.data_root" in out.stdout.splitlines()[-1]


def test_a_dry_run_tells_of_channels_that_no_scene_has(tmp_path):
    line = ("train_vae.py", "--cfg", ROOT / "configs" / "tiny_vae.yaml", "--dry_run")
    out = command(*line, "data.cond_channels=[buildings, transmittr]", cwd=tmp_path)
    assert out.returncode == 0 and "data.cond_channels: transmittr: only a tree of ready-made" in out.stdout


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("sample.py", "--simulate", "-1"), ("--simulate", "whole number from 0 on")),
        (("sample.py", "--num_samples", "0"), ("sample.num_samples", "greater than or equal to 1")),
        (("sample.py", "trainer.steps=3"), ("name it with --cfg",)),
        (("sample.py", "--cfg", "x.yaml", "--seed", "3"), ("with --cfg, write sample.seed=3",)),
    ],
)
def test_arguments_that_mean_nothing(arguments, words):
    done = command(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr


def test_an_output_folder_inside_a_file(tmp_path):
    (tmp_path / "a file").touch()
    refused(command("sample.py", "--output_folder", tmp_path / "a file" / "maps"), "Not a directory", "a file")


def test_mistakes_end_in_one_line(workplace, tmp_path):
    tiny = workplace / "tiny.yaml"
    ckpt = f"first_stage_config.ckpt_path={workplace / 'radiodiff_results_VAE'}"
    train = ("train_cond_ldm.py", "--cfg", tiny)
    refused(command("train_vae.py", "--cfg", tmp_path / "no.yaml"), "no.yaml")
    refused(command(*train, "trainer.batchsize=3"), "trainer.batchsize", "trainer.batch_size")
    refused(command(*train, cwd=tmp_path), "first_stage_config.ckpt_path", "train_vae.py")
    refused(command(*train, ckpt, "data.train.data_root=/nowhere", cwd=tmp_path), "/nowhere")
    refused(command(*train, ckpt, "data.train.simulation_type=DMP", cwd=tmp_path), "did you mean DPM")
    refused(command(*train, ckpt, "data.cond_channels=[buildings,transmiter,cars]", cwd=tmp_path), "transmiter")
    refused(command(*train, ckpt, "first_stage_config.embed_dim=3", cwd=tmp_path), "another architecture")
    refused(command(*train, "first_stage_config.ckpt_path=gone.pt", cwd=tmp_path), "gone.pt")
    other = "data.cond_channels=[buildings,transmitter,line_of_sight]"
    refused(command(*train, other, cwd=workplace), "data.cond_channels")
    refused(
        command("train_vae.py", "--cfg", ROOT / "configs" / "radio_train_m.yaml", cwd=tmp_path), "data.train.data_root"
    )
    refused(command("train_vae.py", "--cfg", tiny, "first_stage_config.ddconfig.resolution=31"), "resolution")
    broken = tmp_path / "tree"
    shutil.copytree(workplace / "tree", broken)
    (broken / "gain" / "DPM" / "0_0.png").write_bytes(b"nothing")
    refused(
        command("train_vae.py", "--cfg", tiny, f"data.train.data_root={broken}", "data.cache=true", cwd=tmp_path),
        "0_0.png",
    )
    assert not list(tmp_path.glob("radiodiff_results*/checkpoints/*"))
