"""The real trainer on this machine's GPU: precision, compilation, waiting."""

import math

import pytest
import torch

from denoising_diffusion_pytorch.training.forecast import random_trainer
from denoising_diffusion_pytorch.training.setup import make_accelerator
from tests.tiny import tiny_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trainer_of(stage, folder, **settings):
    settings["results_folder"] = str(folder)
    config = tiny_config(stage, trainer=settings, diffusion_config={"scale_factor": 1.0})
    return random_trainer(config, stage, make_accelerator(config.trainer))


def losses(trainer):
    batches = trainer.make_batches(0)
    return [float(trainer.train_step(batches)["loss"]) for _ in range(3)]


@pytest.mark.parametrize("stage", ["vae", "ldm"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_are_finite(stage, precision, tmp_path):
    assert all(map(math.isfinite, losses(trainer_of(stage, tmp_path, mixed_precision=precision))))


@pytest.mark.parametrize("stage", ["vae", "ldm"])
def test_a_step_waits_for_the_gpu_at_one_place_and_compiling_changes_nothing(stage, tmp_path):
    eager, compiled = (trainer_of(stage, tmp_path, compile=compile) for compile in (False, True))
    assert losses(compiled) == pytest.approx(losses(eager), rel=0.02)
    batches, eager.require_finite = eager.make_batches(0), lambda *values: None  # where a step waits, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager.train_step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
