"""The regions of a map that are scored separately."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from data.geometry.layout import Layout
from data.geometry.registration import picture_of
from data.scene import Scene
from data.units import NOISE_FLOOR

REGION_NAMES = (  # each pixel is in the first that applies
    "inside buildings",
    "outage (zero in the open)",
    "next to a wall",
    "line of sight",
    "deep shadow (below -127 dB)",
    "other shadow",
)


@dataclass(frozen=True)
class Regions:
    """Regions of a scene's map, (H, W) bool unless stated otherwise."""

    open: np.ndarray  # outside of the real buildings
    uncertain: np.ndarray  # not certainly inside a building that the condition shows
    picture: np.ndarray  # RadioMapSeer's building picture, which is offset by half a pixel from the map
    parts: dict[str, np.ndarray]  # `los`, in line of sight, and `nlos`
    region: np.ndarray  # (H, W) int: the number of each pixel's region in REGION_NAMES

    @classmethod
    def of(cls, scene: Scene) -> "Regions":
        """The regions of a scene whose map is known; no `parts` where the transmitter is unknown."""
        from data.simulator import line_of_sight  # numba is slow to import

        inside, gain, shape = scene.buildings, scene.gain, scene.layout.shape
        visible = np.zeros(shape, bool) if scene.tx is None else line_of_sight(scene.layout, scene.tx)
        parts = {} if scene.tx is None else {"los": visible, "nlos": ~visible}
        by_wall = ndimage.binary_dilation(inside, np.ones((3, 3)))
        region = np.select([inside, gain == 0, by_wall, visible, gain < NOISE_FLOOR], np.arange(5), 5)
        return cls(~inside, ~scene.ori_mask, _picture(scene.layout), parts, region)


@lru_cache(4)  # the scenes of a map share it
def _picture(layout: Layout) -> np.ndarray:
    return picture_of(layout) if layout.exact else layout.inside
