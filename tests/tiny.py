"""A configuration small enough for a test, and batches to go with it."""

import copy
import itertools

import torch

from denoising_diffusion_pytorch.config import parse_config, resolve

TINY = {
    "first_stage_config": {
        "embed_dim": 2,
        "ddconfig": {"resolution": 16, "ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "mid_attention": False},
        "lossconfig": {"discr_start": 10**6, "discr_layers": 1, "discr_channels": 8},
    },
    "cond_stage_config": {"num_heads": 2, "window_size": 4, "depths": [1, 1]},
    "unet_config": {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "num_heads": 2,
        "context_dim": 8,
        "use_checkpoint": False,
        "window_size": 4,
    },
    "diffusion_config": {"objective": "pred_x0", "beta_schedule": "cosine", "sampling_timesteps": 2},
    "data": {"train": {"data_root": "nowhere"}, "num_workers": 0},
    "trainer": {
        "batch_size": 2,
        "gradient_accumulation": 2,
        "learning_rate": 1e-3,
        "training_steps": 4,
        "save_interval": 2,
        "log_interval": 1,
        "num_samples": 0,
        "ema": {"start_step": 1, "update_interval": 1, "beta": 0.5},
    },
}


def merged(base, changes):
    """`base` with nested `changes`."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


def tiny_config(stage="ldm", **changes):
    """A resolved tiny configuration; `changes` are sections."""
    if changes.get("diffusion_config", {}).get("model_type", "ddpm") != "ddpm":
        changes = merged({"diffusion_config": {"beta_schedule": None}}, changes)
    return resolve(parse_config(merged(TINY, changes)), stage=stage)


def tiny_batch(number, batch_size=2, side=16, cond_side=8, cond_channels=3):
    """Micro-batch `number`: smooth images that follow from the number alone."""
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(batch_size, 1, side // 4, side // 4, generator=generator) * 2 - 1
    return {
        "image": torch.nn.functional.interpolate(images, scale_factor=4, mode="nearest"),
        "cond": torch.rand(batch_size, cond_channels, cond_side, cond_side, generator=generator) * 2 - 1,
        "ori_mask": torch.zeros(batch_size, 1, side, side),
        "names": [f"{number}_{index}" for index in range(batch_size)],
        "keys": [batch_size * number + index for index in range(batch_size)],
    }


def tiny_batches(first):
    """An endless stream, as Trainer wants it."""
    yield from map(tiny_batch, itertools.count(first))
