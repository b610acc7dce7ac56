"""The embedded simulator: random cities and dominant-path radio maps; laws and accuracy in docs/simulator.md."""

from .cities import City, random_city, random_transmitter
from .detour import detour_distance
from .propagation import Laws, Simulator, simulate
from .visibility import line_of_sight

__all__ = [
    "City",
    "Laws",
    "Simulator",
    "detour_distance",
    "line_of_sight",
    "random_city",
    "random_transmitter",
    "simulate",
]
