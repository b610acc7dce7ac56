"""Strict YAML -> the dataclasses of config_schema.py, and back.

An unknown, mistyped or contradictory setting is a ConfigError of one line that begins with the file and names the key.
The accepted spellings are listed in config_spelling.py, ranges in config_values.py, derivations in config_resolve.py.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .config_resolve import resolve
from .config_schema import Config
from .config_spelling import SECTIONS, Settings, spell
from .config_values import apply, checked_copy, flatten
from .config_yaml import plain, read_file, read_text, same, show, write_text
from .errors import ConfigError

__all__ = ["differences", "load_config", "parse_config", "placeholders", "resolve", "section", "to_dict", "to_yaml"]

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_MIN_LR, _RATIO, _LR = "trainer.min_learning_rate", "trainer.lr_scheduler.min_lr_ratio", "trainer.learning_rate"
_INHERITED = ("data_root", "simulation_type", "missing_buildings")  # by data.validation from data.train

Section = TypeVar("Section")


def load_config(path: str | Path, overrides: Sequence[str] = (), *, stage: str = "ldm") -> Config:
    """Read a YAML file, apply the command line, fill defaults and everything derived, check it all.

    Args:
        path: the file; an empty one means the document's values.
        overrides: `key=value` strings, dotted keys in any spelling, values in YAML. They win over the file, its other
            spellings of the same setting included. A changed `data.train` changes a `data.validation` that was the
            same; a changed `trainer.learning_rate` keeps the file's `min_lr_ratio`.
        stage: `vae` or `ldm`.

    Returns:
        a resolved Config.

    Raises:
        ConfigError: one line that begins with the file's name.
    """
    tree = read_file(path)
    with _named(path):
        return resolve(_build(tree, overrides), stage)


def parse_config(mapping: Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> Config:
    """A Config from a mapping in any spelling; nothing derived yet (see `resolve`).

    Raises:
        ConfigError: naming the key.
    """
    return _build(plain(mapping), overrides)


def section(kind: str | type[Section], value: Any = None) -> Section:
    """One section from a mapping in any spelling, from its dataclass (checked copy), or from None (its defaults).

    Args:
        kind: a dotted name such as `first_stage_config` or `data.train`, or the section's dataclass.

    Raises:
        ConfigError: naming the key.
    """
    name = next((path for path, cls in SECTIONS.items() if kind in (path, cls)), None)
    if name is None:
        raise ConfigError(f"{show(kind)} is no section; there are {', '.join(path for path in SECTIONS if path)}")
    cls = SECTIONS[name]
    if isinstance(value, cls):
        return checked_copy(value, f"{name}." if name else "")
    settings = spell(plain(value), name)
    outside = next((setting.source for path, setting in settings.items() if not path.startswith(name)), None)
    if outside:
        raise ConfigError(f"{outside} belongs to another section")
    return apply(cls(), {path.removeprefix(f"{name}."): setting for path, setting in settings.items()})


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values; `parse_config` makes an equal Config of them."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """YAML with every setting, which loads back to an equal Config (once resolved)."""
    return write_text(to_dict(config))


def differences(a: Config, b: Config) -> list[str]:
    """What differs, a line a setting: `trainer.seed: 0 -> 1`."""
    before, after = flatten(a), flatten(b)
    return [f"{key}: {show(before[key])} -> {show(after[key])}" for key in before if before[key] != after[key]]


def placeholders(config: Config) -> list[str]:
    """Dotted keys whose value is still a placeholder of a template (`path/to/...`, `specific_type`)."""
    return [
        key
        for key, value in flatten(config).items()
        if isinstance(value, str) and (re.search(r"(^|/)path/to(/|$)", value) or value == "specific_type")
    ]


def _build(tree: Any, overrides: Sequence[str]) -> Config:
    settings = spell(tree)
    changes: Settings = {}
    for override in overrides:
        changes |= spell(_override_tree(override))  # the last of several wins
    for path in _superseded(settings, changes):
        settings.pop(path, None)
    settings |= changes
    for name in _INHERITED:
        if f"data.train.{name}" in settings:
            settings.setdefault(f"data.validation.{name}", settings[f"data.train.{name}"])
    return apply(Config(), settings)


def _override_tree(override: str) -> dict[str, Any]:
    """`a.b=1` -> {a: {b: 1}}."""
    key, equals, text = override.partition("=")
    if not equals or not _OVERRIDE.fullmatch(key):
        raise ConfigError(f"{show(override)} on the command line is not key=value, e.g. trainer.batch_size=4")
    try:
        tree = read_text(text)
    except ConfigError as error:
        raise ConfigError(f"{key}={show(text)} on the command line: {error}; quote the value as YAML does") from error
    parts = key.split(".")
    if len(parts) > 20:
        raise ConfigError(f"{show(key)} on the command line is not a known key")
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def _superseded(settings: Settings, changes: Settings) -> list[str]:
    """Settings of the file that follow what the command line changes.

    These are the floor of the learning rate, which has two forms, and a validation source that is the training source.
    """
    given = {path for path, setting in changes.items() if setting.value is not None}
    dropped = []
    if _MIN_LR in given and _RATIO not in given:
        dropped.append(_RATIO)
    if _RATIO in given and _MIN_LR not in given:
        dropped.append(_MIN_LR)
    if _LR in given and not {_MIN_LR, _RATIO} & given and settings.get(_RATIO, (None,))[0] is not None:
        dropped.append(_MIN_LR)  # the ratio stays
    for name in _INHERITED:
        train, validation = f"data.train.{name}", f"data.validation.{name}"
        both = train in settings and validation in settings
        if train in changes and both and same(settings[train].value, settings[validation].value):
            dropped.append(validation)
    return dropped


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Begin the message of every ConfigError with `name`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
