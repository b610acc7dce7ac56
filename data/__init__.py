"""Radio maps: reading, simulating and preparing them; knows no networks.

What needs torch is imported when its name is first used.
"""

from importlib import import_module
from typing import Any

from .errors import DataError
from .prepare import prepare
from .scene import Scene
from .trees.folder import FlatTree, open_tree
from .trees.radiomapseer import RadioMapSeer
from .units import db_to_gain, gain_to_db

_MODULES = {
    "samples.dataset": ("OwnSamples", "RadioMapDataset", "to_device", "training_loader"),
    "samples.document": ("RadioUNet_c", "RandomAugmentation", "create_dataloader", "process_batch"),
}
__all__ = ["DataError", "FlatTree", "RadioMapSeer", "Scene", "db_to_gain", "gain_to_db", "open_tree", "prepare"]
__all__ += [name for names in _MODULES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
