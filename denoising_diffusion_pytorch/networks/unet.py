"""The denoising network: a U-Net over the latent, with Swin attention and cross-attention to the condition.

At the document's size: (3, 80, 80) -> 128x80x80, 256x40x40, 512x20x20, 512x10x10 and back.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import Downsample, FourierFeatures, ResnetBlock, Upsample, normalize, timestep_embedding, zero_init
from .swin import TransformerBlock


class Unet(nn.Module):
    """x_t, t and the condition's features -> model output.

    The condition enters twice: its level-0 map is concatenated to x_t, and at every level the pixels attend to the
    map of that level, averaged to the grid of the last level (windows of 8, 4, 2, 1 for four levels) so that each
    level sees the whole scene through the same few tokens.

    Args:
        dim: channels of the first level.
        channels: latent channels.
        dim_mults: channels of level l are dim * dim_mults[l].
        out_channels: channels of the output (None: `channels`; twice as many for a two-headed objective).
        context_channels: channels of the condition's map at each level; None for a network without a condition.
        num_res_blocks: residual blocks per level, on the way down and on the way up.
        attention_resolutions: downsampling factors whose levels get Swin self-attention; the middle always does.
        use_cross_attention: False: the condition enters only through the concatenation of its level-0 map.
        fourier_scale: scale of the random Fourier features of the coordinates at the input, 0 for none.
        use_checkpoint: recompute blocks in the backward pass instead of keeping their activations.
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
        attention_resolutions: Sequence[int] = (4, 2),
        num_heads: int = 4,
        transformer_depth: int = 1,
        use_cross_attention: bool = True,
        window_size: int = 8,
        fourier_scale: float = 16.0,
        fourier_features: int = 32,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.use_checkpoint = use_checkpoint
        self.context_channels: list[int] = list(context_channels or ())[: None if use_cross_attention else 1]
        self.use_cross_attention = use_cross_attention and bool(self.context_channels)
        emb_dim = 4 * dim
        self.time_embed = nn.Sequential(nn.Linear(dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim), nn.SiLU())
        self.fourier = FourierFeatures(fourier_features, fourier_scale) if fourier_scale else None
        extra = fourier_features if fourier_scale else 0
        widths = [dim * mult for mult in dim_mults]

        def resnet(in_channels: int, width: int) -> ResnetBlock:
            return ResnetBlock(in_channels, width, emb_channels=emb_dim, dropout=dropout)

        def transformer(level: int, self_attention: bool) -> nn.ModuleList:
            """Blocks after a level's last residual block; none where neither attention is wanted."""
            context_dim = self.context_channels[level] if self.use_cross_attention else 0
            depth = transformer_depth if self_attention else int(bool(context_dim))
            return nn.ModuleList(
                TransformerBlock(
                    widths[level],
                    window_size,
                    num_heads=num_heads,
                    shift=index % 2 == 1,
                    context_dim=context_dim,
                    self_attention=self_attention,
                )
                for index in range(depth)
            )

        self.conv_in = nn.Conv2d(channels + sum(self.context_channels[:1]) + extra, dim, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        current, last = dim, len(widths) - 1
        for level, width in enumerate(widths):
            blocks = nn.ModuleList(resnet(current if i == 0 else width, width) for i in range(num_res_blocks))
            stage = nn.ModuleDict({"blocks": blocks, "attn": transformer(level, 2**level in attention_resolutions)})
            if level < last:
                stage["downsample"] = Downsample(width)
            self.downs.append(stage)
            current = width
        self.mid_block1 = resnet(current, current)
        self.mid_attn = transformer(last, True)
        self.mid_block2 = resnet(current, current)
        for level in reversed(range(len(widths))):
            width = widths[level]
            blocks = nn.ModuleList(resnet(2 * width, width) for _ in range(num_res_blocks))  # input and skip
            stage = nn.ModuleDict({"blocks": blocks, "attn": transformer(level, 2**level in attention_resolutions)})
            if level > 0:
                stage["upsample"] = Upsample(width, widths[level - 1])
            self.ups.append(stage)
        self.norm_out = normalize(dim * dim_mults[0])
        self.conv_out = zero_init(nn.Conv2d(dim * dim_mults[0], out_channels or channels, 3, padding=1))

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def forward(self, x: Tensor, t: Tensor, cond: Sequence[Tensor] | None = None) -> Tensor:
        """Predict.

        Args:
            x: (B, channels, h, w), sides multiples of 2^(levels - 1).
            t: (B,) times in [0, 1000].
            cond: the condition's maps [(B, C_l, h / 2^l, w / 2^l)], as `SwinConditionEncoder` gives them; None for a network
                without `context_channels`.

        Returns:
            (B, out_channels, h, w).

        Raises:
            ValueError: sides that the levels do not divide, or maps of other channels than `context_channels`.
        """
        multiple = 2 ** (len(self.downs) - 1)
        if x.shape[-1] % multiple or x.shape[-2] % multiple:
            raise ValueError(f"latent sides {tuple(x.shape[-2:])} must be multiples of {multiple}")
        given = [level.shape[1] for level in cond] if cond is not None else []
        if given != self.context_channels:
            raise ValueError(f"the condition's maps have {given} channels; this network takes {self.context_channels}")
        inputs = [x, *(cond or [])[:1]]  # level 0 of the condition has x's size
        if self.fourier is not None:
            inputs.append(self.fourier(x))
        tokens: list[Tensor | None] = [None] * len(self.downs)
        if self.use_cross_attention:
            grid = cond[-1].shape[-2:]  # (h / 2^(levels - 1), w / 2^(levels - 1))
            tokens = [F.adaptive_avg_pool2d(level, grid).flatten(2).transpose(1, 2) for level in cond]  # (B, N, C_l)
        emb = self.time_embed(timestep_embedding(t, self.dim).to(self.time_embed[0].weight.dtype))  # (B, 4 dim)
        h = self.conv_in(torch.cat(inputs, dim=1))  # (B, dim, h, w)
        skips = []
        for level, stage in enumerate(self.downs):
            for index, block in enumerate(stage["blocks"]):
                h = self._run(block, h, emb)
                if index == len(stage["blocks"]) - 1:
                    h = self._attend(stage, h, tokens[level])
                skips.append(h)
            if "downsample" in stage:
                h = stage["downsample"](h)  # (B, C, H/2, W/2)
        h = self._run(self.mid_block1, h, emb)
        for block in self.mid_attn:
            h = self._run(block, h, tokens[-1])
        h = self._run(self.mid_block2, h, emb)
        for level, stage in zip(reversed(range(len(self.ups))), self.ups, strict=True):
            for block in stage["blocks"]:
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), emb)
            h = self._attend(stage, h, tokens[level])
            if "upsample" in stage:
                h = stage["upsample"](h)  # (B, C', 2H, 2W)
        return self.conv_out(F.silu(self.norm_out(h)))

    def _attend(self, stage: nn.ModuleDict, h: Tensor, tokens: Tensor | None) -> Tensor:
        for block in stage["attn"]:
            h = self._run(block, h, tokens)
        return h
