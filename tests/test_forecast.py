"""Steps on fake tensors need what real ones do."""

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from denoising_diffusion_pytorch.training.forecast import (
    ALLOWANCE,
    GIB,
    Tally,
    forecast,
    largest_batch,
    norms_in_float32,
    random_trainer,
)
from tests.tiny import tiny_config


def changed(stage, discr_start=1, **trainer):
    first_stage = {"lossconfig": {"discr_start": discr_start}, "ddconfig": {"resolution": 64}}
    return tiny_config(stage, trainer={"results_folder": "unused"} | trainer, first_stage_config=first_stage)


@pytest.mark.parametrize(
    "stage, batches, precision, optimizer",
    [
        ("vae", 2, "bf16", "adamw"),
        ("vae", 2, "no", "muon"),
        ("ldm", 2, "bf16", "adamw"),
        ("baseline", 1, "no", "adamw"),
    ],
)
def test_a_real_step_agrees(stage, batches, precision, optimizer):
    """The second step's, whose optimizer has its moments, in one or two micro-batches."""
    how = {"gradient_accumulation": batches, "optimizer": {"type": optimizer}}
    config = changed(stage, mixed_precision=precision, **how)
    expected = forecast(config, stage)
    with Tally() as tally:
        trainer = random_trainer(config, stage, Accelerator(cpu=True, mixed_precision=precision))
        if precision == "bf16":
            norms_in_float32(trainer)
        stream = trainer.make_batches(0)
        for trainer.step in (2, 3):
            tally.peak, tally.flops = tally.live, 0
            trainer.train_step(stream)
    assert expected.peak == pytest.approx(tally.peak, rel=0.02) and expected.flops == tally.flops > 0


def test_what_changes_a_forecast():
    first, last = (forecast(changed("vae", discr_start=step), "vae") for step in (10**6, 1))
    assert first.flops < last.flops and first.fixed < last.fixed  # the discriminator
    accumulated = forecast(changed("vae", gradient_accumulation=6), "vae")
    assert accumulated.flops == 3 * last.flops and accumulated.peak == last.peak
    large = forecast(changed("vae", batch_size=64), "vae")
    AcceleratorState._reset_state(True)
    reduced = forecast(changed("vae", mixed_precision="bf16", batch_size=64), "vae")
    assert reduced.peak < 0.9 * large.peak


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_largest_micro_batch_fits_and_no_larger_one(accumulation):
    config = changed("vae", gradient_accumulation=accumulation, batch_size=32)
    count = largest_batch(forecast(config, "vae"), 32, card=2)
    peaks = []
    for config.trainer.batch_size in (count, count + 2):
        peaks.append(forecast(config, "vae").peak)
    assert peaks[0] + ALLOWANCE < 2 * GIB < peaks[1] + ALLOWANCE


def test_flops_include_the_attention_of_cpus():
    q = torch.randn(1, 2, 8, 4)
    with Tally() as tally:
        F.scaled_dot_product_attention(q, q, q)
    assert tally.flops == 2 * 2 * 2 * 8 * 8 * 4
