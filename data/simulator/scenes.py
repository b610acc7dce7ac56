"""Scenes of random cities, simulated in memory."""

from collections.abc import Sequence

import numpy as np

from ..crop import SIDE
from ..scene import Scene, scene_at
from ..units import db_to_gain, gain_to_uint8
from . import Simulator, random_city, random_transmitter


def random_scenes(seed: int, positions: Sequence[str] | None = None) -> list[Scene]:
    """One random city with a transmitter at each `X,Y`, or at one random place, and simulated maps; errors as `scene_at`."""
    rng = np.random.default_rng(seed)
    city = random_city(rng, SIDE)
    simulator = Simulator(city)
    positions = positions or [",".join(map(str, random_transmitter(city, rng)))]
    scenes = [scene_at(f"city{seed}", city, position) for position in positions]
    for scene in scenes:
        gain = db_to_gain(simulator.path_gain(scene.tx))
        scene.gain, scene.truth = (gain_to_uint8(gain) / np.float32(255)).astype(np.float32), "simulated"
    return scenes
