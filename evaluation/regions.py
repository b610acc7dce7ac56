"""Where in a map it is scored apart."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from data.geometry.layout import Layout
from data.geometry.registration import picture_of
from data.measurements import pixels_of
from data.scene import Scene
from data.units import NOISE_FLOOR

NEAR = 10  # px from a measured point


@dataclass(frozen=True)
class Regions:
    """Regions of a scene's map, each (H, W) bool.

    Attributes:
        open: outside of the real buildings.
        picture: RadioMapSeer's building picture, which is offset by half a pixel from the map.
        parts: by name: `los`, in line of sight of the transmitter, and `nlos`; with measured points `near` them and `far`.
    """

    open: np.ndarray
    picture: np.ndarray
    parts: dict[str, np.ndarray]

    @classmethod
    def of(cls, scene: Scene) -> "Regions":
        """The regions of a scene; a transmitter that is unknown sees nothing."""
        from data.simulator import line_of_sight  # numba is slow to import

        layout = scene.layout
        visible = np.zeros(layout.shape, bool) if scene.tx is None else line_of_sight(layout, scene.tx)
        parts = {"los": visible, "nlos": ~visible}
        if scene.measurements is not None and len(scene.measurements):
            away = np.ones(layout.shape, bool)
            column, row = pixels_of(scene.measurements, len(away), len(away))
            away[row, column] = False
            near = ndimage.distance_transform_edt(away) <= NEAR
            parts |= {"near": near, "far": ~near}
        return cls(~scene.buildings, _picture(layout), parts)


@lru_cache(4)  # the scenes of a map share it
def _picture(layout: Layout) -> np.ndarray:
    return picture_of(layout) if layout.exact else layout.inside


def error_by_region(prediction: np.ndarray, scene: Scene, regions: Regions) -> dict[str, float]:
    """Where a map's squared error lies: fractions of the target's energy that add up to the map's NMSE; NaN without energy.

    Each pixel counts once, for the first region in the list that it belongs to. `prediction` (H, W): grey levels in [0, 1].
    """
    error = (prediction.astype(np.float64) - scene.gain) ** 2
    power = float((scene.gain.astype(np.float64) ** 2).sum()) or np.nan
    inside = scene.buildings
    masks = {
        "inside buildings": inside,
        "outage (zero in the open)": scene.gain == 0,
        "next to a wall": ndimage.binary_dilation(inside, np.ones((3, 3))),
        "line of sight": regions.parts["los"],
        "deep shadow (below -127 dB)": scene.gain < NOISE_FLOOR,
        "other shadow": np.ones_like(inside),
    }
    found, counted = {}, np.zeros_like(inside)
    for name, mask in masks.items():
        found[name] = float(error[mask & ~counted].sum() / power)
        counted |= mask
    return found
