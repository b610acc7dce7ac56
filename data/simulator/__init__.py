"""The embedded simulator: random cities and dominant-path radio maps; laws and accuracy in docs/simulator.md."""

from .propagation import Laws, Simulator, simulate
from .visibility import line_of_sight

__all__ = ["Laws", "Simulator", "line_of_sight", "simulate"]
