"""RadioDiff's model package; the training loop is in `training`.

A name is imported from its module when it is first used, so that reading a configuration does not import torch. The five
classes of `document.py` take the design document's arguments.
"""

from importlib import import_module
from itertools import chain
from typing import Any

_MODULES = {
    "config": ("load_config",),
    "diffusion": ("DecoupledDiffusion", "FlowMatching", "GaussianDiffusion"),
    "document": ("EMAModel", "Encoder", "LatentDiffusion", "TransformerBlock", "Unet"),
    "losses": ("AutoencoderLoss", "LPIPSLoss", "PatchDiscriminator", "hinge_gan_loss"),
    "networks.autoencoder": ("AutoencoderKL", "Decoder", "DiagonalGaussianDistribution"),
    "networks.swin": ("SwinConditionEncoder", "WindowAttention"),
    "predictor": ("Prediction", "Predictor"),
    "samplers": ("Sampling", "sample_ddim", "sample_ddpm", "sample_decoupled", "sample_euler"),
    "training.schedule": ("learning_rate",),
    "weights": ("load_first_stage", "load_model"),
}
__all__ = list(chain(*_MODULES.values()))


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
