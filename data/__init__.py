"""Radio maps: reading, simulating and preparing them; knows no networks.

What needs torch is loaded when its name is used for the first time.
"""
# ruff: noqa: F401, F403

from typing import TYPE_CHECKING, Any

from .errors import DataError
from .prepare import prepare
from .scene import Scene
from .trees.folder import FlatTree, open_tree
from .trees.radiomapseer import RadioMapSeer
from .units import db_to_gain, gain_to_db

if TYPE_CHECKING:
    from .samples.dataset import *
    from .samples.document import *


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .samples import dataset, document

    return getattr(document if hasattr(document, name) else dataset, name)
