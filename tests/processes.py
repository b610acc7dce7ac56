"""Runs as processes of their own, and the same runs in this one."""

import os
import sys
from pathlib import Path

import pytest
import yaml

import train_cond_ldm
import train_vae
from denoising_diffusion_pytorch.checkpoint import trained_first_stage
from denoising_diffusion_pytorch.config import load_config
from tests.conftest import make_tree
from tests.tiny import TINY, merged

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"vae": train_vae, "ldm": train_cond_ldm}
CHANGES = {
    "first_stage_config": {"lossconfig": {"discr_start": 10}},
    "unet_config": {"attention_resolutions": [], "dropout": 0.1},
    "trainer": {"save_interval": 5, "keep_last": 3, "validate_every": 0, "ema": {"start_step": 5, "beta": 0.9}},
}


def environment():
    """One thread per run, so that all runs compute the same bits, even side by side."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


def set_up(folder, changes=CHANGES):
    """A tree `data` and the configuration of tiny networks in `folder`; returns the configuration's file."""
    own = {
        "first_stage_config": {"ddconfig": {"resolution": 32}},
        "data": {"train": {"data_root": str(folder / "data")}},
    }
    make_tree(folder / "data")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(merged(merged(TINY, own), changes)), encoding="utf-8")
    return path


def train_command(stage, config, results, *overrides, launcher=()):
    """The command line of a run; `launcher`: the module that starts it, and its options."""
    script = Path(STAGES[stage].__file__)
    command = [sys.executable, *launcher, script, "--cfg", config, f"trainer.results_folder={results}", *overrides]
    return list(map(str, command))


def train_here(stage, config, results, *overrides):
    """The same run in this process, on the CPU."""
    overrides = [f"trainer.results_folder={results}", *overrides]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        STAGES[stage].train(load_config(config, overrides, stage=stage, trained=trained_first_stage))


def launcher(processes):
    """`accelerate launch` on the CPU."""
    several = ("--multi_gpu", "--main_process_port", "0") if processes > 1 else ("--cpu",)
    counts = ("--num_machines", "1", "--num_processes", processes)
    return ("-m", "accelerate.commands.launch", *counts, "--mixed_precision", "no", "--dynamo_backend", "no", *several)
