"""The denoising network: a U-Net over the latent, with Swin attention and cross-attention to the condition.

At the document's size: (3, 80, 80) -> 128x80x80, 256x40x40, 512x20x20, 512x10x10 and back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import (
    FOURIER_FEATURES,
    Downsample,
    FourierFeatures,
    ResnetBlock,
    Upsample,
    normalize,
    run,
    timestep_embedding,
    zero_init,
)
from .swin import TransformerBlock


@dataclass(frozen=True)
class Attention:
    """Where and how a U-Net attends.

    Attributes:
        resolutions: downsampling factors whose levels get Swin self-attention; the middle always does.
        num_heads, window_size: see `WindowAttention`.
    """

    resolutions: Sequence[int] = (4, 2)
    num_heads: int = 4
    window_size: int = 8

    def blocks(self, channels: int, context_dim: int, self_attention: bool) -> nn.ModuleList:
        """What follows a level's last residual block; nothing where neither attention is wanted."""
        if not self_attention and not context_dim:
            return nn.ModuleList()
        how = {"num_heads": self.num_heads, "context_dim": context_dim, "self_attention": self_attention}
        return nn.ModuleList([TransformerBlock(channels, self.window_size, **how)])


class Unet(nn.Module):
    """x_t, t and the condition's features -> model output.

    The condition enters twice: its level-0 map is concatenated to x_t, and at every level the pixels attend to the
    map of that level, averaged to the grid of the last level (windows of 8, 4, 2, 1 for four levels) so that each
    level sees the whole scene through the same few tokens.

    Args:
        dim, dim_mults: channels of level l are dim * dim_mults[l].
        channels: of the latent.
        out_channels: None: `channels`; twice as many for a two-headed objective.
        context_channels: channels of the condition's map at each level; None for a network without a condition.
        num_res_blocks: residual blocks per level, on the way down and on the way up.
        use_checkpoint: see `blocks.run`.
    """

    def __init__(
        self,
        dim: int = 128,
        channels: int = 3,
        dim_mults: Sequence[int] = (1, 2, 4, 4),
        *,
        out_channels: int | None = None,
        context_channels: Sequence[int] | None = None,
        num_res_blocks: int = 2,
        attention: Attention | None = None,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        attention = attention or Attention()
        self.dim, self.use_checkpoint = dim, use_checkpoint
        self.context_channels: list[int] = list(context_channels or ())
        self.time_embed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, 4 * dim), nn.SiLU())
        self.fourier = FourierFeatures()
        extra = sum(self.context_channels[:1]) + FOURIER_FEATURES
        widths = [dim * mult for mult in dim_mults]
        context = self.context_channels or [0] * len(widths)

        def resnet(in_channels: int, width: int) -> ResnetBlock:
            return ResnetBlock(in_channels, width, emb_channels=4 * dim, dropout=dropout)

        def stage(level: int, inputs: Sequence[int]) -> nn.ModuleDict:
            """One residual block per number of input channels, and the level's attention."""
            blocks = nn.ModuleList(resnet(channels, widths[level]) for channels in inputs)
            attn = attention.blocks(widths[level], context[level], 2**level in attention.resolutions)
            return nn.ModuleDict({"blocks": blocks, "attn": attn})

        self.conv_in = nn.Conv2d(channels + extra, dim, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        current = dim
        for level, width in enumerate(widths):
            self.downs.append(stage(level, [current, *[width] * (num_res_blocks - 1)]))
            if level < len(widths) - 1:
                self.downs[-1]["downsample"] = Downsample(width)
            current = width
        self.mid_block1 = resnet(current, current)
        self.mid_attn = attention.blocks(current, context[-1], True)
        self.mid_block2 = resnet(current, current)
        for level, width in reversed(list(enumerate(widths))):
            self.ups.append(stage(level, [2 * width] * num_res_blocks))  # input and skip
            if level > 0:
                self.ups[-1]["upsample"] = Upsample(width, widths[level - 1])
        self.norm_out = normalize(widths[0])
        self.conv_out = zero_init(nn.Conv2d(widths[0], out_channels or channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, cond: Sequence[Tensor] | None = None) -> Tensor:
        """x (B, channels, h, w), sides multiples of 2^(levels - 1), t (B,) in [0, 1000] -> (B, out_channels, h, w).

        Args:
            cond: the condition's maps [(B, C_l, h / 2^l, w / 2^l)], as `SwinConditionEncoder` gives them; None for a network
                without `context_channels`.

        Raises:
            ValueError: sides that the levels do not divide, or maps of other channels than `context_channels`.
        """
        multiple = 2 ** (len(self.downs) - 1)
        if x.shape[-1] % multiple or x.shape[-2] % multiple:
            raise ValueError(f"latent sides {tuple(x.shape[-2:])} must be multiples of {multiple}")
        given = [level.shape[1] for level in cond] if cond is not None else []
        if given != self.context_channels:
            raise ValueError(f"the condition's maps have {given} channels; this network takes {self.context_channels}")
        inputs = [x, *(cond or [])[:1], self.fourier(x)]  # level 0 of the condition has x's size
        tokens: list[Tensor | None] = [None] * len(self.downs)
        if cond:
            grid = cond[-1].shape[-2:]  # (h / 2^(levels - 1), w / 2^(levels - 1))
            tokens = [F.adaptive_avg_pool2d(level, grid).flatten(2).transpose(1, 2) for level in cond]  # (B, N, C_l)
        emb = self.time_embed(timestep_embedding(t, self.dim).to(self.time_embed[0].weight.dtype))  # (B, 4 dim)
        h = self.conv_in(torch.cat(inputs, dim=1))  # (B, dim, h, w)
        skips = []
        for stage, context in zip(self.downs, tokens, strict=True):
            *blocks, last = stage["blocks"]
            for block in blocks:
                h = self._run([block], h, emb)
                skips.append(h)
            h = self._run(stage["attn"], self._run([last], h, emb), context)
            skips.append(h)
            if "downsample" in stage:
                h = stage["downsample"](h)  # (B, C, H/2, W/2)
        h = self._run([self.mid_block1], h, emb)
        h = self._run(self.mid_attn, h, tokens[-1])
        h = self._run([self.mid_block2], h, emb)
        for stage, context in zip(self.ups, reversed(tokens), strict=True):
            for block in stage["blocks"]:
                h = self._run([block], torch.cat([h, skips.pop()], dim=1), emb)
            h = self._run(stage["attn"], h, context)
            if "upsample" in stage:
                h = stage["upsample"](h)  # (B, C', 2H, 2W)
        return self.conv_out(F.silu(self.norm_out(h)))

    def _run(self, blocks: Iterable[nn.Module], h: Tensor, further: Tensor | None) -> Tensor:
        """h through the blocks; `further` is their second input, the time embedding or the condition's tokens."""
        for block in blocks:
            h = run(block, h, further, recompute=self.use_checkpoint)
        return h
