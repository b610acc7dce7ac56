"""Named splits, always by map, so that no city is in two of them.

`train`, `val`, `test` mean, in this order of precedence:

1. `ROOT/splits/NAME.txt`, if it exists: one map id (`12`) or scene (`12_3`) per line. Any other name works this way.
2. In a tree with `ROOT/dataset.json` (made by scripts/make_dataset.py): the first 80 % of its map ids, the next 10 %,
   the rest.
3. Otherwise RadioMapSeer's standard split (RadioUNet): ids 0..699 shuffled by numpy's seed 42, positions 0-500,
   501-600, 601-699; its loaders count maps from 1, so id = shuffled + 1.

`radiodiff_train` / `radiodiff_test` are RadioDiff's positions 0-600 and 600-699, which share one map; use them only to
reproduce its results. `all` is everything.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import DataError

STANDARD = {
    "train": slice(0, 501),
    "val": slice(501, 601),
    "test": slice(601, 700),
    "radiodiff_train": slice(0, 601),
    "radiodiff_test": slice(600, 700),
}
SIMULATED = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


def spread(length: int, count: int) -> list[int]:
    """`count` numbers spread evenly over 0 .. length - 1, or all of them if there are fewer."""
    count = min(length, count)
    return [place * length // count for place in range(count)]


def standard_split(name: str) -> set[int]:
    """Map ids (1..700) of a standard split."""
    ids = np.arange(700)
    np.random.RandomState(42).shuffle(ids)
    return {int(i) + 1 for i in ids[STANDARD[name]]}


def select(root: Path, name: str, scenes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (map, transmitter) pairs of a split, in the order given.

    Raises:
        DataError: the name is unknown, or its file contains something other than ids.
    """
    scenes = list(scenes)
    own = root / "splits" / f"{name}.txt"
    if own.is_file():
        wanted = _read_split(own)
        return [s for s in scenes if str(s[0]) in wanted or f"{s[0]}_{s[1]}" in wanted]
    if name == "all":
        return scenes
    if (root / "dataset.json").is_file() and name in SIMULATED:
        maps = sorted({scene[0] for scene in scenes})
        start, end = (round(share * len(maps)) for share in SIMULATED[name])
        chosen = set(maps[start:end])
    elif name in STANDARD:
        chosen = standard_split(name)
    else:
        files = sorted(path.stem for path in (root / "splits").glob("*.txt"))
        raise DataError(
            f"{root}: no split {name!r}; known: {', '.join(['all', *STANDARD, *files])}, or splits/{name}.txt"
        )
    return [scene for scene in scenes if scene[0] in chosen]


def _read_split(path: Path) -> set[str]:
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable text ({error})") from error
    odd = [word for word in words if not all(part.isdecimal() for part in word.split("_")) or word.count("_") > 1]
    if odd:
        raise DataError(f"{path}: {odd[0]!r} is neither a map id (12) nor a scene (12_3)")
    return set(words)
