"""The flat tree: `images/NAME.png`, `conditions/NAME.npy`, and optionally `masks/NAME.png`, paired by name."""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..geometry.layout import Layout
from ..hashing import file_digest
from ..scene import Scene, read_grey
from .radiomapseer import RadioMapSeer, check_root, is_radiomapseer


def is_flat_tree(root: Path) -> bool:
    """Whether a folder looks like a flat tree."""
    return (root / "images").is_dir() and (root / "conditions").is_dir()


class FlatTree:
    """Scenes with ready-made conditions in place of buildings and transmitters.

    Args:
        data_root: the folder.
        max_samples: use only the first names.

    Raises:
        DataError: an image without its condition or vice versa, or no image.
    """

    def __init__(self, data_root: str | Path, max_samples: int | None = None):
        self.root = check_root(data_root)
        images, conditions = (
            {p.stem for p in (self.root / f).glob(g)} for f, g in (("images", "*.png"), ("conditions", "*.npy"))
        )
        lonely = sorted(images ^ conditions)
        if lonely:
            name = lonely[0]
            missing = f"conditions/{name}.npy" if name in images else f"images/{name}.png"
            raise DataError(f"{self.root}: {missing} is missing ({len(lonely)} names have no partner)")
        if not images:
            raise DataError(f"{self.root / 'images'}: holds no PNG")
        self.names = sorted(images)[:max_samples]
        self.report = f"{self.root}: {len(self.names)} images with conditions"

    def __len__(self) -> int:
        return len(self.names)

    def identity(self) -> dict[str, object]:
        """What is read, in JSON types; changes when a file changes."""
        parts = (("images", "png"), ("conditions", "npy"), ("masks", "png"))
        files = [self.root / folder / f"{name}.{suffix}" for folder, suffix in parts for name in self.names]
        return {"tree": str(self.root.resolve()), "files": file_digest(path for path in files if path.exists())}

    def image(self, index: int) -> np.ndarray:
        """Grey levels (H, W) float32 in [0, 1]."""
        return (read_grey(self.root / "images" / f"{self.names[index]}.png") / 255).astype(np.float32)

    def mask(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """Buildings (H, W) bool; all False if there is no mask file."""
        path = self.root / "masks" / f"{self.names[index]}.png"
        if not path.exists():
            return np.zeros(shape, bool)
        mask = read_grey(path)
        if mask.shape != shape:
            raise DataError(f"{path}: is {mask.shape[1]}x{mask.shape[0]} px, its image {shape[1]}x{shape[0]}")
        return mask > 127

    def scene(self, index: int) -> Scene:
        """Image, mask and condition as a scene. The map is zero where the mask is set."""
        image = self.image(index)
        mask = self.mask(index, image.shape)
        name, layout, gain = self.names[index], Layout.traced(mask), np.where(mask, 0, image)
        return Scene(name, layout, tx=None, gain=gain, tx_is_known=False, cond=self.cond(index))

    def cond(self, index: int) -> np.ndarray:
        """The condition (C, h, w) float32: any finite numbers, best of order 1.

        uint8 arrays are mapped from 0..255 to [-1, 1].

        Raises:
            DataError: names a file that is unreadable, not (C, h, w), or not finite.
        """
        path = self.root / "conditions" / f"{self.names[index]}.npy"
        try:
            array = np.load(path, allow_pickle=False)
        except Exception as error:  # numpy evaluates the header; a broken one can raise anything
            raise DataError(f"{path}: not a readable array of numbers ({type(error).__name__})") from error
        if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "uif":
            raise DataError(f"{path}: must be a (C, h, w) array of numbers")
        if array.dtype == np.uint8:
            return array.astype(np.float32) / 127.5 - 1
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{path}: holds values that are not finite numbers")
        return array


def open_tree(
    data_root: str | Path,
    simulation_type: str = "DPM",
    split: str = "all",
    missing_buildings: int = 0,
    max_samples: int | None = None,
) -> RadioMapSeer | FlatTree:
    """The scenes of a tree of either kind; a flat one has neither simulation types nor splits.

    Raises:
        DataError: the folder is neither kind of tree, or is incomplete.
    """
    root = check_root(data_root)
    if is_flat_tree(root):
        return FlatTree(root, max_samples)
    if is_radiomapseer(root):
        return RadioMapSeer(root, simulation_type, split, missing_buildings=missing_buildings, max_samples=max_samples)
    raise DataError(
        f"{root}: is not a data set; expected RadioMapSeer's gain/ and png/ folders, or images/ and conditions/"
    )
