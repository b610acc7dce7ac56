from .autoencoder import AutoencoderKL, Decoder, DiagonalGaussianDistribution, Encoder
from .config import load_config
from .diffusion import DecoupledDiffusion, FlowMatching, GaussianDiffusion
from .document import LatentDiffusion
from .inference import Prediction, Predictor
from .loading import load_first_stage, load_model
from .losses import AutoencoderLoss, LPIPSLoss, PatchDiscriminator, hinge_gan_loss
from .samplers import Sampling, sample_ddim, sample_ddpm, sample_decoupled, sample_euler, sample_heun
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
    "Sampling",
    "SwinConditionEncoder",
    "TransformerBlock",
    "Unet",
    "WindowAttention",
    "hinge_gan_loss",
    "learning_rate",
    "sample_ddim",
    "sample_ddpm",
    "sample_decoupled",
    "sample_euler",
    "sample_heun",
    "Prediction",
    "Predictor",
    "load_config",
    "load_first_stage",
    "load_model",
]
