"""Scenes at the networks' resolution."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .conditions import condition
from .errors import DataError
from .hashing import digest
from .resize import resize
from .scene import Scene

# the modules of this folder that decide what a sample looks like
MAKERS = (
    "conditions",
    "folder",
    "hashing",
    "incomplete",
    "layout",
    "measurements",
    "polygons",
    "presentation",
    "radiomapseer",
    "registration",
    "resize",
    "scene",
    "units",
    "simulator/detour",
    "simulator/propagation",
    "simulator/visibility",
)


def code_digest(folder: Path = Path(__file__).parent) -> str:
    """Digest of the code that turns files into samples, so that changed code never uses samples of an older cache."""
    return digest(*((folder / f"{name}.py").read_bytes() for name in MAKERS))


def prepare(scene: Scene, image_size: int, cond_size: int, channels: Sequence[str]) -> dict[str, np.ndarray]:
    """A scene at the networks' resolution.

    Returns:
        `cond` (C, cond_size, cond_size) in [-1, 1], `ori_mask` (1, S, S), 1 where the map is certainly zero, else 0,
        and, if the truth is known, `image` (1, S, S) in [-1, 1]; float32.

    Raises:
        DataError: a ready-made condition of another shape.
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
