"""PMNet: a ResNet with dilated convolutions and a pyramid of them, and a decoder with skips (Lee et al., 2023, arXiv 2211.10527)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import normalize
from .regression import Regression, conv_relu, upsample_relu

RATES = (6, 12, 18)  # dilations of the pyramid


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
    """Atrous spatial pyramid pooling (Chen et al., 2017): a 1x1 and dilated 3x3 convolutions beside the mean over all pixels."""

    def __init__(self, in_channels: int, width: int, out_channels: int):
        super().__init__()
        branches = [conv_norm(in_channels, width), *(conv_norm(in_channels, width, 3, dilation=r) for r in RATES)]
        self.branches = nn.ModuleList(branches)
        # one group: where each of several groups holds a single value, normalization would leave nothing of it
        self.pooled = nn.Sequential(nn.Conv2d(in_channels, width, 1, bias=False), nn.GroupNorm(1, width))
        self.merge = conv_norm((len(branches) + 1) * width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])  # (B, width, H, W)
        parts = [*(branch(x) for branch in self.branches), pooled]
        return F.relu(self.merge(F.relu(torch.cat(parts, dim=1))))


class PMNet(Regression):
    """PMNet of output stride 8, the more accurate one of the authors' two, with the layers of their code: 33.3 M parameters.
    `width` is the fraction of the published 64 to 1,024 channels in every layer; with `variance` it predicts the
    log-variance, too.
    """

    title = "PMNet"

    def __init__(self, cond_channels: int, width: float = 1.0, *, variance: bool = False):
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
            nn.Conv2d(c, 1 + variance, 3, padding=1),
        )

    def forward(self, cond: Tensor) -> list[Tensor]:
        """cond (B, C, S, S) in [-1, 1] -> one output (B, 1 or 2, S, S); S a multiple of 8."""
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
