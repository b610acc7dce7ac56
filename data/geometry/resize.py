"""Resizing from a scene's native resolution to the networks' (area means or bilinear) and back."""

import numpy as np

from ..errors import DataError
from ..scene import Scene


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) float -> (size, size) float32.

    Downsizing by a whole factor takes exact area means; otherwise bilinear with antialiasing, as torchvision's Resize.

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
    return _bilinear(image[None], size, antialias=True)[0]


def _bilinear(images: np.ndarray, side: int, antialias: bool) -> np.ndarray:
    """(C, H, W) float32 -> (C, side, side)."""
    import torch  # slow to import, and only sizes without a whole factor need it

    given = torch.from_numpy(images)[None]
    interpolate = torch.nn.functional.interpolate
    return interpolate(given, (side, side), mode="bilinear", antialias=antialias, align_corners=False)[0].numpy()


def to_native(gain: np.ndarray, scene: Scene) -> np.ndarray:
    """A map at the networks' resolution resized to the scene's, zero where the scene's `ori_mask` is set.

    Because buildings are zero, a resized pixel is the mean over its open part times the share of that part. Resizing
    back therefore interpolates bilinearly, divides by the interpolated share, and sets building pixels to zero.

    Args:
        gain: (h, w) grey levels in [0, 1].
        scene: of (H, W) pixels.

    Returns:
        (H, W) float32 grey levels in [0, 1].
    """
    height, side = scene.layout.shape[0], gain.shape[0]
    if side != height:
        inside = scene.shown.inside
        native, share = _bilinear(np.stack([gain, resize(~inside, side)]), height, antialias=side > height)
        gain = np.where(inside, 0, native / np.maximum(share, 1e-3))
    return np.where(scene.ori_mask, 0, gain).clip(0, 1).astype(np.float32)
