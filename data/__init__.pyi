from .augment import Augmentation, RandomAugmentation
from .errors import DataError
from .folder import FlatTree, open_tree
from .loader import (
    OwnSamples,
    RadioMapDataset,
    RadioUNet_c,
    close_dataloader,
    create_dataloader,
    process_batch,
    training_loader,
)
from .presentation import prepare
from .radiomapseer import RadioMapSeer
from .scene import Scene
from .units import db_to_gain, gain_to_db

__all__ = [
    "Augmentation",
    "DataError",
    "FlatTree",
    "OwnSamples",
    "RadioMapDataset",
    "RadioMapSeer",
    "RadioUNet_c",
    "RandomAugmentation",
    "Scene",
    "close_dataloader",
    "create_dataloader",
    "db_to_gain",
    "gain_to_db",
    "open_tree",
    "prepare",
    "process_batch",
    "training_loader",
]
