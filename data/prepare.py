"""Scenes at the networks' resolution, and maps back at the scene's own."""

from collections.abc import Sequence

import numpy as np

from .conditions import condition
from .errors import DataError
from .geometry.resize import bilinear, resize
from .scene import Scene

# Version of the samples. Raise it with every change of code after which the same files and settings give other samples
# (reading, registration, drawing, simulation, what is left out), so that no earlier cache is used.
SAMPLES_VERSION = 4


def prepare(scene: Scene, image_size: int, cond_size: int, channels: Sequence[str]) -> dict[str, np.ndarray]:
    """A scene at the networks' resolution, float32: `cond` (C, cond_size, cond_size) in [-1, 1], `ori_mask` (1, S, S), 1 where
    the map is certainly zero, else 0, and, if the truth is known, `image` (1, S, S) in [-1, 1].

    DataError for a ready-made condition of another shape.
    """
    expected = (len(channels), cond_size, cond_size)
    if scene.cond is not None and scene.cond.shape != expected:
        raise DataError(f"conditions/{scene.name}.npy: has shape {scene.cond.shape}, not {expected}")
    cond = condition(scene, channels, cond_size) if scene.cond is None else scene.cond
    mask = resize(scene.ori_mask, image_size)[None] > 1 - 1e-6  # only pixels that are certain over their whole area
    sample = {"cond": cond, "ori_mask": mask.astype(np.float32)}
    if scene.gain is not None:
        sample["image"] = np.where(mask, -1, 2 * resize(scene.gain, image_size)[None] - 1)
    return sample


def to_native(gain: np.ndarray, scene: Scene) -> np.ndarray:
    """A map (h, w) at the networks' resolution -> (H, W) float32 at the scene's, zero where its `ori_mask` is set, in [0, 1].

    Because buildings are zero, a resized pixel is the mean over its open part times the fraction that is open. Resizing
    back therefore interpolates bilinearly, divides by the interpolated fraction, and sets building pixels to zero.
    """
    height, side = scene.layout.shape[0], gain.shape[0]
    if side != height:
        pair = np.stack([gain, resize(~scene.ori_mask, side)])
        native, fraction = bilinear(pair, height, antialias=side > height)
        gain = native / np.maximum(fraction, 1e-3)
    return np.where(scene.ori_mask, 0, gain).clip(0, 1).astype(np.float32)
