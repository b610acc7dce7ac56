"""The embedded simulator: random cities and dominant-path radio maps. Path-loss model and accuracy: docs/simulator.md."""

from .cities import random_city, random_transmitter
from .geodesic import geodesic_distance
from .propagation import PathLossModel, Paths, Simulator, line_of_sight

__all__ = [
    "PathLossModel",
    "Paths",
    "Simulator",
    "geodesic_distance",
    "line_of_sight",
    "random_city",
    "random_transmitter",
]
