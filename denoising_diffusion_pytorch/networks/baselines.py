"""Baselines: published architectures that regress the map from the condition directly, without a latent or noise.

RadioUNet (Levie et al., 2021, arXiv 1911.09002): two U-Nets in a row, of which the second corrects the first one's map.
PMNet (Lee et al., 2023, arXiv 2211.10527): a ResNet with dilated convolutions and a pyramid of them, and a decoder with skips.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import normalize, to_gain

RATES = (6, 12, 18)  # dilations of PMNet's pyramid
# RadioUNet: kernel and pooling of each layer on the way down; kernel and enlargement on the way up, before a last convolution
DOWN = ((3, 1), (5, 2), (5, 2), (5, 1), (5, 2), (3, 1), (5, 2), (5, 2), (5, 2))
UP = ((4, 2), (4, 2), (4, 2), (3, 1), (6, 2), (5, 1), (6, 2), (6, 2), (5, 1))
# channels of these layers; the first U-Net begins with 10 channels where the condition has more than 3, else with 6
FIRST_DOWN = (40, 50, 60, 100, 100, 150, 300, 500)
FIRST_UP = (300, 150, 100, 100, 60, 50, 40, 20, 20)
SECOND_DOWN = (20, 30, 40, 50, 60, 70, 90, 110, 150)
SECOND_UP = (110, 90, 70, 60, 50, 40, 30, 20, 20)


def conv_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution and ReLU that keep both sides; the kernel is odd."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU())


def upsample_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A transposed convolution and ReLU that double both sides."""
    padding, more = (kernel - 1) // 2, kernel % 2
    conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride=2, padding=padding, output_padding=more)
    return nn.Sequential(conv, nn.ReLU())


class Regression(nn.Module):
    """A network from the condition to the map: `forward` returns all outputs that are trained, each the map in about [-1, 1];
    the last one is the prediction.
    """

    title: ClassVar[str]  # in tables

    @torch.no_grad()
    def predict(self, batch: dict[str, Any], num_samples: int = 1) -> list[Tensor]:
        """One map: grey levels (B, 1, S, S) for a batch with `cond` and `ori_mask`, zero where the masks say so."""
        return [to_gain(self(batch["cond"])[-1].float(), batch["ori_mask"])]


class PoolingUnet(nn.Module):
    """One of RadioUNet's two: convolution - ReLU - max-pooling down, transposed convolutions up, no normalization. `down` and `up`
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
    `width` is the fraction of the published channels in every layer.
    """

    title = "RadioUNet"

    def __init__(self, cond_channels: int, width: float = 1.0):
        super().__init__()

        def scaled(channels: Sequence[int]) -> list[int]:
            return [max(1, round(width * number)) for number in channels]

        first_down = (6 if cond_channels <= 3 else 10, *FIRST_DOWN)
        self.first = PoolingUnet(cond_channels, 1, scaled(first_down), scaled(FIRST_UP))
        self.second = PoolingUnet(1 + cond_channels, 1, scaled(SECOND_DOWN), scaled(SECOND_UP))

    def forward(self, cond: Tensor) -> list[Tensor]:
        """cond (B, C, S, S) in [-1, 1] -> both maps, (B, 1, S, S) each; S a multiple of 64."""
        first = self.first(cond)
        return [first, self.second(torch.cat([first.detach(), cond], dim=1))]


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution and normalization, by GroupNorm in place of BatchNorm: no statistics that differ between processes."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    return nn.Sequential(conv, normalize(outputs))


class Bottleneck(nn.Module):
    """A residual block of 1x1, dilated 3x3 and 1x1 convolutions (He et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, project: bool):
        super().__init__()
        middle = out_channels // 4
        self.reduce = conv_norm(in_channels, middle, stride=stride)
        self.conv = conv_norm(middle, middle, 3, dilation=dilation)
        self.increase = conv_norm(middle, out_channels)
        self.shortcut = conv_norm(in_channels, out_channels, stride=stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        h = F.relu(self.conv(F.relu(self.reduce(x))))
        return F.relu(self.shortcut(x) + self.increase(h))


def residual_layer(in_channels: int, out_channels: int, dilations: Sequence[int], stride: int = 1) -> nn.Sequential:
    """One Bottleneck per dilation; the first one has the stride."""
    first = Bottleneck(in_channels, out_channels, stride, dilations[0], project=True)
    return nn.Sequential(first, *(Bottleneck(out_channels, out_channels, 1, d, project=False) for d in dilations[1:]))


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017): a 1x1 and dilated 3x3 convolutions, and the mean over all pixels."""

    def __init__(self, in_channels: int, width: int, out_channels: int):
        super().__init__()
        branches = [conv_norm(in_channels, width), *(conv_norm(in_channels, width, 3, dilation=r) for r in RATES)]
        self.branches = nn.ModuleList(branches)
        # one group: with several groups of a single value each, normalization would erase the values
        self.pooled = nn.Sequential(nn.Conv2d(in_channels, width, 1, bias=False), nn.GroupNorm(1, width))
        self.merge = conv_norm((len(branches) + 1) * width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])  # (B, width, H, W)
        parts = [*(branch(x) for branch in self.branches), pooled]
        return F.relu(self.merge(F.relu(torch.cat(parts, dim=1))))


class PMNet(Regression):
    """PMNet of output stride 8, the more accurate one of the authors' two, with the layers of their code: 33.3 M parameters.
    `width` is the fraction of the published 64 to 1,024 channels in every layer.
    """

    title = "PMNet"

    def __init__(self, cond_channels: int, width: float = 1.0):
        super().__init__()
        c = max(1, round(64 * width))
        self.stem = conv_norm(cond_channels, c, 7, stride=2)
        self.layer2 = residual_layer(c, 4 * c, [1] * 3)
        self.reduce = conv_norm(4 * c, 4 * c)
        self.layer3 = residual_layer(4 * c, 8 * c, [1] * 3, stride=2)
        self.layer4 = residual_layer(8 * c, 8 * c, [2] * 27)
        self.layer5 = residual_layer(8 * c, 16 * c, [4, 8, 16])
        self.pyramid = AtrousPyramid(16 * c, 4 * c, 8 * c)
        self.up5 = conv_relu(8 * c, 8 * c, 3)
        self.up4 = conv_relu(16 * c, 8 * c, 3)
        self.up3 = upsample_relu(16 * c, 4 * c, 3)
        self.up2 = conv_relu(8 * c, 4 * c, 3)
        self.up1 = conv_relu(8 * c, 4 * c, 3)
        self.up0 = conv_relu(5 * c, 2 * c, 3)
        self.head = nn.Sequential(
            *(nn.Conv2d(2 * c + cond_channels, c, 3, padding=1), normalize(c), nn.ReLU()),
            *(nn.Conv2d(c, c, 3, padding=1), normalize(c), nn.ReLU()),
            nn.Conv2d(c, 1, 3, padding=1),
        )

    def forward(self, cond: Tensor) -> list[Tensor]:
        """cond (B, C, S, S) in [-1, 1] -> one output (B, 1, S, S); S a multiple of 8."""
        x1 = F.max_pool2d(F.relu(self.stem(cond)), 3, stride=2, padding=1)  # (B, c, S / 4, S / 4)
        x2 = self.layer2(x1)  # (B, 4 c, S / 4, S / 4)
        x3 = F.relu(self.reduce(x2))
        x4 = self.layer3(x3)  # (B, 8 c, S / 8, S / 8)
        x5 = self.layer4(x4)
        h = self.up5(self.pyramid(self.layer5(x5)))  # (B, 8 c, S / 8, S / 8)
        for layer, skip in ((self.up4, x5), (self.up3, x4), (self.up2, x3), (self.up1, x2), (self.up0, x1)):
            h = layer(torch.cat([h, skip], dim=1))
        h = F.interpolate(h, size=cond.shape[2:], mode="bilinear", align_corners=False)  # (B, 2 c, S, S)
        return [self.head(torch.cat([h, cond], dim=1))]
