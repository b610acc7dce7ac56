"""Resizing to the networks' resolution, by area means or bilinear."""

import numpy as np

from ..errors import DataError


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, H) float -> (size, size) float32: area means for a whole factor, otherwise bilinear with antialiasing; or DataError."""
    height, width = image.shape
    if height != width:
        raise DataError(f"a picture is {width}x{height} px; the networks need squares (see data.crop.crop)")
    image = image.astype(np.float32)
    if height == size:
        return image
    if height % size == 0:
        factor = height // size
        return image.reshape(size, factor, size, factor).mean(axis=(1, 3))
    return bilinear(image[None], size, antialias=True)[0]


def bilinear(images: np.ndarray, side: int, antialias: bool) -> np.ndarray:
    """(C, H, W) float32 -> (C, side, side), interpolated."""
    import torch  # slow to import, and only sizes without a whole factor need it

    given = torch.from_numpy(images)[None]
    interpolate = torch.nn.functional.interpolate
    return interpolate(given, (side, side), mode="bilinear", antialias=antialias, align_corners=False)[0].numpy()
