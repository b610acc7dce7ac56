"""The first stage: a KL-regularised convolutional autoencoder (Rombach et al., 2022; Kingma & Welling, 2014).

At the design document's size (1, 320, 320) -> posterior over (3, 80, 80) -> (1, 320, 320). Module names are CompVis'.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AttnBlock, ResnetBlock, downsample, normalize, to_gain, upsample, zero_init

HEAD_CHANNELS = 16  # channels at full resolution, after the depth-to-space of the decoder


class DiagonalGaussianDistribution:
    """q(z | x) = N(mean, diag(exp(logvar))) from moments (B, 2 Z, h, w): mean and log-variance along the channels."""

    def __init__(self, moments: Tensor):
        self.mean, logvar = moments.float().chunk(2, dim=1)  # (B, Z, h, w) each
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """mean + std * noise, (B, Z, h, w); standard normal noise of torch's generator if none is given."""
        noise = torch.randn(self.mean.shape, device=self.mean.device) if noise is None else noise
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """The mean, (B, Z, h, w)."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) = 1/2 sum(mean^2 + var - 1 - logvar) in nats, (B,)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class Layers:
    """What encoder and decoder have in common."""

    num_res_blocks: int = 2  # per level; the decoder has one more
    mid_attention: bool = True  # self-attention at the lowest resolution
    dropout: float = 0.0
    patch_size: int = 1  # space-to-depth factor of the image before the first convolution

    def level(self, in_channels: int, channels: int, blocks: int) -> nn.ModuleDict:
        """Residual blocks, under the name that they have in CompVis' levels."""
        inputs = [in_channels, *[channels] * (blocks - 1)]
        resnets = (ResnetBlock(current, channels, dropout=self.dropout) for current in inputs)
        return nn.ModuleDict({"block": nn.Sequential(*resnets)})

    def middle(self, channels: int) -> nn.Sequential:
        """Two residual blocks, and self-attention between them."""
        block_1 = ResnetBlock(channels, channels, dropout=self.dropout)
        attn_1 = AttnBlock(channels) if self.mid_attention else nn.Identity()
        block_2 = ResnetBlock(channels, channels, dropout=self.dropout)
        return nn.Sequential(OrderedDict(block_1=block_1, attn_1=attn_1, block_2=block_2))


class Encoder(nn.Module):
    """Image -> moments of the posterior (before `quant_conv`).

    Args:
        channels: image channels, then the channels of each level; one halving between levels.
        z_channels: latent channels; the output has twice as many.
    """

    def __init__(self, channels: Sequence[int], z_channels: int, layers: Layers):
        super().__init__()
        image_channels, *widths = channels
        self.patch_size = layers.patch_size
        self.conv_in = nn.Conv2d(image_channels * self.patch_size**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = layers.level(widths[max(level - 1, 0)], width, layers.num_res_blocks)
            stage["downsample"] = downsample(width) if level < len(widths) - 1 else nn.Identity()
            self.down.append(stage)
        self.mid = layers.middle(widths[-1])
        self.norm_out = normalize(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 Z, H/f, W/f), f = patch_size * 2^(levels - 1)."""
        h = self.conv_in(F.pixel_unshuffle(x, self.patch_size))  # (B, ch, H/p, W/p)
        for stage in self.down:
            h = stage["downsample"](stage["block"](h))  # (B, c, H/2, W/2)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent (after `post_quant_conv`) -> image.

    With `cond_channels` the decoder also sees the condition: at each level it is folded to that level's resolution
    (space-to-depth, so that nothing is averaged away), convolved and added. The latent then only needs to carry what
    the condition does not contain.

    Args: as for `Encoder`, and
        cond_channels: channels of the full-resolution condition; 0: none.
        base_channel: channel of the condition to which the network's output, zero at first, is added; None: none.
    """

    def __init__(
        self,
        channels: Sequence[int],
        z_channels: int,
        layers: Layers | None = None,
        *,
        cond_channels: int = 0,
        base_channel: int | None = None,
    ):
        super().__init__()
        layers, (image_channels, *widths) = layers or Layers(), channels
        self.patch_size, self.cond_channels, self.base_channel = layers.patch_size, cond_channels, base_channel
        current = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, current, 3, padding=1)
        self.mid = layers.middle(current)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stage = layers.level(current, width, layers.num_res_blocks + 1)
            if cond_channels:
                folded = cond_channels * (self.patch_size * 2**level) ** 2
                stage["cond_in"] = nn.Conv2d(folded, current, 3, padding=1)
            stage["upsample"] = upsample(width, width) if level > 0 else nn.Identity()
            self.up.insert(0, stage)  # index = level, as in CompVis' checkpoints
            current = width
        self.norm_out = normalize(current)
        outputs = image_channels if self.patch_size == 1 else HEAD_CHANNELS * self.patch_size**2
        self.conv_out = nn.Conv2d(current, outputs, 3, padding=1)
        if self.patch_size > 1:
            self.head = nn.Sequential(
                nn.Conv2d(HEAD_CHANNELS + cond_channels, HEAD_CHANNELS, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(HEAD_CHANNELS, image_channels, 3, padding=1),
            )
        if base_channel is not None:
            zero_init(self.last_layer)

    @property
    def last_layer(self) -> nn.Conv2d:
        """The layer at whose weight the adaptive adversarial weight compares gradients (Esser et al., 2021, eq. 7)."""
        return self.conv_out if self.patch_size == 1 else self.head[-1]

    def compile(self, *args, **kwargs) -> None:
        """Compile all but the last layer: comparing gradients there must not run the whole decoder backwards."""
        setattr(self, "features", torch.compile(self.features, *args, **kwargs))  # noqa: B010 - a method, for mypy

    def forward(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """z (B, Z, h, w), cond (B, cond_channels, f h, f w) if the decoder sees it -> (B, C, f h, f w)."""
        if (cond is None) != (self.cond_channels == 0):
            raise ValueError(f"this decoder takes a condition of {self.cond_channels} channels")
        output = self.last_layer(self.features(z, cond))
        return output if self.base_channel is None else output + cond[:, self.base_channel, None]

    def features(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """Input of the last layer, (B, c, f h, f w)."""
        h = self.mid(self.conv_in(z))
        for level, stage in reversed(list(enumerate(self.up))):
            if cond is not None:
                h = h + stage["cond_in"](F.pixel_unshuffle(cond, self.patch_size * 2**level))
            h = stage["upsample"](stage["block"](h))  # (B, c, 2H, 2W)
        h = F.silu(self.norm_out(h))
        if self.patch_size == 1:
            return h
        h = F.pixel_shuffle(self.conv_out(h), self.patch_size)  # (B, HEAD_CHANNELS, f h, f w)
        conv, activation, _ = self.head
        return activation(conv(h if cond is None else torch.cat([h, cond], dim=1)))


class AutoencoderKL(nn.Module):
    """Variational autoencoder with a latent of `embed_dim` channels Z; other arguments as of `Encoder` and `Decoder`."""

    def __init__(
        self,
        embed_dim: int = 3,
        channels: Sequence[int] = (1, 128, 256, 512),
        layers: Layers | None = None,
        **cond: Any,
    ):
        super().__init__()
        self.embed_dim, layers = embed_dim, layers or Layers()
        self.downsampling_factor = layers.patch_size * 2 ** (len(channels) - 2)
        self.encoder = Encoder(channels, embed_dim, layers)
        self.decoder = Decoder(channels, embed_dim, layers, **cond)
        self.quant_conv = nn.Conv2d(2 * embed_dim, 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, embed_dim, 1)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """x (B, C, H, W) in [-1, 1] -> posterior over (B, Z, H/f, W/f); ValueError if f does not divide H and W."""
        f = self.downsampling_factor
        if x.shape[-1] % f or x.shape[-2] % f:
            raise ValueError(f"image sides {tuple(x.shape[-2:])} must be multiples of {f}")
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(x)))

    def decode(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """z (B, Z, h, w), cond (B, cond_channels, f h, f w) if the decoder sees it -> (B, C, f h, f w) in ~[-1, 1]."""
        return self.decoder(self.post_quant_conv(z), cond if self.decoder.cond_channels else None)

    @torch.no_grad()
    def predict(self, batch: dict[str, Any]) -> list[Tensor]:
        """The reconstruction of a batch (`image`, `cond`, `ori_mask`) from the posterior's mean, grey levels (B, 1, H, W)."""
        return [to_gain(self.decode(self.encode(batch["image"]).mode(), batch["cond"]), batch["ori_mask"])]
