"""RadioUNet: two U-Nets in a row, the second one corrects the first one's map (Levie et al., 2021, arXiv 1911.09002)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .regression import Regression, conv_relu, upsample_relu

# kernel and pooling of each layer on the way down; kernel and enlargement on the way up, before a last convolution
DOWN = ((3, 1), (5, 2), (5, 2), (5, 1), (5, 2), (3, 1), (5, 2), (5, 2), (5, 2))
UP = ((4, 2), (4, 2), (4, 2), (3, 1), (6, 2), (5, 1), (6, 2), (6, 2), (5, 1))
# channels of these layers; the first U-Net begins with 10 channels where the condition has more than 3, else with 6
FIRST_DOWN = (40, 50, 60, 100, 100, 150, 300, 500)
FIRST_UP = (300, 150, 100, 100, 60, 50, 40, 20, 20)
SECOND_DOWN = (20, 30, 40, 50, 60, 70, 90, 110, 150)
SECOND_UP = (110, 90, 70, 60, 50, 40, 30, 20, 20)


class PoolingUnet(nn.Module):
    """One of the two: convolution - ReLU - max-pooling down, transposed convolutions up, no normalization. `down` and `up`
    are the channels of the layers of `DOWN` and `UP`.
    """

    def __init__(self, in_channels: int, out_channels: int, down: Sequence[int], up: Sequence[int]):
        super().__init__()
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        current = in_channels
        for width, (kernel, pool) in zip(down, DOWN, strict=True):
            self.downs.append(nn.Sequential(conv_relu(current, width, kernel), nn.MaxPool2d(pool)))
            current = width
        skips = [0, *reversed(down[:-1])]
        for width, skip, (kernel, enlargement) in zip(up, skips, UP, strict=True):
            layer = upsample_relu if enlargement == 2 else conv_relu
            last = in_channels if len(self.ups) == len(UP) - 1 else 0
            self.ups.append(layer(current + skip + last, width, kernel))
            current = width
        self.conv_out = nn.Conv2d(current + in_channels, out_channels, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, S, S) -> (B, out, S, S); S a multiple of 64."""
        h, skips = x, []
        for layer in self.downs:
            h = layer(h)
            skips.append(h)
        h = skips.pop()  # (B, 500, S / 64, S / 64) in the first U-Net
        *ups, last = self.ups
        for layer in ups:
            h = torch.cat([layer(h), skips.pop()], dim=1)
        h = last(torch.cat([h, x], dim=1))
        return self.conv_out(torch.cat([h, x], dim=1))


class RadioUNet(Regression):
    """The W-net with the layers of the authors' code: 13.3 M parameters, 10.9 M in the first U-Net and 2.4 M in the second.

    The paper trains the first U-Net, freezes it, and trains the second. Here both learn from the first step on by the sum of
    their losses; the second one's gradient does not reach the first. The last layers have no ReLU, as maps lie in [-1, 1].
    `width` is the fraction of the published channels in every layer; with `variance` the second U-Net predicts the
    log-variance, too.
    """

    title = "RadioUNet"

    def __init__(self, cond_channels: int, width: float = 1.0, *, variance: bool = False):
        super().__init__()

        def scaled(channels: Sequence[int]) -> list[int]:
            return [max(1, round(width * number)) for number in channels]

        first_down = (6 if cond_channels <= 3 else 10, *FIRST_DOWN)
        self.first = PoolingUnet(cond_channels, 1, scaled(first_down), scaled(FIRST_UP))
        self.second = PoolingUnet(1 + cond_channels, 1 + variance, scaled(SECOND_DOWN), scaled(SECOND_UP))

    def forward(self, cond: Tensor) -> list[Tensor]:
        """cond (B, C, S, S) in [-1, 1] -> both maps, (B, 1 or 2, S, S) each; S a multiple of 64."""
        first = self.first(cond)
        return [first, self.second(torch.cat([first.detach(), cond], dim=1))]
