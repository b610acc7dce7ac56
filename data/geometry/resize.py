"""Resizing to the networks' resolution, by area means or bilinear."""

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import DataError


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
    tensor = torch.from_numpy(image)[None, None]
    return F.interpolate(tensor, (size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()
