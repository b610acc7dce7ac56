"""Shifted-window attention and the condition encoder (Liu et al., "Swin Transformer", 2021)."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .blocks import FourierFeatures, checkpointed, zero_init

FEW_KEYS = 128


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v: q (B, h, N, d), k and v (B, h, M, d), bias broadcast to (B, h, N, M).

    On a CPU the fused kernel's backward pass is slower than plain products if there are few keys: with 16 to 64 keys a
    training step of the tiny U-Net takes a fifth longer.
    """
    plain = q.device.type == "cpu" and k.shape[-2] <= FEW_KEYS
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows of w x w pixels, shifted by w // 2 if asked to, with a relative position bias.

    Maps whose sides are not multiples of the window are padded. Padded tokens, and tokens that only the cyclic shift
    made neighbours, do not attend to each other.
    """

    def __init__(self, dim: int, num_heads: int = 4, window_size: int = 8, shift: bool = False):
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.shift = window_size // 2 if shift else 0
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        yx = torch.cartesian_prod(torch.arange(window_size), torch.arange(window_size))  # (w^2, 2)
        offset = yx[:, None] - yx[None] + window_size - 1  # (w^2, w^2, 2), in [0, 2 w - 2]
        index = offset[..., 0] * (2 * window_size - 1) + offset[..., 1]
        self.register_buffer("relative_position_index", index, persistent=False)

    def _windows(self, x: Tensor) -> Tensor:
        """Padded with zeros, shifted and cut: (B, H, W, C) -> (B, H'/w, W'/w, w * w, C)."""
        w, (height, width) = self.window_size, x.shape[1:3]
        if height % w or width % w:
            x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        return rearrange(x, "b (h i) (w j) c -> b h w (i j) c", i=w, j=w)

    def _attention_bias(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """(windows or 1, heads, w^2, w^2): position bias, -inf between tokens of different regions."""
        bias = self.relative_position_bias[self.relative_position_index]  # (w^2, w^2, heads)
        bias = bias.permute(2, 0, 1).unsqueeze(0).to(dtype)  # (1, heads, w^2, w^2)
        if self.shift == 0 and not (height % self.window_size or width % self.window_size):
            return bias
        wraps = [torch.arange(side, device=bias.device) < self.shift for side in (height, width)]
        region = 1 + wraps[0].long()[:, None] + 2 * wraps[1].long()  # (H, W); the padding is region 0
        region = self._windows(region[None, ..., None]).flatten(0, 2).squeeze(-1)  # (windows, w^2)
        apart = region[:, None, :] != region[:, :, None]  # (windows, w^2, w^2)
        return bias.masked_fill(apart.unsqueeze(1), float("-inf"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        b, height, width, _ = x.shape
        windows = self._windows(x)
        # three of (B * windows, heads, w^2, C / heads)
        q, k, v = rearrange(self.qkv(windows), "b h w p (s n d) -> s (b h w) n p d", s=3, n=self.num_heads)
        bias = self._attention_bias(height, width, q.dtype)
        if len(bias) > 1:
            bias = bias.repeat(b, 1, 1, 1)  # (B * windows, heads, w^2, w^2)
        y = self.proj(rearrange(attend(q, k, v, bias), "n h p d -> n p (h d)"))  # (B * windows, w^2, C)
        (_, h, w, _, _), side = windows.shape, self.window_size
        y = rearrange(y, "(b h w) (i j) c -> b (h i) (w j) c", h=h, w=w, i=side, j=side)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        return y[:, :height, :width]


class CrossAttention(nn.Module):
    """Every pixel (`dim` channels) attends to the tokens of the condition (`context_dim` channels)."""

    def __init__(self, dim: int, context_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_context = nn.LayerNorm(context_dim)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(context_dim, 2 * dim)
        self.proj = zero_init(nn.Linear(dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, H, W, C), context (B, N, context_dim) -> (B, H, W, C)."""
        q = rearrange(self.q(x), "b y x (h d) -> b h (y x) d", h=self.num_heads)
        k, v = rearrange(self.kv(self.norm_context(context)), "b n (s h d) -> s b h n d", s=2, h=self.num_heads)
        y = attend(q, k, v)  # (B, heads, HW, C / heads)
        return self.proj(rearrange(y, "b h (y x) d -> b y x (h d)", y=x.shape[1]))


class TransformerBlock(nn.Module):
    """Pre-norm block: window self-attention, cross-attention to the condition, MLP; each a residual branch.

    With a `window_size` of 0 only the cross-attention is left; without `context_dim`, the channels of the condition's
    tokens, there is none.
    """

    def __init__(
        self, dim: int, window_size: int = 8, *, num_heads: int = 4, shift: bool = False, context_dim: int = 0
    ):
        super().__init__()
        self.attn = self.mlp = self.cross_attn = None
        if window_size:
            self.norm1 = nn.LayerNorm(dim)
            self.attn = WindowAttention(dim, num_heads, window_size, shift)
            self.norm3 = nn.LayerNorm(dim)
            fc1, fc2 = nn.Linear(dim, 4 * dim), zero_init(nn.Linear(4 * dim, dim))
            self.mlp = nn.Sequential(OrderedDict(fc1=fc1, gelu=nn.GELU(), fc2=fc2))
        if context_dim:
            self.norm2 = nn.LayerNorm(dim)
            self.cross_attn = CrossAttention(dim, context_dim, num_heads)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), context (B, N, context_dim) -> (B, C, H, W); no cross-attention without context."""
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if self.attn is not None:
            x = x + self.attn(self.norm1(x))
        if self.cross_attn is not None and context is not None:
            x = x + self.cross_attn(self.norm2(x), context)
        if self.mlp is not None:
            x = x + self.mlp(self.norm3(x))
        return x.permute(0, 3, 1, 2)


class SwinConditionEncoder(nn.Module):
    """Condition image -> a pyramid of features, one map per level of the U-Net.

    Args:
        in_channels: channels of the condition.
        dim, dim_mults: channels of level l are dim * dim_mults[l]; its side is 2^-l of level 0's.
        depths: Swin blocks per level; every second one has shifted windows.
        patch_size: side of the condition / side of level 0 (the latent's). Above 1, patches are embedded by their means and
            maxima and, at first with zero weights, pixel by pixel: a single pixel, such as a transmitter, is a different
            input at every place in a patch, and networks that saw pixels alone did not learn line of sight.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 128,
        dim_mults: Sequence[int] = (1, 2, 4, 4),
        *,
        depths: Sequence[int] = (2, 2, 2, 2),
        patch_size: int = 1,
        num_heads: int = 4,
        window_size: int = 8,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.in_channels, self.patch_size, self.use_checkpoint = in_channels, patch_size, use_checkpoint
        self.channels = [dim * mult for mult in dim_mults]
        self.patch_embed = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.pool_embed = None
        if patch_size > 1:
            zero_init(self.patch_embed)
            self.pool_embed = nn.Conv2d(2 * in_channels, dim, 1, bias=False)
        self.fourier = FourierFeatures()
        self.conv_in = nn.Conv2d(dim + self.fourier.channels, dim, 3, padding=1)
        self.levels = nn.ModuleList()
        current = dim
        for level, (width, depth) in enumerate(zip(self.channels, depths, strict=True)):
            merge = nn.Identity() if level == 0 else nn.Conv2d(current, width, 2, stride=2)  # patch merging
            shifts = (index % 2 == 1 for index in range(depth))
            blocks = [TransformerBlock(width, window_size, num_heads=num_heads, shift=shift) for shift in shifts]
            self.levels.append(nn.ModuleDict({"merge": merge, "blocks": nn.ModuleList(blocks)}))
            current = width

    def forward(self, cond: Tensor) -> list[Tensor]:
        """(B, in_channels, p h, p w) in [-1, 1] -> [(B, C_0, h, w), (B, C_1, h/2, w/2), ...]; ValueError for wrong channels, or
        sides that the patch size and the levels do not divide.
        """
        multiple = self.patch_size * 2 ** (len(self.levels) - 1)
        if cond.shape[1] != self.in_channels or cond.shape[-1] % multiple or cond.shape[-2] % multiple:
            right = f"(B, {self.in_channels}, H, W) with sides that are multiples of {multiple}"
            raise ValueError(f"condition {tuple(cond.shape)} must be {right}")
        x = self.patch_embed(cond)
        if self.pool_embed is not None:
            pools = [pool(cond, self.patch_size) for pool in (F.avg_pool2d, F.max_pool2d)]
            pooled = torch.stack(pools, dim=2).flatten(1, 2)  # (B, 2 in_channels, h, w), channel by channel
            x = x + self.pool_embed(pooled)
        x = self.conv_in(torch.cat([x, self.fourier(x)], dim=1))
        features = []
        for level in self.levels:
            x = level["merge"](x)
            for block in level["blocks"]:
                x = checkpointed(block, x, recompute=self.use_checkpoint)
            features.append(x)
        return features
