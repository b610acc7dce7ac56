"""The calls of the design document where they differ from ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import latent_diffusion
from .build import latent_diffusion_parts
from .checkpoint import open_checkpoint
from .config import parse_config, resolve
from .networks import autoencoder, swin, unet
from .training import ema
from .weights import load_first_stage


class LatentDiffusion(latent_diffusion.LatentDiffusion):
    """Both stages from sections of a configuration; `latent_diffusion.LatentDiffusion` takes modules.

    `first_stage_config`, `cond_stage_config`, `unet_config` and `diffusion_config` are models of config/schema.py, plain
    dicts in any spelling that a YAML file may use, or left out for the document's values. The autoencoder's weights are
    read if `first_stage_config` names a `ckpt_path`. `cond_size`: side of the condition image in pixels (None: the latent's).
    """

    def __init__(self, *, cond_size: int | None = None, **sections: Any):
        config = resolve(parse_config(sections | {"data": {"cond_size": cond_size}}), stage="ldm")
        super().__init__(**latent_diffusion_parts(config))
        path = config.first_stage_config.ckpt_path
        if path:
            # the condition's channels have no names here: a decoder that sees them takes those it was trained with
            channels = open_checkpoint(path).config.data.cond_channels if Path(path).is_dir() else ()
            load_first_stage(self.first_stage_model, path, channels)

    def forward(self, image: Any, cond: Any = None, keys: Any = None) -> Tensor:
        """The second stage's training loss, a scalar: `model(images, conditions)`, or `model(batch)` with `image` and `cond`."""
        if isinstance(image, dict):
            image, cond = image["image"], image["cond"]
        return super().forward(image, cond, keys)


class Encoder(autoencoder.Encoder):
    """Encoder(128, 3, [1, 2, 4], 2): level l has ch * ch_mult[l] channels, the latent out_ch. `channels` of an image and all
    levels and `z_channels` of the latent are the document's other spelling.
    """

    def __init__(
        self,
        ch: int = 128,
        out_ch: int = 3,
        ch_mult: Sequence[int] = (1, 2, 4),
        num_res_blocks: int = 2,
        *,
        channels: Sequence[int] | None = None,
        z_channels: int | None = None,
    ):
        channels = channels or (1, *(ch * mult for mult in ch_mult))
        super().__init__(channels, z_channels or out_ch, autoencoder.Layers(num_res_blocks))


class Unet(unet.Unet):
    """Unet(dim=128, channels=3, dim_mults=[1, 2, 4, 4]) with its own encoder for a condition of `cond_channels`."""

    def __init__(
        self, dim: int = 128, channels: int = 3, dim_mults: Sequence[int] = (1, 2, 4, 4), *, cond_channels: int = 3
    ):
        encoder = swin.SwinConditionEncoder(cond_channels, dim, dim_mults, depths=[2] * len(dim_mults))
        super().__init__(dim, channels, dim_mults, encoder.channels)
        self.cond_encoder = encoder
        self.conv_out.reset_parameters()  # as in the document; ours begins at zero

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """x (B, channels, h, w), t (B,) -> (B, channels, h, w); cond: an image (B, cond_channels, h, w), the maps of a condition
        encoder, or None, which counts as maps of zeros. ValueError for other channels or sides.
        """
        if cond is None:
            height, width = x.shape[-2:]
            shapes = ((c, height >> level, width >> level) for level, c in enumerate(self.context_channels))
            cond = [x.new_zeros(len(x), *shape) for shape in shapes]
        elif isinstance(cond, Tensor):
            if cond.shape[-2:] != x.shape[-2:]:
                raise ValueError(f"condition {tuple(cond.shape)} must have the sides of the latent {tuple(x.shape)}")
            cond = self.cond_encoder(cond)
        return super().forward(x, t, cond)


class EMAModel(ema.EMAModel):
    """EMAModel(model, beta=0.999): `ema_model` is the averaged model."""

    ema_model = property(lambda self: self.shadow)

    def update(self, model: nn.Module | None = None, *, beta: float | None = None) -> None:
        """One averaging step towards `model` (None: the one before)."""
        self.model = self.model if model is None else model
        super().update(beta=beta)


class TransformerBlock(swin.TransformerBlock):
    """TransformerBlock(dim, window_size=8): its cross-attention takes the condition as it is, an image of `cond_channels`."""

    def __init__(self, dim: int, window_size: int = 8, *, num_heads: int = 4, cond_channels: int = 3):
        super().__init__(dim, window_size, num_heads=num_heads, context_dim=dim)
        self.dim = dim
        self.cond_in = nn.Conv2d(cond_channels, dim, 1)
        self.cross_attn.proj.reset_parameters()  # the condition counts from the first step; ours begins at zero

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """x (B, dim, H, W) -> the same; cond: an image (B, cond_channels, h, w), a map (B, dim, h, w), or tokens (B, N, dim)."""
        if cond is not None and cond.ndim == 4:
            cond = cond if cond.shape[1] == self.dim else self.cond_in(cond)  # (B, dim, h, w)
            cond = cond.flatten(2).transpose(1, 2)  # (B, h w, dim)
        return super().forward(x, cond)
