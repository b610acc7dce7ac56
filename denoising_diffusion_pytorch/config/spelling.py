"""The document's other names for settings -> the names of schema.py.

A file may wrap a section into `target` and `params`, and may use the keys of the document's `optimization` section and
data module. A `target` is looked up by its last name; a file never causes an import.
"""

import difflib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from .schema import DEFAULTS, Section, number

SECTIONS = {""} | {key.rpartition(".")[0] for key in DEFAULTS}
SOURCES = ("data.train", "data.validation", "sample.source")
TARGETS = {  # section: the last part of its `target`, the class whose settings it holds
    "": "LatentDiffusion",
    "first_stage_config": "AutoencoderKL",
    "cond_stage_config": "SwinConditionEncoder",
    "unet_config": "UNetModel",
    "data": "DataModuleFromConfig",
} | dict.fromkeys(SOURCES, "RadioUNet_c")
ALIASES = {  # as in a file without wrappers
    "optimization": "trainer",
    "first_stage_config.ddconfig.channels": "first_stage_config.ddconfig.in_channels",
    "data.batch_size": "trainer.batch_size",
    "trainer.lr": "trainer.learning_rate",
    "trainer.min_lr": "trainer.min_learning_rate",
    "trainer.lr_decay_power": "trainer.lr_scheduler.power",
    "trainer.weight_decay": "trainer.optimizer.weight_decay",
}


class Setting(NamedTuple):
    """A value and the dotted key under which the user gave it."""

    value: Any
    source: str


def spell(tree: Any) -> dict[str, Setting]:
    """All settings in a configuration of plain values (or sections), by their dotted path in schema.py; a ConfigError for an
    unknown key or target, or two spellings of one setting that disagree.
    """
    settings: dict[str, Setting] = {}
    for path, value, source in _walk(tree, "", ""):
        known = settings.setdefault(path, Setting(value, source))
        if number(known.value) != number(value):
            both = f"{known.source} is {known.value!r} but {source} is {value!r}"
            raise ConfigError(f"{both}, and both mean {path}; keep one")
    return settings


def _walk(tree: Any, section: str, source: str, wrappers: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, str]]:
    """(path, value, key in the file) of all settings below `source`; `wrappers`: those of this section already entered."""
    if isinstance(tree, Section):
        tree = {name: getattr(tree, name) for name in type(tree).model_fields if name in tree.model_fields_set}
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{source or 'the file'} must be a mapping (key: value lines), not {reprlib.repr(tree)}")
    for key, value in (tree or {}).items():
        here, path = f"{source}.{key}".lstrip("."), f"{section}.{key}".lstrip(".")
        path = ALIASES.get(path, path)
        wraps = key == "params" or path == "model" or (key == "additional_params" and section in SOURCES)
        if key == "target" and (section in TARGETS or "params" in tree):
            known = TARGETS.get(section, "nothing; this section takes none, leave it out")
            if str(value).rsplit(".", 1)[-1] != known:
                raise ConfigError(f"{here}: {reprlib.repr(value)} is not a known class; known here: {known}")
        elif wraps and key not in wrappers:
            yield from _walk(value, section, here, (*wrappers, key))
        elif path in SECTIONS:
            yield from _walk(_plain(path, value), path, here)
        elif path in DEFAULTS:
            yield path, _plain(path, value), here
        elif path != "data.wrap" or value is not False:
            said = f"{here:.200} is not a known key; {_suggestion(section, str(key), here)}"
            raise ConfigError(said.replace("\n", " "))


def _plain(path: str, value: Any) -> Any:
    """Tuples -> lists, paths -> texts, the text None (which PyYAML does not convert) -> None, and the document's short forms."""
    if path in ("trainer.optimizer", "trainer.lr_scheduler") and isinstance(value, str):
        return {"type": value}
    if path == "trainer.mixed_precision" and isinstance(value, bool):
        return "fp16" if value else "no"
    value = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return None if isinstance(value, str) and value == "None" else value


def _suggestion(section: str, key: str, here: str) -> str:
    """The nearest known key of the section, else the nearest of all sections, else all keys of the section."""
    if here.endswith("wrap"):
        return "there is no wrapper around the datasets"
    known = [path.removeprefix(section) for path in [*SECTIONS, *DEFAULTS, *ALIASES] if path.startswith(section)]
    names = sorted({path.lstrip(".").partition(".")[0] for path in known} - {""})
    for near in difflib.get_close_matches(key[:80], names, n=1):
        return f"did you mean {here.removesuffix(key)}{near}?"
    everywhere = {path.rpartition(".")[2]: path for path in reversed([*DEFAULTS])}
    for near in difflib.get_close_matches(key[:80], everywhere, n=1, cutoff=0.8):
        return f"did you mean {everywhere[near]}?"
    return f"known here: {', '.join(names)}"
