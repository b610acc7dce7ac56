"""Named splits of a tree. `all` is everything; what another name means is decided in this order:

1. `ROOT/splits/NAME.txt`, if it exists, one entry per line: the name of a scene or an image, or a city (`12`), which
   stands for all its scenes CITY_TX. Any name works this way.
2. The rule of the tree, see below. It keeps the scenes of a city together, and leaves out cities that occur in a file
   of `train`, `val` or `test`.
"""

import re
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import decoded, read_bytes
from ..hashing import random_key

STANDARD = {  # RadioUNet's, positions in ids 0..699 shuffled by numpy's seed 42; its loaders count cities from 1
    "train": slice(0, 501),
    "val": slice(501, 601),
    "test": slice(601, 700),
    "radiodiff_train": slice(0, 601),  # RadioDiff's share one city; use them only to reproduce its results
    "radiodiff_test": slice(600, 700),
}
ORDERED = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
HASHED = (*["train"] * 8, "val", "test")  # by the last digit of the hash

STANDARD_RULE = "RadioUNet's standard split"
ORDERED_RULE = "cities in order, 80 / 10 / 10 %"  # of trees that scripts/make_dataset.py made
HASHED_RULE = "by a hash of the name, about 80 / 10 / 10 %"  # of flat trees; adding files moves none


def city_name(name: str) -> str:
    """The city of a scene CITY_TX, or else the name."""
    return re.sub(r"^(\d+)_\d+$", r"\1", name)


def standard_split(split: str) -> set[int]:
    """City ids (1..700) of a standard split."""
    ids = np.arange(700)
    np.random.RandomState(42).shuffle(ids)
    return {int(i) + 1 for i in ids[STANDARD[split]]}


def _by_rule(split: str, keys: set[str], rule: str) -> set[str]:
    """The keys of a tree that belong to a split."""
    if rule == STANDARD_RULE:
        return keys & set(map(str, standard_split(split)))
    if rule == HASHED_RULE:
        return {key for key in keys if HASHED[random_key("split", key) % 10] == split}
    start, end = (round(fraction * len(keys)) for fraction in ORDERED[split])
    return set(sorted(keys, key=int)[start:end])


def known_splits(root: Path, rule: str) -> list[str]:
    return list(dict.fromkeys([*(STANDARD if rule == STANDARD_RULE else ORDERED), *own_splits(root)]))


def own_splits(root: Path) -> list[str]:
    """Names of the splits that have a file; DataError for `Train.txt`, which would not be read for `train`."""
    names = sorted(path.stem for path in (root / "splits").glob("[!.]*.txt"))
    if odd := [name for name in names if name not in ORDERED and name.lower() in ORDERED]:
        raise DataError(f"{root}: splits/{odd[0]}.txt is not read for {odd[0].lower()}; write its name in lower case")
    return names


def select(root: Path, split: str, names: list[str], rule: str) -> list[str]:
    """The names of a split, in the order given; DataError for an unknown or empty one, or a file that lists anything else."""
    chosen = members(root, split, names, rule)
    if not chosen:
        known = ", ".join(["all", *known_splits(root, rule)])
        raise DataError(
            f"{root}: no split {split!r} with any of the {len(names)} scenes that are there; known: {known} ({rule}, "
            "without what another split's file lists); list your own in splits/NAME.txt"
        )
    return chosen


def members(root: Path, split: str, names: list[str], rule: str) -> list[str]:
    """The names that a split's file lists, or else those that the rule selects and no other split's file lists."""
    own = own_splits(root)
    if split in own:
        return _listed(root, split, names)
    if split not in known_splits(root, rule):
        return names if split == "all" else []
    listed = {city_name(name) for other in ORDERED if other in own for name in _listed(root, other, names)}
    chosen = _by_rule(split, set(map(city_name, names)), rule) - listed
    return [name for name in names if city_name(name) in chosen]


def _listed(root: Path, split: str, names: list[str]) -> list[str]:
    """The names that the file of a split lists; of a partial download, cities and scenes may be absent."""
    path = root / "splits" / f"{split}.txt"
    entries = {line.strip().removesuffix(".png") for line in decoded(read_bytes(path)).splitlines()} - {""}
    odd = [entry for entry in sorted(entries.difference(names)) if not re.fullmatch(r"\d+(_\d+)?", entry)]
    if odd:
        raise DataError(f"{path}: {odd[0]!r} is neither a scene of this tree nor a city (one entry per line)")
    return [name for name in names if {name, city_name(name)} & entries]


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` numbers spread evenly over 0 .. length - 1, or all of them if there are fewer."""
    count = min(length, count)
    return [place * length // count for place in range(count)]
