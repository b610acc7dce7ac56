"""The embedded simulator: random cities, cars, and dominant-path radio maps. Path-loss model and accuracy: docs/simulator.md."""

from .cars import random_cars
from .cities import random_city, random_transmitter
from .geodesic import shortest_paths
from .propagation import Simulator, line_of_sight

__all__ = ["Simulator", "line_of_sight", "random_cars", "random_city", "random_transmitter", "shortest_paths"]
