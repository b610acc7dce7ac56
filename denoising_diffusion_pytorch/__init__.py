"""RadioDiff's model package. Importing it loads networks, diffusion and losses; the training loop is in `training`."""

import importlib
from typing import Any

from .autoencoder import AutoencoderKL, Decoder, DiagonalGaussianDistribution, Encoder
from .diffusion import (
    DecoupledDiffusion,
    FlowMatching,
    GaussianDiffusion,
    sample_ddim,
    sample_ddpm,
    sample_decoupled,
    sample_dpm_solver,
    sample_euler,
    sample_heun,
)
from .latent_diffusion import LatentDiffusion
from .losses import AutoencoderLoss, LPIPSLoss, PatchDiscriminator, hinge_gan_loss
from .swin import SwinConditionEncoder, TransformerBlock, WindowAttention
from .training.ema import EMAModel
from .training.schedule import learning_rate
from .unet import Unet

__all__ = [
    "AutoencoderKL",
    "AutoencoderLoss",
    "Decoder",
    "DecoupledDiffusion",
    "DiagonalGaussianDistribution",
    "EMAModel",
    "Encoder",
    "FlowMatching",
    "GaussianDiffusion",
    "LPIPSLoss",
    "LatentDiffusion",
    "PatchDiscriminator",
    "SwinConditionEncoder",
    "TransformerBlock",
    "Unet",
    "WindowAttention",
    "hinge_gan_loss",
    "learning_rate",
    "sample_ddim",
    "sample_ddpm",
    "sample_decoupled",
    "sample_dpm_solver",
    "sample_euler",
    "sample_heun",
]

_ON_DEMAND = {  # names that need files, data sets or settings, and load what reads them
    "Prediction": "inference",
    "Predictor": "inference",
    "load_config": "config",
    "load_first_stage": "loading",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ON_DEMAND[name]}", __name__), name)
