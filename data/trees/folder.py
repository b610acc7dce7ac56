"""The flat tree: `images/NAME.png`, `conditions/NAME.npy` and optionally `masks/NAME.png`, paired by name. Opens any tree."""

from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..geometry.layout import Layout
from ..hashing import file_digest
from ..scene import Scene
from .png import read_grey, read_map
from .radiomapseer import RadioMapSeer
from .splits import HASHED_RULE, select

PARTS = ("gain", "png", "polygon", "antenna", "images", "conditions", "masks")  # folders of trees of both kinds


class Tree(Protocol):
    """What a dataset on disk offers."""

    root: Path
    rule: str  # of its splits, one of splits.py
    names: list[str]  # of the chosen split's scenes
    report: str  # what was found, and what is missing

    def __len__(self) -> int: ...

    def scene(self, index: int) -> Scene: ...

    def identity(self) -> dict[str, object]: ...


class FlatTree:
    """Scenes with ready-made conditions, see `RadioMapSeer`; DataError for no or unpaired images, or an unknown split."""

    def __init__(self, data_root: str | Path, split: str = "all", max_samples: int | None = None):
        self.root, self.rule = Path(data_root), HASHED_RULE
        images, conditions, masks = (
            {path.stem for path in self.root.glob(pattern)}  # hidden files belong to other programs
            for pattern in ("images/[!.]*.png", "conditions/[!.]*.npy", "masks/[!.]*.png")
        )
        unpaired = sorted(images ^ conditions)
        if unpaired or not images:
            name = unpaired[0] if unpaired else "NAME"
            missing = f"conditions/{name}.npy" if name in images else f"images/{name}.png"
            raise DataError(f"{self.root}: {missing} is missing ({len(unpaired)} names have no partner)")
        if masks - images:
            raise DataError(f"{self.root}: masks/{min(masks - images)}.png belongs to no image")
        if odd := [path for path in self.root.glob("masks/[!.]*") if path.stem in images - masks]:
            raise DataError(f"{odd[0]}: is not a .png, and would be ignored; convert or rename it")
        self.names = select(self.root, split, sorted(images), self.rule)[:max_samples]
        self.report = f"{self.root}: {len(images)} images with conditions; split {split}: {len(self.names)}"

    def __len__(self) -> int:
        return len(self.names)

    def identity(self) -> dict[str, object]:
        """What is read, in JSON types; changes when a file changes."""
        kinds = ("images/{}.png", "conditions/{}.npy", "masks/{}.png")
        return {"files": file_digest(self.root, (kind.format(name) for kind in kinds for name in self.names))}

    def scene(self, index: int) -> Scene:
        """Image, mask and condition as a scene. The map is zero where the mask is set; without a mask nothing is built."""
        name = self.names[index]
        image, mask = self.pictures(index)
        gain = np.where(mask, 0, image)
        return Scene(name, Layout.traced(mask), tx=None, gain=gain, tx_is_known=False, cond=self.cond(index))

    def pictures(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Grey levels (H, H) float32 as they are in the file, and the mask (H, H) bool, bright pixels or ones."""
        name = f"{self.names[index]}.png"
        image, path = read_map(self.root / "images" / name), self.root / "masks" / name
        pixels = read_grey(path, image.shape) if path.exists() else np.zeros(image.shape, np.uint8)
        return image, pixels > (127 if pixels.max() > 1 else 0)

    def cond(self, index: int) -> np.ndarray:
        """The condition (C, s, s) float32, any finite numbers; uint8 is mapped to [-1, 1]. A DataError names an unusable file."""
        path = self.root / "conditions" / f"{self.names[index]}.npy"
        try:
            array = np.load(path, allow_pickle=False)
        except Exception as error:  # numpy evaluates the header; a broken one can raise anything
            raise DataError(f"{path}: not a readable array of numbers ({type(error).__name__})") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
            raise DataError(f"{path}: not an array of numbers; conditions are integers or floating point numbers")
        if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.size:
            raise DataError(f"{path}: has shape {array.shape}; conditions are square arrays of numbers, (C, s, s)")
        if array.dtype == np.uint8:
            return array.astype(np.float32) / 127.5 - 1
        with np.errstate(over="ignore"):  # too large for float32: not finite
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{path}: holds values that are not finite numbers")
        return array


def is_part_of(root: Path, folder: Path) -> bool:
    """Whether a folder is one of those in which the files of the tree at `root` are, or the tree itself."""
    root, folder = root.resolve(), folder.resolve()
    return folder == root or any(folder.is_relative_to(root / part) for part in PARTS)


def _is_flat(root: Path) -> bool:
    return (root / "images").is_dir() and (root / "conditions").is_dir()


def _is_tree(root: Path) -> bool:
    return _is_flat(root) or (root / "gain").is_dir()


def open_tree(
    data_root: str | Path | None,
    simulation_type: str = "DPM",
    split: str = "all",
    missing_buildings: int = 0,
    max_samples: int | None = None,
) -> Tree:
    """The scenes of a tree of either kind; raises DataError for a folder that is neither, or is incomplete."""
    if data_root is None or not Path(data_root).is_dir():
        raise DataError(f"{data_root}: no such folder; set data_root to the folder of your data")
    root = Path(data_root)
    if not _is_tree(root):
        near = chain(sorted(root.glob("*/")), sorted(root.glob("*/*/")), list(root.absolute().parents)[:2])
        meant = next((f"; did you mean {folder}?" for folder in near if _is_tree(folder)), "")
        raise DataError(f"{root}: is not a dataset; expected RadioMapSeer's gain/, or images/ and conditions/{meant}")
    if _is_flat(root):
        if missing_buildings:
            raise DataError(f"{root}: has ready-made conditions; no buildings can be left out (missing_buildings)")
        return FlatTree(root, split, max_samples)
    return RadioMapSeer(root, simulation_type, split, missing_buildings=missing_buildings, max_samples=max_samples)
