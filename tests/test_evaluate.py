"""Scoring, exporting and timing commands, on a tiny tree; `Predictor`."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.samples.document import RadioUNet_c
from denoising_diffusion_pytorch.checkpoint import load_tensors, open_checkpoint, quantized
from denoising_diffusion_pytorch.config import load_config
from denoising_diffusion_pytorch.predictor import Predictor
from scripts import benchmark, train_baseline
from tests.commands import done, refused
from tests.conftest import save_grey
from tests.processes import ROOT

EVALUATE, EXPORT = "scripts/evaluate.py", "scripts/export_model.py"
PMNET = ["baseline_config.architecture=pmnet", "baseline_config.width=0.125", "data.cond_size=32"]


@pytest.fixture(scope="module")
def workplace(trained):
    """Both stages, and a baseline."""
    results = f"trainer.results_folder={trained / 'baseline'}"
    own = [results, "data.cond_channels=[buildings]", "data.incomplete.points=0", *PMNET]
    train_baseline.train(load_config(trained / "tiny.yaml", own, stage="baseline"))
    return trained


def read(path):
    """JSON as every reader takes it: without NaN."""
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_evaluate_begins_with_what_was_scored_and_names_a_black_map(workplace, tmp_path):
    files = ("--json", tmp_path / "s.json", "--gallery", tmp_path / "g.png", "--references", "--reconstruction")
    out = done(EVALUATE, "--ckpt", workplace / "ldm", "--data", workplace / "data", "--split", "all", *files)
    scores, lines = read(tmp_path / "s.json"), out.splitlines()
    own = [line for line in lines if str(tmp_path.parent) not in line and str(workplace) not in line]
    assert lines[0].startswith("latent diffusion:") and max(map(len, own)) <= 80
    said = " ".join(out.split())  # lines are wrapped
    assert "split all: 20 scenes" in said and said.index("scored on 20 maps") < said.index("NMSE")
    assert "1 of 20 maps are zero everywhere and have no NMSE: 9_1" in said and "nan" not in said
    assert scores["maps"] == 20 == len(scores["per_map"]) and scores["without_energy"] == 1
    assert set(scores["baselines"]) == {"simulator", "25 log10 d", "LOS/NLOS path-loss model"}
    low, high = scores["nmse_interval"]
    per_map = [row["nmse"] for row in scores["per_map"] if row["nmse"] is not None]
    assert len(per_map) == 19 and low < scores["nmse"] < high and scores["nmse"] == pytest.approx(np.mean(per_map))
    assert scores["reconstruction"]["nmse"] > 0 and (tmp_path / "g.png").is_file()
    # open space without obstacles is 25 log10 d by construction of these maps
    assert scores["baselines"]["25 log10 d"]["nmse"] < 1e-5


def test_several_samples_of_incomplete_scenes(workplace, tmp_path):
    """Nobody names a sampler: one is taken whose samples differ."""
    how = ("--ckpt", workplace / "ldm", "--data", workplace / "data", "--split", "val", "--num_samples", 4)
    files = ("--json", tmp_path / "s.json", "--gallery", tmp_path / "g.png")
    said = " ".join(done(EVALUATE, *how, *files, "--incomplete", "points=7", "missing_buildings=1").split())
    found = read(tmp_path / "s.json")
    assert found["incomplete"] == "points=7 missing_buildings=1"
    assert found["calibration"]["crps"] > 0 and "intervals cover 50%" in said and (tmp_path / "g.png").is_file()


def test_an_exported_model_and_a_baseline_are_scored(workplace, tmp_path):
    export = (EXPORT, "--ckpt", workplace / "ldm", "--out")
    done(*export, tmp_path / "model", "diffusion_config.pixel_noise=2", "diffusion_config.noise_scale=1.5")
    refused(*export, tmp_path / "model", words=["exists; choose a new folder"])
    done(*export, tmp_path / "small", "--int8")
    weights, small = (open_checkpoint(folder).weights("averaged") for folder in (workplace / "ldm", tmp_path / "small"))
    for name, weight in weights.items():
        rows, error = weight.flatten(1) if weight.ndim > 1 else weight[..., None], (small[name] - weight).abs()
        bits = 127 if weight.ndim > 1 else torch.inf  # biases and norms are stored as they are
        assert torch.all(error.view_as(rows).amax(-1) <= 0.51 * rows.abs().amax(-1) / bits), name
    assert (quantized("w", torch.full((2, 9), 3e-4).half())["w"] == 127).all()  # of an exported model
    save_file({"norm.scale": torch.ones(2)}, tmp_path / "foreign.safetensors")
    assert "norm.scale" in load_tensors(tmp_path / "foreign.safetensors")  # no file of ours, and no 8-bit integers
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "model")]
    assert sizes[0] < 0.8 * sizes[1]
    words = ("unet_config.num_res_blocks", "fixed by training")
    refused(*export, tmp_path / "other", "unet_config.num_res_blocks=3", words=words)
    models = {"whole": workplace / "ldm", "exported": tmp_path / "model", "PMNet": workplace / "baseline"}
    for name, ckpt in models.items():
        files = [part for kind in ("json", "csv", "markdown") for part in (f"--{kind}", tmp_path / f"{name}.{kind}")]
        how = ("--data", workplace / "data", "--split", "val", "--ckpt", ckpt)
        done(EVALUATE, *how, *files)
    whole, exported = (read(tmp_path / f"{name}.json") for name in ("whole", "exported"))
    assert exported["nmse"] == pytest.approx(whole["nmse"], rel=0.05)  # from more noise
    assert (exported["noise_scale"], exported["pixel_noise"], whole["pixel_noise"]) == (1.5, 2, 0)
    assert whole["baselines"] == {} and whole["reconstruction"] is None
    with (tmp_path / "whole.csv").open() as file:
        ours = [float(row["nmse"]) for row in csv.DictReader(file) if row["predictor"] == "latent diffusion"]
    assert ours == [row["nmse"] for row in whole["per_map"]]
    text = (tmp_path / "whole.markdown").read_text()
    assert f"| {whole['nmse']:.4f} |" in text and "NMSE masked" in text and "Mean power of the targets: raw" in text


def test_the_released_model_is_scored_on_cities_that_it_has_not_seen(tmp_path):
    done("scripts/make_dataset.py", "--out", "cities", "--cities", 2, "--tx", 1, "--size", 128, cwd=tmp_path)
    how = ("--data", "cities", "--split", "all", "--json", "s.json", "--references")
    out = done(EVALUATE, *how, cwd=tmp_path)
    scores = read(tmp_path / "s.json")
    notes = "these scores mean nothing", "the maps are 128 m wide; the model was trained on 256 m"
    assert all(note in " ".join(out.split()) for note in notes)
    split = ("sample.source.data_root=cities", "sample.source.split=all", "sample.ckpt=null", "sample.output_folder=o")
    out = done("sample.py", "--cfg", ROOT / "configs/radio_sample_m.yaml", *split, cwd=tmp_path)
    assert all(note in out for note in notes)
    others = scores["baselines"]
    assert others["simulator"]["nmse"] < scores["nmse"] < others["LOS/NLOS path-loss model"]["nmse"]


def test_a_flat_tree_is_sampled_and_scored_like_the_scenes_it_was_made_from(workplace, tmp_path):
    ckpt, flat = ("--ckpt", workplace / "ldm"), tmp_path / "flat"
    data = Predictor(workplace / "ldm").config.data
    of_data = {"image_size": 32, "cond_size": data.cond_size, "cond_channels": data.cond_channels}
    dataset = RadioUNet_c(workplace / "data", split="val", **of_data)
    (flat / "conditions").mkdir(parents=True)
    for index, name in enumerate(dataset.source.names):
        scene = dataset.scene(index)
        save_grey(flat / "images" / f"{name}.png", scene.gain * 255)
        save_grey(flat / "masks" / f"{name}.png", scene.buildings * 255)
        np.save(flat / "conditions" / f"{name}.npy", dataset[index]["cond"].numpy())
    nmse = []
    for data in (("--data", workplace / "data", "--split", "val"), ("--data", flat, "--split", "all")):
        out = done(EVALUATE, *ckpt, *data, "--json", tmp_path / "s.json", "--references")
        nmse.append(read(tmp_path / "s.json")["nmse"])
    assert "m wide" not in out
    done("sample.py", *ckpt, "--simulate", 3, "--output_folder", tmp_path / "city")  # also the size it was trained on
    (path,) = (tmp_path / "city").glob("city3_*.npy")
    assert np.isfinite(np.load(path)).sum() == 32 * 32
    assert nmse[0] == pytest.approx(nmse[1], abs=1e-6) and "simulator: scored on 0 of 2 maps" in " ".join(out.split())
    source = (f"sample.ckpt={ckpt[1]}", f"sample.source.data_root={flat}", "sample.source.split=all")
    sample = ("sample.py", "--cfg", workplace / "tiny.yaml", *source, f"sample.output_folder={tmp_path / 'maps'}")
    done(*sample)
    assert len(list((tmp_path / "maps").glob("*_figure.png"))) == len(dataset)
    other_stage = ("--cfg", ROOT / "configs" / "tiny_baseline.yaml", *source)
    again = done("sample.py", *other_stage, f"sample.output_folder={tmp_path / 'again'}")
    assert f"{len(dataset)} maps in" in again
    np.save(flat / "conditions" / f"{name}.npy", np.zeros((1, 2, 2), np.float32))
    elsewhere = f"sample.output_folder={tmp_path / 'others'}"
    refused(*sample[:-1], elsewhere, words=(f"conditions/{name}.npy", "has shape (1, 2, 2), not"))
    refused(*sample[:-1], f"sample.output_folder={flat / 'images'}", words=("is a part of the data",))
    for path in (flat / "images" / f"{name}.png", flat / "conditions" / f"{name}.npy"):
        path.with_stem(f"{name}_figure").write_bytes(path.read_bytes())
    refused(*sample[:-1], elsewhere, words=(f"rename {name}_figure",))


def test_arguments_that_mean_nothing_end_in_one_line(workplace):
    ldm, baseline = ("--ckpt", workplace / "ldm"), ("--ckpt", workplace / "baseline")
    for arguments, *words in (
        (("--maps", "0"), "--maps", "at least 1"),
        (("--json", "."), "--json", "is a folder"),
        (("--json", "/"), "--json", "is a folder"),
        (("--json", "a", "--csv", "a"), "need a file each"),
        (("--json", "a.jsonl", "--csv", "a"), "need a file each"),
        (("--gallery", "maps.txt"), "--gallery", "end its name with .png"),
        (("--csv", __file__ + "/x.csv"), "--csv", "cannot be written there"),
        (("--ckpt", "."), "no checkpoint"),
        (("--ckpt", workplace / "vae"), "is an autoencoder"),
        ((*ldm, "--sampler", "decoupled"), "decoupled", "ddim"),
        ((*ldm, "--pixel_noise", "-1"), "pixel_noise is -1", "must lie"),
        ((*ldm, "--incomplete", "point=4"), "incomplete.point is not a known key"),
        ((*baseline, "--incomplete", "points=4"), "has no channel that shows measured points"),
        ((*baseline, "--steps", "2"), "is a regression baseline"),
        ((*baseline, "--reconstruction"), "leave out --reconstruction"),
    ):
        refused(EVALUATE, "--data", workplace / "data", *arguments, words=words)


def test_several_samples_are_made_to_differ_unless_a_choice_was_made():
    predictor = Predictor()
    assert predictor.sampling_of(1).steps == 1 and predictor.sampling_of(4) == Predictor().sampling_of(2)
    assert (predictor.sampling_of(4).sampler, predictor.sampling_of(4).steps) == ("ddpm", 4)
    assert Predictor(steps=1).sampling_of(4).steps == 1 and Predictor(sampler="ddim").sampling_of(4).sampler == "ddim"
    assert Predictor(noise_scale=1.5).sampling_of(4).noise_scale == 1.5


@pytest.mark.parametrize("part, row", [("released", "as configured"), ("vae", "fp32, with discriminator")])
def test_a_row_of_the_benchmark(part, row):
    found = benchmark.measure(tiny=True, repeats=1, part=part, overrides=benchmark.ROWS[part][row], batch=1)
    assert found["seconds"] > 0 and found["of_peak"] > 0
