"""The spellings that a configuration may use -> the names of schema.py.

Besides the names of schema.py a file may use CompVis' `target` / `params` wrappers around any section, a `model`
section, and the keys of the document's `optimization` section and data module. A `target` is looked up by its last
name in a table; a file never causes an import.
"""

import difflib
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from .schema import Config, Section, SourceConfig, number


class Setting(NamedTuple):
    """A value and the dotted key under which the user gave it."""

    value: Any
    source: str


def _sections(cls: type[Section], path: str) -> dict[str, type[Section]]:
    """{dotted path: model} of a section and all sections inside it."""
    found = {path: cls}
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= _sections(field.annotation, f"{path}.{name}".lstrip("."))
    return found


SECTIONS = _sections(Config, "")
_SOURCES = tuple(path for path, cls in SECTIONS.items() if cls is SourceConfig)

# section: the accepted last parts of its `target`, the classes whose settings it holds
TARGETS: dict[str, tuple[str, ...]] = {
    "": ("LatentDiffusion", "AutoencoderKL"),
    "first_stage_config": ("AutoencoderKL",),
    "first_stage_config.lossconfig": ("LPIPSWithDiscriminator",),
    "cond_stage_config": ("SwinConditionEncoder",),
    "unet_config": ("UNetModel", "Unet"),
    "data": ("DataModuleFromConfig",),
} | dict.fromkeys(_SOURCES, ("RadioUNet_c",))

# other names, as in a file without wrappers -> what they mean
ALIASES: dict[str, tuple[str, ...]] = {
    "optimization": ("trainer",),
    "first_stage_config.ddconfig.channels": ("first_stage_config.ddconfig.in_channels",),
    "data.batch_size": ("trainer.batch_size",),
    "data.data_root": ("data.train.data_root", "data.validation.data_root"),
    "data.simulation_type": ("data.train.simulation_type", "data.validation.simulation_type"),
    "trainer.lr": ("trainer.learning_rate",),
    "trainer.min_lr": ("trainer.min_learning_rate",),
    "trainer.lr_decay_power": ("trainer.lr_scheduler.power",),
    "trainer.weight_decay": ("trainer.optimizer.weight_decay",),
}


def _precision(value: Any) -> Any:
    """false -> no, true -> fp16."""
    return {True: "fp16", False: "no"}[value] if isinstance(value, bool) else value


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "trainer.mixed_precision": _precision,
    "trainer.optimizer": lambda value: {"type": value} if isinstance(value, str) else value,
    "trainer.lr_scheduler": lambda value: {"type": value} if isinstance(value, str) else value,
}


def spell(tree: Any, section: str = "") -> dict[str, Setting]:
    """All settings in a mapping, by their dotted path in schema.py.

    Args:
        tree: plain values.
        section: the dotted path that `tree` belongs to; "" is a whole configuration.

    Raises:
        ConfigError: an unknown key, an unknown target, or two spellings of one setting that disagree.
    """
    settings: dict[str, Setting] = {}
    for path, setting in _walk(tree, section, section):
        known = settings.setdefault(path, setting)
        if number(known.value) != number(setting.value):
            raise ConfigError(
                f"{known.source} is {known.value!r} but {setting.source} is {setting.value!r}, "
                f"and both mean {path}; keep one"
            )
    return settings


def _walk(tree: Any, section: str, source: str, wrappers: tuple[str, ...] = ()) -> Iterator[tuple[str, Setting]]:
    """Settings below `source`; `wrappers`: the wrappers of this section already entered."""
    if tree is None:
        return
    if isinstance(tree, Section):
        tree = {name: getattr(tree, name) for name in type(tree).model_fields if name in tree.model_fields_set}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{source or 'a configuration'} must be a mapping (key: value lines), not {reprlib.repr(tree)}"
        )
    for key, value in tree.items():
        here, path = f"{source}.{key}".lstrip("."), f"{section}.{key}".lstrip(".")
        if key == "target" and (section in TARGETS or "params" in tree):
            _check_target(section, value, here)
        elif _wraps(key, section) and key not in wrappers:
            yield from _walk(value, section, here, (*wrappers, key))
        elif path == "data.wrap":
            if value is not False:
                raise ConfigError(f"{here} must be false: there is no wrapper around the datasets; leave it out")
        else:
            for meant in _meanings(path, section, key, here):
                converted = CONVERSIONS.get(meant, _plain)(value)
                if meant in SECTIONS:
                    yield from _walk(converted, meant, here)
                else:
                    yield meant, Setting(converted, here)


def _plain(value: Any) -> Any:
    """Tuples become lists, paths become texts, and the text None, which PyYAML does not convert, becomes None."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else None if isinstance(value, str) and value == "None" else value


def _wraps(key: Any, section: str) -> bool:
    """Whether the key's mapping is merged into the section that contains it."""
    return key == "params" or (key == "model" and not section) or (key == "additional_params" and section in _SOURCES)


def _meanings(path: str, section: str, key: Any, here: str) -> tuple[str, ...]:
    """The dotted paths that a key sets."""
    if key in SECTIONS[section].model_fields:
        return (path,)
    if path in ALIASES:
        return ALIASES[path]
    raise ConfigError(f"{here!s:.200} is not a known key; {_suggestion(section, str(key), here)}".replace("\n", " "))


def _suggestion(section: str, key: str, here: str) -> str:
    """The nearest known key of the section, else the nearest of all sections, else all keys of the section."""
    aliases = [path.rsplit(".", 1)[-1] for path in ALIASES if path.rpartition(".")[0] == section]
    near = difflib.get_close_matches(key[:80], [*SECTIONS[section].model_fields, *aliases], n=1)
    if near:
        return f"did you mean {here.removesuffix(key)}{near[0]}?"
    everywhere = {name: f"{path}.{name}".lstrip(".") for path, cls in SECTIONS.items() for name in cls.model_fields}
    near = difflib.get_close_matches(key[:80], everywhere, n=1, cutoff=0.8)
    return (
        f"did you mean {everywhere[near[0]]}?" if near else f"known here: {', '.join(SECTIONS[section].model_fields)}"
    )


def _check_target(section: str, target: Any, here: str) -> None:
    known = TARGETS.get(section, ())
    if str(target).rsplit(".", 1)[-1] not in known:
        listed = f"known here: {', '.join(known)}" if known else "this section takes none, leave it out"
        raise ConfigError(f"{here}: {reprlib.repr(target)} is not a known class; {listed}")
