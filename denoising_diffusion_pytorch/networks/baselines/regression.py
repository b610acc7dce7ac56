"""What the regression baselines have in common: layers, what a network returns, and how a map is predicted from it."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...randomness import KeyedRandom, sample_keys
from ..radio_map import to_gain

LOWEST_LOG_VARIANCE = -12.0  # the rounding to 256 grey levels alone has (2 / 255)^2 / 12, e^-12.2


def conv_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution and ReLU that keep both sides; the kernel is odd."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU())


def upsample_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A transposed convolution and ReLU that double both sides."""
    padding, more = (kernel - 1) // 2, kernel % 2
    conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride=2, padding=padding, output_padding=more)
    return nn.Sequential(conv, nn.ReLU())


def mean_and_log_variance(output: Tensor) -> tuple[Tensor, Tensor]:
    """The two channels of a network with `variance`: output (B, 2, H, W) -> mean and log-variance, (B, 1, H, W) float32 each.

    The log-variance is bounded smoothly from below: a clamp would have no gradient where the network must come back.
    """
    mean, raw = output.float().chunk(2, dim=1)
    return mean, LOWEST_LOG_VARIANCE + F.softplus(raw - LOWEST_LOG_VARIANCE)


class Regression(nn.Module):
    """A network from the condition to the map. `forward` returns all outputs that are trained; the last one is the prediction.

    An output has one channel, the map in about [-1, 1], or two, the map's mean and log-variance (heteroscedastic
    regression, Kendall & Gal, 2017), see `mean_and_log_variance`.
    """

    title: ClassVar[str]  # in tables

    @torch.no_grad()
    def predict(self, batch: dict[str, Any], num_samples: int = 1) -> list[Tensor]:
        """Grey levels (B, 1, S, S) for a batch with `cond`, `ori_mask` and `keys`, zero where the masks say so.

        One sample is the mean. More are drawn from every pixel's normal distribution, independent of its neighbours;
        a network without `variance` has its one answer, however many are asked for.
        """
        output, masks = self(batch["cond"])[-1].float(), batch["ori_mask"]
        if num_samples == 1 or output.shape[1] == 1:
            return [to_gain(output[:, :1], masks)]
        mean, log_variance = mean_and_log_variance(output)
        std = (log_variance / 2).exp()
        randoms = (KeyedRandom(sample_keys(batch["keys"], number), mean.device) for number in range(num_samples))
        return [to_gain(mean + std * random.randn_like(mean), masks) for random in randoms]
