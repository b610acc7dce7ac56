"""Several processes (gloo, on the CPU) do what one does on the same global batch."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from denoising_diffusion_pytorch.checkpoint import find_checkpoint
from denoising_diffusion_pytorch.training.run_folder import read_log
from tests.processes import ROOT, Job, environment, launcher, set_up, train_command, train_here

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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, configuration), with an autoencoder for stage 2."""
    folder = tmp_path_factory.mktemp("processes")
    config = set_up(folder)
    train_here("vae", config, folder / "vae_1", *SETTINGS, "trainer.batch_size=4")
    return folder, config


def in_two(*command):
    line, how = [sys.executable, *launcher(2), *command], {"env": environment(launched=True), "timeout": 200}
    return subprocess.run(list(map(str, line)), **how, capture_output=True, text=True)


BOTH = """
import sys
sys.path.insert(0, {root!r})
import train_cond_ldm, train_vae
from denoising_diffusion_pytorch.config import load_config
config, folder, *overrides = sys.argv[1:]
train_vae.train(load_config(config, [f"trainer.results_folder={{folder}}/vae_2", *overrides], stage="vae"))
last = f"trainer.results_folder={{folder}}/ldm_2", f"first_stage_config.ckpt_path={{folder}}/vae_2"
train_cond_ldm.train(load_config(config, [*overrides, *last, "trainer.training_steps=2"], stage="ldm"))
"""
COMPILED = """
import sys
from functools import partial
import torch
torch.compile = partial(torch.compile, backend="eager")  # C++ would take minutes
sys.path.insert(0, {root!r})
import train_cond_ldm
train_cond_ldm.main()
"""


def require_equal(one, several, processes):
    """Two results folders hold the same run, the second one of several processes."""
    logs = [read_log(path / "train.log") for path in (one, several)]
    assert logs[0].keys() == logs[1].keys()
    for figure in logs[0].keys() - {"data_wait", "memory_gib", "samples_per_second"}:
        assert logs[0][figure] == pytest.approx(logs[1][figure], rel=1e-4, abs=1e-6), figure
    ours, theirs = (find_checkpoint(path) for path in (one, several))
    assert ours.step == theirs.step == 4 and (ours.meta["processes"], theirs.meta["processes"]) == (1, processes)
    for part in ("model", "ema"):
        weights, others = ours.weights(part), theirs.weights(part)
        for weight, value in weights.items():
            # AdamW's first steps move a weight by the learning rate whatever its gradient's size, noise included
            assert torch.allclose(value, others[weight], rtol=1e-3, atol=2e-4), weight


def test_two_processes_are_one(place):
    """In a script that trains both stages."""
    folder, config = place
    script = folder / "both.py"
    script.write_text(BOTH.format(root=str(ROOT)), encoding="utf-8")
    done = in_two(script, config, folder, *SETTINGS, "trainer.batch_size=2")
    assert done.returncode == 0, done.stderr
    require_equal(folder / "vae_1", folder / "vae_2", 2)
    assert find_checkpoint(folder / "ldm_2").meta["processes"] == 2


@pytest.mark.slow
def test_four_processes_on_two_nodes_are_one(place):
    """With everything that DDP might not bear, and caches that four processes fill."""
    folder, config = place
    overrides = (*SETTINGS, f"first_stage_config.ckpt_path={folder / 'vae_1'}", "unet_config.use_checkpoint=true")
    overrides += ("diffusion_config.end_to_end.start_step=2", "data.cache=true", "data.cache_latents=true")
    train_here("ldm", config, folder / "ldm_1", *overrides, "trainer.batch_size=4", f"data.cache_folder={folder}/one")
    script, results = folder / "compiled.py", folder / "ldm_4"
    script.write_text(COMPILED.format(root=str(ROOT)), encoding="utf-8")
    command = [script, *train_command("ldm", config, results, *overrides)[2:], "trainer.compile=true"]
    with Job(folder, *command, "trainer.batch_size=1", f"data.cache_folder={folder / 'four'}", nodes=2, gpus=2) as job:
        assert job.process.wait(timeout=300) == 0, job.log.read_text()
    assert not job.requeued.exists() and job.log.read_text().count("finished at step 4") == 1
    require_equal(folder / "ldm_1", results, 4)
    one, four = ({p.name: p.read_bytes() for p in (folder / n).glob("*/*.npy")} for n in ("one", "four"))
    assert one.keys() == four.keys() and all(one[name] == four[name] for name in one)


def wait_for(job, there):
    while job.process.poll() is None and not there():
        time.sleep(0.1)
    assert job.process.poll() is None, job.log.read_text()


RUN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60 if sys.argv[2] == "stop" else 0)
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "ending, state, code, requeued",
    [
        ("0", "RUNNING", 0, False),
        ("3", "RUNNING", 3, False),
        ("stop", "RUNNING", 0, True),
        ("stop", "COMPLETING", 75, False),  # cancelled
    ],
)
def test_only_a_run_that_was_stopped_is_requeued(tmp_path, ending, state, code, requeued):
    begun = tmp_path / "begun"
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    with Job(tmp_path, tmp_path / "run.py", begun, ending, state=state) as job:
        if ending == "stop":
            wait_for(job, begun.exists)
            job.process.send_signal(signal.SIGUSR1)
        assert job.process.wait(timeout=30) == code, job.log.read_text()
    assert job.requeued.exists() == requeued


def test_no_process_waits_for_one_that_failed(place):
    """A file that only one of two processes reads is broken: both end, and its name is said."""
    folder, config = place
    data = shutil.copytree(folder / "data", folder / "broken")
    victim = min((data / "gain" / "DPM").glob("0_*.png"))
    victim.write_bytes(b"nothing")
    overrides = (f"data.train.data_root={data}", "trainer.training_steps=100000", "trainer.validate_every=50000")
    done = in_two(*train_command("vae", config, folder / "failed", *SETTINGS, *overrides)[1:])
    assert done.returncode != 0 and str(victim) in done.stderr


def test_all_processes_end_at_a_value_that_is_not_finite(place):
    folder, config = place
    done = in_two(*train_command("vae", config, folder / "infinite", *SETTINGS, "trainer.learning_rate=1e30")[1:])
    assert done.returncode != 0 and "non-finite at step 1" in done.stderr
