"""A residual U-Net that regresses the map from the condition, of the denoising U-Net's blocks (Ho et al., 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import Downsample, ResnetBlock, Upsample, normalize, zero_init
from .regression import Regression


class RegressionUnet(Regression):
    """Condition image -> radio map, at one resolution.

    Args:
        cond_channels: channels of the condition.
        dim: channels at full resolution.
        dim_mults: channels of level l are dim * dim_mults[l]; one halving between levels.
        num_res_blocks: residual blocks per level, on the way down and on the way up.
        variance: predict the log-variance, too.
    """

    title = "regression U-Net"

    def __init__(
        self,
        cond_channels: int,
        dim: int = 32,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int = 1,
        *,
        variance: bool = False,
    ):
        super().__init__()
        widths = [dim * mult for mult in dim_mults]
        self.conv_in = nn.Conv2d(cond_channels, widths[0], 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        current = widths[0]
        for level, width in enumerate(widths):
            blocks = [ResnetBlock(current if i == 0 else width, width) for i in range(num_res_blocks)]
            stage = nn.ModuleDict({"blocks": nn.Sequential(*blocks)})
            if level < len(widths) - 1:
                stage["downsample"] = Downsample(width)
            self.downs.append(stage)
            current = width
        self.mid = ResnetBlock(current)
        for level in reversed(range(len(widths))):
            width = widths[level]
            blocks = [ResnetBlock(2 * width if i == 0 else width, width) for i in range(num_res_blocks)]
            stage = nn.ModuleDict({"blocks": nn.Sequential(*blocks)})
            if level > 0:
                stage["upsample"] = Upsample(width, widths[level - 1])
            self.ups.append(stage)
        self.norm_out = normalize(widths[0])
        self.conv_out = zero_init(nn.Conv2d(widths[0], 1 + variance, 3, padding=1))

    def forward(self, cond: Tensor) -> list[Tensor]:
        """cond (B, C, S, S) in [-1, 1] -> one output (B, 1 or 2, S, S); S a multiple of 2^(levels - 1)."""
        h, skips = self.conv_in(cond), []
        for stage in self.downs:
            h = stage["blocks"](h)
            skips.append(h)
            if "downsample" in stage:
                h = stage["downsample"](h)
        h = self.mid(h)
        for stage in self.ups:
            h = stage["blocks"](torch.cat([h, skips.pop()], dim=1))
            if "upsample" in stage:
                h = stage["upsample"](h)
        return [self.conv_out(F.silu(self.norm_out(h)))]
