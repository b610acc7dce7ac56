"""Several processes (gloo, on the CPU) do what one does on the same global batch."""

import shutil
import subprocess

import pytest
import torch

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.training.run_folder import read_log
from tests.processes import environment, launcher, set_up, train_command, train_here

SETTINGS = (
    "trainer.training_steps=4",
    "trainer.gradient_accumulation=2",
    "trainer.validate_every=2",
    "trainer.validation_samples=2",
    "first_stage_config.lossconfig.discr_start=1",
    "unet_config.dropout=0",  # whose masks belong to a process
    "trainer.optimizer.eps=0.01",  # so that an update is proportional to its gradient and does not blow up its noise
    "data.num_workers=0",
    "data.validation.split=all",
)


def train_in_two(stage, config, results, *overrides):
    command = train_command(stage, config, results, *SETTINGS, *overrides, launcher=launcher(2))
    surroundings = {name: value for name, value in environment().items() if name != "ACCELERATE_USE_CPU"}
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, configuration), with an autoencoder for stage 2."""
    folder = tmp_path_factory.mktemp("processes")
    config = set_up(folder)
    train_here("vae", config, folder / "vae_1", *SETTINGS, "trainer.batch_size=4")
    return folder, config


@pytest.mark.parametrize(
    "name,overrides",
    [
        ("vae", []),
        ("ldm_cached", ["diffusion_config.end_to_end.start_step=2", "data.cache_latents=true"]),
    ],
)
def test_two_processes_are_one(place, name, overrides):
    folder, config = place
    stage = name.split("_")[0]
    results = {n: folder / f"{name}_{n}" for n in (1, 2)}
    if stage == "ldm":
        overrides = [f"first_stage_config.ckpt_path={folder / 'vae_1'}", *overrides]
        train_here("ldm", config, results[1], *SETTINGS, "trainer.batch_size=4", *overrides)
    done = train_in_two(stage, config, results[2], "trainer.batch_size=2", *overrides)
    assert done.returncode == 0, done.stderr
    logs = {n: read_log(path / "train.log") for n, path in results.items()}
    assert logs[1].keys() == logs[2].keys()
    for figure in logs[1].keys() - {"data_wait", "memory_gib", "samples_per_second"}:
        assert logs[1][figure] == pytest.approx(logs[2][figure], rel=1e-4, abs=1e-6), figure
    one, two = (find_checkpoint(path) for path in results.values())
    assert one.step == two.step == 4 and (one.meta["processes"], two.meta["processes"]) == (1, 2)
    for part in ("model", "ema"):
        ours, theirs = one.weights(part), two.weights(part)
        for weight, value in ours.items():
            # AdamW's first steps move a weight by the learning rate whatever its gradient's size, noise included
            assert torch.allclose(value, theirs[weight], rtol=1e-3, atol=2e-4), weight


def test_no_process_waits_for_one_that_failed(place):
    """A file that only one of two processes reads is broken: both end, and its name is said."""
    folder, config = place
    data = shutil.copytree(folder / "data", folder / "broken")
    victim = min((data / "gain" / "DPM").glob("0_*.png"))
    victim.write_bytes(b"nothing")
    overrides = (f"data.train.data_root={data}", "trainer.training_steps=100000", "trainer.validate_every=50000")
    done = train_in_two("vae", config, folder / "failed", *overrides)
    assert done.returncode != 0 and str(victim) in done.stderr


def test_all_processes_end_at_a_value_that_is_not_finite(place):
    folder, config = place
    done = train_in_two("vae", config, folder / "infinite", "trainer.learning_rate=1e30")
    assert done.returncode != 0 and "non-finite at step 1" in done.stderr
    dumps = {path.name for path in (folder / "infinite" / "nonfinite").iterdir()}
    assert dumps == {"step_1_rank_0.pt", "step_1_rank_1.pt"}
