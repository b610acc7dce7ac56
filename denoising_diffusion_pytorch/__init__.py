"""RadioDiff's model package: networks, diffusion, training loop, checkpoints."""

from .autoencoder import AutoencoderKL, Decoder, DiagonalGaussianDistribution, Encoder
from .config import load_config
from .diffusion import (
    DecoupledDiffusion,
    GaussianDiffusion,
    sample_ddim,
    sample_ddpm,
    sample_decoupled,
    sample_dpm_solver,
)
from .ema import EMAModel
from .inference import Prediction, Predictor
from .latent_diffusion import LatentDiffusion
from .launch import start
from .loading import load_first_stage, load_model
from .losses import AutoencoderLoss, LPIPSLoss, PatchDiscriminator, hinge_gan_loss
from .schedule import learning_rate
from .swin import SwinConditionEncoder, TransformerBlock, WindowAttention
from .unet import Unet

__all__ = [
    "AutoencoderKL",
    "AutoencoderLoss",
    "Decoder",
    "DecoupledDiffusion",
    "DiagonalGaussianDistribution",
    "EMAModel",
    "Encoder",
    "GaussianDiffusion",
    "LPIPSLoss",
    "LatentDiffusion",
    "PatchDiscriminator",
    "Prediction",
    "Predictor",
    "SwinConditionEncoder",
    "TransformerBlock",
    "Unet",
    "WindowAttention",
    "hinge_gan_loss",
    "learning_rate",
    "load_config",
    "load_first_stage",
    "load_model",
    "sample_ddim",
    "sample_ddpm",
    "sample_decoupled",
    "sample_dpm_solver",
    "start",
]
