"""The embedded simulator: random cities and dominant-path radio maps. Laws and accuracy: docs/simulator.md."""

from .cities import random_city, random_transmitter
from .detour import detour_distance
from .propagation import Laws, Paths, Simulator, line_of_sight

__all__ = [
    "Laws",
    "Paths",
    "Simulator",
    "detour_distance",
    "line_of_sight",
    "random_city",
    "random_transmitter",
]
