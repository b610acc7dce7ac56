"""Layers that several networks share. Tensors are (B, C, H, W) unless a comment says otherwise."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def normalize(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu & He, 2018) with 32 groups, or the largest power of two below that divides `channels`."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters to zero, so that a residual block starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def checkpointed(block: nn.Module, *inputs: Tensor | None, recompute: bool) -> Tensor:
    """The block's output; with `recompute` its activations are computed again in the backward pass, not kept."""
    if recompute and block.training and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class ResnetBlock(nn.Module):
    """norm - SiLU - conv, twice, plus a skip; scaled and shifted by a time embedding of `emb_channels` if there is one.

    Module names are CompVis', so that autoencoders trained elsewhere can be loaded.
    """

    def __init__(self, in_channels: int, out_channels: int, *, emb_channels: int = 0, dropout: float = 0.0):
        super().__init__()
        self.norm1 = normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb_proj = nn.Linear(emb_channels, 2 * out_channels) if emb_channels else None
        self.norm2 = normalize(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """(B, in, H, W), emb (B, emb_channels) -> (B, out, H, W)."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.emb_proj is not None:
            scale, shift = self.emb_proj(emb)[:, :, None, None].chunk(2, dim=1)  # (B, out, 1, 1) each
            h = h * (1 + scale) + shift
        return self.nin_shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class AttnBlock(nn.Module):
    """Single-head self-attention over all pixels (CompVis' names: norm, q, k, v, proj_out)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = normalize(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        y = self.norm(x)
        q, k, v = (m(y).flatten(2).transpose(1, 2).unsqueeze(1) for m in (self.q, self.k, self.v))  # (B, 1, HW, C)
        y = F.scaled_dot_product_attention(q, k, v)  # (B, 1, HW, C)
        return x + self.proj_out(y.squeeze(1).transpose(1, 2).reshape(x.shape))


def downsample(channels: int) -> nn.Sequential:
    """Halve both sides by a strided 3x3 convolution, padded at the right and bottom as CompVis does."""
    conv = nn.Conv2d(channels, channels, 3, stride=2)
    return nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=conv))


def upsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Double both sides: nearest neighbour, then a 3x3 convolution (no checkerboard; Odena et al., 2016)."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return nn.Sequential(OrderedDict(nearest=nn.Upsample(scale_factor=2.0), conv=conv))


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of time (Vaswani et al., 2017), cos first as in latent diffusion: t (B,) in [0, 1000], not necessarily
    integers -> (B, dim) float32; `dim` is even.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies[None]  # (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierFeatures(nn.Module):
    """Random Fourier features of the pixel coordinates (Tancik et al., 2020).

    Frequencies, in cycles per image side, are sampled once from N(0, 8^2) and saved with the weights.
    """

    channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(torch.randn(self.channels // 2, 2) * 8)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), of which only the shape is used -> (B, 32, H, W)."""
        b, _, h, w = x.shape
        ys, xs = ((torch.arange(n, device=x.device, dtype=torch.float32) + 0.5) * (2 / n) - 1 for n in (h, w))
        fy, fx = self.frequencies[:, :, None, None].unbind(1)  # (16, 1, 1) each
        angles = math.pi * (fy * ys[None, :, None] + fx * xs[None, None])  # (16, H, W)
        return torch.cat([angles.sin(), angles.cos()]).to(x.dtype).expand(b, -1, -1, -1)


def apply_mask(x: Tensor, ori_mask: Tensor | None) -> Tensor:
    """Zero gain where the mask is 1: x (B, 1, H, W) in [-1, 1], ori_mask (B, 1, H, W), 1 where the map is certainly zero."""
    return x if ori_mask is None else torch.where(ori_mask > 0.5, -1.0, x)


def to_gain(x: Tensor, ori_mask: Tensor | None) -> Tensor:
    """Network range -> grey levels: zero where the mask is 1, then one clamp to [0, 1]."""
    return ((apply_mask(x.float(), ori_mask) + 1) / 2).clamp(0, 1)
