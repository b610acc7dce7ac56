"""Predictors that need no training, as references for every score. Scene -> grey levels (H, W) in [0, 1].

They see what a scene shows, and raise DataError where it does not show the transmitter.
"""

import numpy as np

from data.conditions import distance, los_gain, simulated_gains
from data.measurements import corrected
from data.scene import Scene
from data.units import GAIN_MAX_DB, db_to_gain


def log_distance_model(scene: Scene) -> np.ndarray:
    """25 log10 d everywhere, buildings at zero."""
    return np.where(scene.ori_mask, 0, los_gain(scene)).astype(np.float32)


def los_nlos_model(scene: Scene) -> np.ndarray:
    """25 log10 d in line of sight, 28.6 log10 d + 8 dB in the shadow, buildings at zero."""
    from data.simulator import line_of_sight  # numba is slow to import

    shadow = db_to_gain(GAIN_MAX_DB - 28.6 * np.log10(distance(scene)) - 8)
    visible = line_of_sight(scene.shown, scene.shown_tx)
    return np.where(scene.ori_mask, 0, np.where(visible, los_gain(scene), shadow)).astype(np.float32)


def simulator_map(scene: Scene) -> np.ndarray:
    """The embedded simulator's map of the buildings shown, corrected by measured points, buildings at zero."""
    _, gain = simulated_gains(scene)
    return np.where(scene.ori_mask, 0, corrected(gain, scene.measurements)).astype(np.float32)


REFERENCES = {
    "simulator": simulator_map,
    "LOS/NLOS path-loss model": los_nlos_model,
    "25 log10 d": log_distance_model,
}
