"""Between a scene's own resolution and the networks': area means, bilinear, and the way back."""

import numpy as np
import torch
import torch.nn.functional as F

from .errors import DataError


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) float -> (size, size) float32.

    Whole factors down are exact area means; everything else is bilinear with antialiasing, as torchvision's Resize.

    Raises:
        DataError: the image is not square.
    """
    height, width = image.shape
    if height != width:
        raise DataError(f"a picture is {width}x{height} px; the networks need squares")
    image = image.astype(np.float32)
    if height == size:
        return image
    if height % size == 0:
        factor = height // size
        return image.reshape(size, factor, size, factor).mean(axis=(1, 3))
    tensor = torch.from_numpy(image)[None, None]
    return F.interpolate(tensor, (size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()


def to_native(gain: np.ndarray, mask: np.ndarray, buildings: np.ndarray) -> np.ndarray:
    """A map at the networks' resolution back to the scene's.

    A coarse pixel is the mean over its open part times that part's share, so the bilinear interpolation is normalised
    by the interpolated share: interp(g) / interp(1 - mask). Buildings are zero.

    Args:
        gain: (h, w) grey levels, already multiplied by 1 - mask.
        mask: (h, w) share of buildings in each coarse pixel.
        buildings: (H, W) bool.

    Returns:
        (H, W) float32 grey levels in [0, 1].
    """
    if gain.shape == buildings.shape:
        return np.where(buildings, 0, gain).astype(np.float32)
    pair = torch.from_numpy(np.stack([gain, 1 - mask]).astype(np.float32))[None]
    antialias = buildings.shape[0] < gain.shape[0]
    fine = F.interpolate(pair, buildings.shape, mode="bilinear", antialias=antialias, align_corners=False)[0].numpy()
    return np.where(buildings, 0, np.clip(fine[0] / np.maximum(fine[1], 1e-3), 0, 1)).astype(np.float32)
