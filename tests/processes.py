"""Runs as processes of their own."""

import os
import sys
from pathlib import Path

import yaml

from tests.conftest import make_tree
from tests.tiny import TINY, merged

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"vae": "train_vae.py", "ldm": "train_cond_ldm.py"}
CHANGES = {
    "first_stage_config": {"ddconfig": {"resolution": 32}, "lossconfig": {"discr_start": 10}},
    "unet_config": {"attention_resolutions": [], "dropout": 0.1},
    "trainer": {"save_interval": 5, "keep_last": 3, "validate_every": 0, "ema": {"start_step": 5, "beta": 0.9}},
}


def environment():
    """One thread per run, so that all runs compute the same bits, even side by side."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


def set_up(folder):
    """A tree `data` and the configuration of tiny networks in `folder`; returns the configuration's file."""
    make_tree(folder / "data")
    path = folder / "tiny.yaml"
    config = merged(TINY, CHANGES | {"data": {"train": {"data_root": str(folder / "data")}}})
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def train_command(stage, config, results, *overrides):
    """The command line of a run."""
    command = [sys.executable, ROOT / SCRIPTS[stage], "--cfg", config, f"trainer.results_folder={results}", *overrides]
    return list(map(str, command))
