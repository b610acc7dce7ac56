"""The denoising network: a U-Net over the latent, with Swin attention and cross-attention to the condition.

At the document's size: (3, 80, 80) -> 128x80x80, 256x40x40, 512x20x20, 512x10x10 and back.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import (
    FourierFeatures,
    ResnetBlock,
    checkpointed,
    downsample,
    normalize,
    timestep_embedding,
    upsample,
    zero_init,
)
from .swin import TransformerBlock


class Unet(nn.Module):
    """x_t, t and the condition's features -> model output.

    The condition enters twice: its level-0 map is concatenated to x_t, and at every level the pixels attend to the
    map of that level, averaged to the grid of the last level (windows of 8, 4, 2, 1 for four levels) so that each
    level sees the whole scene through the same few tokens.

    Args:
        dim, dim_mults: channels of level l are dim * dim_mults[l].
        channels: of the latent.
        context_channels: channels of the condition's map at each level.
        out_channels: None: `channels`; twice as many for a two-headed objective.
        num_res_blocks: residual blocks per level, on the way down and on the way up.
        attention_resolutions: downsampling factors of the levels with self-attention; the middle has it, too.
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        dim_mults: Sequence[int],
        context_channels: Sequence[int],
        *,
        out_channels: int | None = None,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (4, 2),
        num_heads: int = 4,
        window_size: int = 8,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.dim, self.use_checkpoint, self.context_channels = dim, use_checkpoint, list(context_channels)
        self.time_embed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, 4 * dim), nn.SiLU())
        self.fourier = FourierFeatures()
        widths = [dim * mult for mult in dim_mults]

        def resnet(in_channels: int, width: int) -> ResnetBlock:
            return ResnetBlock(in_channels, width, emb_channels=4 * dim, dropout=dropout)

        def attend(level: int, self_attention: bool) -> nn.ModuleList:
            options = {"num_heads": num_heads, "context_dim": context_channels[level]}
            return nn.ModuleList([TransformerBlock(widths[level], window_size * self_attention, **options)])

        def stage(level: int, inputs: Sequence[int]) -> nn.ModuleDict:
            """One residual block per number of input channels, and the level's attention."""
            blocks = nn.ModuleList(resnet(channels, widths[level]) for channels in inputs)
            return nn.ModuleDict({"blocks": blocks, "attn": attend(level, 2**level in attention_resolutions)})

        self.conv_in = nn.Conv2d(channels + context_channels[0] + self.fourier.channels, dim, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        current = dim
        for level, width in enumerate(widths):
            self.downs.append(stage(level, [current, *[width] * (num_res_blocks - 1)]))
            self.downs[-1]["downsample"] = downsample(width) if level < len(widths) - 1 else nn.Identity()
            current = width
        self.mid_block1 = resnet(current, current)
        self.mid_attn = attend(-1, True)
        self.mid_block2 = resnet(current, current)
        for level, width in reversed(list(enumerate(widths))):
            self.ups.append(stage(level, [2 * width] * num_res_blocks))  # input and skip
            self.ups[-1]["upsample"] = upsample(width, widths[level - 1]) if level > 0 else nn.Identity()
        self.norm_out = normalize(dim)
        self.conv_out = zero_init(nn.Conv2d(dim, out_channels or channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, cond: Sequence[Tensor]) -> Tensor:
        """x (B, channels, h, w), sides multiples of 2^(levels - 1), t (B,) in [0, 1000] and the condition's maps
        [(B, C_l, h / 2^l, w / 2^l)], as `SwinConditionEncoder` gives them -> (B, out_channels, h, w). ValueError for others.
        """
        multiple = 2 ** (len(self.downs) - 1)
        if x.shape[-1] % multiple or x.shape[-2] % multiple:
            raise ValueError(f"latent sides {tuple(x.shape[-2:])} must be multiples of {multiple}")
        given = [level.shape[1] for level in cond]
        if given != self.context_channels:
            raise ValueError(f"the condition's maps have {given} channels; this network takes {self.context_channels}")
        grid = cond[-1].shape[-2:]  # (h / 2^(levels - 1), w / 2^(levels - 1))
        tokens = [F.adaptive_avg_pool2d(level, grid).flatten(2).transpose(1, 2) for level in cond]  # (B, N, C_l)
        emb = self.time_embed(timestep_embedding(t, self.dim).to(self.time_embed[0].weight.dtype))  # (B, 4 dim)
        h = self.conv_in(torch.cat([x, cond[0], self.fourier(x)], dim=1))  # (B, dim, h, w)
        compute, skips = partial(checkpointed, recompute=self.use_checkpoint), []
        for stage, context in zip(self.downs, tokens, strict=True):
            for number, block in enumerate(stage["blocks"], 1):
                h = compute(block, h, emb)
                if number == len(stage["blocks"]):
                    h = compute(stage["attn"][0], h, context)
                skips.append(h)
            h = stage["downsample"](h)  # (B, C, H/2, W/2)
        h = compute(self.mid_block1, h, emb)
        h = compute(self.mid_attn[0], h, tokens[-1])
        h = compute(self.mid_block2, h, emb)
        for stage, context in zip(self.ups, reversed(tokens), strict=True):
            for block in stage["blocks"]:
                h = compute(block, torch.cat([h, skips.pop()], dim=1), emb)
            h = compute(stage["attn"][0], h, context)
            h = stage["upsample"](h)  # (B, C', 2H, 2W)
        return self.conv_out(F.silu(self.norm_out(h)))
