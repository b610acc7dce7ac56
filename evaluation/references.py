"""Predictors that need no training, as references for every score. Scene -> grey levels (H, W) in [0, 1].

They see what a scene shows, and raise DataError where it does not show the transmitter.
"""

from collections.abc import Iterable

import numpy as np

from data.conditions import distance, free_gain, simulated_gain
from data.errors import DataError
from data.measurements import corrected
from data.scene import Scene
from data.units import GAIN_MAX_DB, db_to_gain


def log_distance_model(scene: Scene) -> np.ndarray:
    """25 log10 d everywhere, buildings at zero."""
    return np.where(scene.ori_mask, 0, free_gain(scene)).astype(np.float32)


def los_nlos_model(scene: Scene) -> np.ndarray:
    """25 log10 d in line of sight, 28.6 log10 d + 8 dB in the shadow, buildings at zero."""
    from data.simulator import line_of_sight  # numba is slow to import

    shadow = db_to_gain(GAIN_MAX_DB - 28.6 * np.log10(distance(scene)) - 8)
    visible = line_of_sight(scene.shown, scene.shown_tx)
    return np.where(scene.ori_mask, 0, np.where(visible, free_gain(scene), shadow)).astype(np.float32)


def simulator_map(scene: Scene) -> np.ndarray:
    """The embedded simulator's map of the buildings shown, corrected by measured points, buildings at zero; raises as
    `simulated_gain` does.
    """
    gain = corrected(simulated_gain(scene), scene.measurements)
    return np.where(scene.ori_mask, 0, gain).astype(np.float32)


REFERENCES = {
    "simulator": simulator_map,
    "line-of-sight path-loss model": los_nlos_model,
    "25 log10 d": log_distance_model,
}


class MeanMap:
    """The pixel-wise mean of training maps, the buildings shown at zero. DataError: no scenes, or scenes of several sizes."""

    def __init__(self, scenes: Iterable[Scene]):
        total, count = None, 0
        for scene in scenes:
            if total is not None and scene.gain.shape != total.shape:
                raise DataError(f"scene {scene.name}: differs in size from the scenes before it; no mean map")
            total = scene.gain.astype(np.float64) if total is None else total + scene.gain
            count += 1
        if total is None:
            raise DataError("no scenes to average")
        self.mean = (total / count).astype(np.float32)

    def __call__(self, scene: Scene) -> np.ndarray:
        """See the module's docstring; raises DataError for a scene of another size."""
        if scene.buildings.shape != self.mean.shape:
            raise DataError(f"scene {scene.name}: is {scene.buildings.shape}, the mean map {self.mean.shape}")
        return np.where(scene.ori_mask, 0, self.mean)
