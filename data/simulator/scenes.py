"""Scenes of random cities, simulated in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..crop import SIDE
from ..scene import Scene, scene_at
from ..units import db_to_gain, gain_to_uint8
from . import Simulator, random_city, random_transmitter

CIRCULAR = "note: the simulator's map is an input of this model and the truth here; only other maps show how good it is"


@dataclass
class SimulatedScenes:
    """Cities number `seed`, `seed` + 1, ... with one transmitter each; the same interface as `RadioMapSeer`."""

    count: int
    seed: int

    def __post_init__(self) -> None:
        self.report = f"{self.count} simulated cities from seed {self.seed}"
        self.names = [f"city{self.seed + index}" for index in range(self.count)]

    def identity(self) -> dict[str, object]:
        """What is simulated, in JSON types."""
        return {"simulated": self.report}

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """City, transmitter and the simulator's map in 8-bit grey levels, as a data set stores it."""
        return random_scenes(self.seed + index)[0]


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
