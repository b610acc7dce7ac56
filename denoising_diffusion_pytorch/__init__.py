"""RadioDiff's model package; the training loop is in `training`.

The names below are those of `document.py`, which is loaded when one of them is used for the first time: what reads a
configuration or reports an error need not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .document import *  # noqa: F403

_NETWORKS = (
    "AutoencoderKL",
    "Decoder",
    "Encoder",
    "SwinConditionEncoder",
    "TransformerBlock",
    "Unet",
    "WindowAttention",
)
_DIFFUSION = ("DecoupledDiffusion", "FlowMatching", "GaussianDiffusion", "LatentDiffusion", "Sampling")
_SAMPLERS = ("sample_ddim", "sample_ddpm", "sample_decoupled", "sample_euler", "sample_heun")
_LOSSES = ("AutoencoderLoss", "DiagonalGaussianDistribution", "LPIPSLoss", "PatchDiscriminator", "hinge_gan_loss")
_USE = ("EMAModel", "Prediction", "Predictor", "learning_rate", "load_config", "load_first_stage", "load_model")
__all__ = list(_NETWORKS + _DIFFUSION + _SAMPLERS + _LOSSES + _USE)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import document

    return getattr(document, name)
