"""Scenes at the networks' sizes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .conditions import condition
from .resize import resize
from .scene import Scene
from .store import digest

# the modules that decide what a sample looks like, of this folder
MAKERS = (
    "conditions",
    "folder",
    "layout",
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
    """A name of the code that makes samples out of files: a change in it must not meet what older code prepared."""
    return digest(*((folder / f"{name}.py").read_bytes() for name in MAKERS))


def prepare(scene: Scene, image_size: int, cond_size: int, channels: Sequence[str]) -> dict[str, np.ndarray]:
    """A scene at the networks' sizes.

    Returns:
        `cond` (C, cond_size, cond_size) in [-1, 1], `ori_mask` (1, S, S), 1 where the map is zero beyond doubt, else 0, and, where
        the truth is known, `image` (1, S, S) in [-1, 1]; float32.
    """
    return presented(scene, image_size) | {"cond": condition(scene, channels, cond_size)}


def presented(scene: Scene, image_size: int) -> dict[str, np.ndarray]:
    """`ori_mask` and, where the truth is known, `image` of a scene, as `prepare` gives them."""
    mask = resize(scene.ori_mask, image_size)[None] > 1 - 1e-6  # pixels that are certain as a whole
    sample = {"ori_mask": mask.astype(np.float32)}
    if scene.gain is not None:
        sample["image"] = np.where(mask, -1, 2 * resize(scene.gain, image_size)[None] - 1)
    return sample
