"""Radio maps: reading, simulating, preparing and scoring them. Imports nothing from the network package.

What reads files is imported here; samples and batches, which need torch, are in `loader`, `augment` and `presentation`.
"""

from .errors import DataError
from .scene import Scene
from .trees.folder import FlatTree, open_tree
from .trees.radiomapseer import RadioMapSeer
from .units import db_to_gain, gain_to_db

__all__ = ["DataError", "FlatTree", "RadioMapSeer", "Scene", "db_to_gain", "gain_to_db", "open_tree"]
