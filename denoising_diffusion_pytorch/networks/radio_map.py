"""The networks' end of a radio map: what is certainly zero, and network range -> grey levels."""

import torch
from torch import Tensor


def apply_mask(x: Tensor, ori_mask: Tensor | None) -> Tensor:
    """Zero gain where the mask is 1: x (B, 1, H, W) in [-1, 1], ori_mask (B, 1, H, W), 1 where the map is zero beyond doubt."""
    return x if ori_mask is None else torch.where(ori_mask > 0.5, -1.0, x)


def to_gain(x: Tensor, ori_mask: Tensor | None) -> Tensor:
    """Network range -> grey levels: zero where the mask is 1, then one clamp to [0, 1]."""
    return ((apply_mask(x.float(), ori_mask) + 1) / 2).clamp(0, 1)
