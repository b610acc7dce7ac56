"""RadioDiff's model package; the training loop is in `training`.

The names below are those of `document.py`, which is loaded when one of them is used for the first time: what reads a
configuration or reports an error need not wait for torch.
"""
# ruff: noqa: F405

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .document import *  # noqa: F403

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
    "Prediction",
    "Predictor",
    "Sampling",
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
    "sample_euler",
    "sample_heun",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import document

    return getattr(document, name)
