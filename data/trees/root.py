"""The folder that a user names: is it a data set, and if not, is one above or below it?"""

from itertools import chain
from pathlib import Path

from ..errors import DataError


def is_flat_tree(root: Path) -> bool:
    """Whether a folder looks like a flat tree (folder.py)."""
    return (root / "images").is_dir() and (root / "conditions").is_dir()


def is_radiomapseer(root: Path) -> bool:
    """Whether a folder looks like a RadioMapSeer tree (radiomapseer.py)."""
    return (root / "gain").is_dir() or (root / "png").is_dir()


def check_root(data_root: str | Path | None) -> Path:
    """The folder as a Path; raises DataError that says what is wrong with it."""
    if data_root is None:
        raise DataError("data_root is not set; name the folder of your data")
    if str(data_root).startswith("path/to"):
        raise DataError(f"{data_root}: is a placeholder; set data_root to the folder of your data")
    root = Path(data_root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (data_root)")
    if is_flat_tree(root) or is_radiomapseer(root):
        return root
    near = chain(sorted(root.glob("*/")), sorted(root.glob("*/*/")), list(root.absolute().parents)[:2])
    meant = next((folder for folder in near if is_flat_tree(folder) or is_radiomapseer(folder)), None)
    hint = f"; did you mean {meant}?" if meant else ""
    raise DataError(
        f"{root}: is not a data set; expected RadioMapSeer's gain/ and png/ folders, or images/ and conditions/{hint}"
    )
