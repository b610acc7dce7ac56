"""Baselines: published architectures that regress the map from the condition at once, without a latent or noise."""

from .pmnet import PMNet
from .radiounet import RadioUNet
from .regression import Regression, mean_and_log_variance

__all__ = ["PMNet", "RadioUNet", "Regression", "mean_and_log_variance"]
