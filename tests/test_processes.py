"""Several processes (gloo, on the CPU) do what one does on the same global batch."""

import os
import subprocess
import sys

import pytest
import torch

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.training.run_folder import read_log
from tests.processes import ROOT, SCRIPTS, set_up

SETTINGS = (
    "trainer.training_steps=4",
    "trainer.validate_every=2",
    "trainer.validation_samples=2",
    "first_stage_config.lossconfig.discr_start=1",
    "unet_config.dropout=0",  # whose masks belong to a process
    "trainer.optimizer.eps=0.01",  # so that an update is proportional to its gradient and does not blow up its noise
    "data.num_workers=0",
    "data.validation.split=all",
)


def train(stage, config, results, processes, *overrides, check=True):
    launch = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += (
        ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *launch,
        str(ROOT / SCRIPTS[stage]),
        "--cfg",
        str(config),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command += [f"trainer.results_folder={results}", *SETTINGS, *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, configuration), with an autoencoder for stage 2."""
    folder = tmp_path_factory.mktemp("processes")
    config = set_up(folder)
    train("vae", config, folder / "vae", 1)
    return folder, config


@pytest.mark.parametrize(
    "stage,accumulation,overrides",
    [
        ("vae", 1, []),
        ("vae", 2, []),
        ("ldm", 1, []),
        ("ldm", 2, []),
        ("ldm", 2, ["diffusion_config.end_to_end.start_step=2", "data.cache_latents=true"]),
    ],
)
def test_two_processes_are_one(place, stage, accumulation, overrides):
    folder, config = place
    common = [f"trainer.gradient_accumulation={accumulation}", *overrides]
    common += [f"first_stage_config.ckpt_path={folder / 'vae'}"] if stage == "ldm" else []
    results = {n: folder / f"{stage}_{accumulation}_{len(overrides)}_{n}" for n in (1, 2)}
    for n, path in results.items():
        train(stage, config, path, n, f"trainer.batch_size={4 // n}", *common)
    logs = {n: read_log(path / "train.log") for n, path in results.items()}
    assert logs[1].keys() == logs[2].keys()
    for name in logs[1].keys() - {"data_wait", "memory_gib", "samples_per_second"}:
        assert logs[1][name] == pytest.approx(logs[2][name], rel=1e-4, abs=1e-6), name
    one, two = (find_checkpoint(path) for path in results.values())
    assert one.step == two.step == 4
    for part in ("model", "ema"):
        ours, theirs = one.weights(part), two.weights(part)
        for name, value in ours.items():
            # AdamW's first steps move a weight by the learning rate whatever its gradient's size, noise included
            assert torch.allclose(value, theirs[name], rtol=1e-3, atol=2e-4), name


def test_no_process_waits_for_one_that_failed(place):
    """A file that only one of two processes reads is broken: both end, and its name is said."""
    folder, config = place
    data = folder / "broken"
    subprocess.run(["cp", "-r", folder / "data", data], check=True)
    victim = sorted((data / "gain" / "DPM").glob("0_*.png"))[0]
    victim.write_bytes(b"nothing")
    overrides = (f"data.train.data_root={data}", "trainer.training_steps=100000", "trainer.validate_every=0")
    done = train("vae", config, folder / "failed", 2, *overrides, check=False)
    assert done.returncode != 0
    assert str(victim) in done.stderr


def test_all_processes_end_at_a_value_that_is_not_finite(place):
    folder, config = place
    done = train("vae", config, folder / "infinite", 2, "trainer.learning_rate=1e30", check=False)
    assert done.returncode != 0 and "non-finite at step 1" in done.stderr
    assert {path.name for path in (folder / "infinite" / "nonfinite").iterdir()} == {
        "step_1_rank_0.pt",
        "step_1_rank_1.pt",
    }
