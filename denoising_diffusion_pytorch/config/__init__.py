"""Strict YAML -> the models of schema.py, and back.

An unknown, mistyped or contradictory setting is a ConfigError of one line that begins with the file and names the key.
The accepted spellings are listed in spelling.py, types and ranges in schema.py, what follows from what in derive.py.
"""

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ConfigError
from .derive import STAGES, derive
from .schema import Config, DDConfig, FirstStageConfig, Section
from .spelling import SECTIONS, Setting, spell

__all__ = ["differences", "load_config", "parse_config", "placeholders", "resolve", "section", "to_dict", "to_yaml"]

_MIN_LR, _RATIO, _LR = "trainer.min_learning_rate", "trainer.lr_scheduler.min_lr_ratio", "trainer.learning_rate"


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    stage: str = "ldm",
    trained: Callable[[str], FirstStageConfig | None] | None = None,
) -> Config:
    """Read a YAML file, apply the command line, fill in defaults and derived values, and check everything.

    Args:
        path: the file; an empty one means the design document's values.
        overrides: `key=value` strings, dotted keys in any spelling, values in YAML. They override the file, including
            other spellings of the same setting. A changed `data.train` changes a `data.validation` that was the same;
            a changed `trainer.learning_rate` keeps the file's `min_lr_ratio`.
        stage: `vae`, `ldm` or `baseline`.
        trained: returns the autoencoder's settings for the path of a checkpoint, or None if it is not one of ours.
            Stage 2 takes from there what the file does not say about the autoencoder's architecture.

    Returns:
        A resolved Config.

    Raises:
        ConfigError: one line that begins with the file's name.
    """
    with _named(path):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be read ({error})") from error
        config = parse_config(_read_yaml(text), overrides)
        if trained is not None and stage == "ldm":
            _adopt_architecture(config, trained)
        config = resolve(config, stage)
        if config.data.cond_channels is None:
            given = config.cond_stage_config.in_channels
            raise ConfigError(
                f"cond_stage_config.in_channels is {given}; name that many data.cond_channels, or leave it out"
            )
        return config


def parse_config(mapping: Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> Config:
    """A Config from a mapping in any spelling, with nothing derived yet (see `resolve`).

    Raises:
        ConfigError: naming the key.
    """
    settings = spell(mapping)
    changes: dict[str, Setting] = {}
    for override in overrides:
        changes |= spell(_override_tree(override))  # the last of several wins
    for path in _superseded(settings, changes):
        settings.pop(path, None)
    return _validated(Config, settings | changes)


def section(name: str, value: Any = None) -> Any:
    """One section from a mapping in any spelling, from its model (checked copy), or from None (its defaults).

    Args:
        name: dotted, such as `first_stage_config` or `data.train`.

    Raises:
        ConfigError: naming the key.
    """
    if name not in SECTIONS:
        raise ConfigError(f"{name!r} is no section; there are {', '.join(path for path in SECTIONS if path)}")
    settings = spell(value, name)
    prefix = f"{name}."
    outside = next((setting.source for path, setting in settings.items() if not path.startswith(prefix)), None)
    if outside:
        raise ConfigError(f"{outside} belongs to another section")
    return _validated(SECTIONS[name], settings, prefix)


def resolve(config: Config, stage: str) -> Config:
    """A complete copy of `config`, in which every field that can be derived is filled.

    Args:
        config: as read or constructed; not changed.
        stage: `vae` (checks only what the autoencoder needs), `ldm`, or `baseline` (whose side is data.image_size).

    Raises:
        ConfigError: naming the key, or the keys that contradict each other.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")
    _validated(Config, {path: Setting(value, path) for path, value in _flatten(to_dict(config)).items()})
    config = config.model_copy(deep=True)
    derive(config, stage)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values; `parse_config` makes an equal Config from them."""
    return config.model_dump()


def to_yaml(config: Config) -> str:
    """YAML with every setting; it loads back to an equal Config, once resolved."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def differences(a: Config, b: Config) -> list[str]:
    """What differs, one line per setting: `trainer.seed: 0 -> 1`."""
    before, after = _flatten(to_dict(a)), _flatten(to_dict(b))
    return [f"{key}: {before[key]!r} -> {after[key]!r}" for key in before if before[key] != after[key]]


def placeholders(config: Config) -> list[str]:
    """Dotted keys whose value is still a placeholder of a template (`path/to/...`, `specific_type`)."""
    return [
        key
        for key, value in _flatten(to_dict(config)).items()
        if isinstance(value, str) and (re.search(r"(^|/)path/to(/|$)", value) or value == "specific_type")
    ]


def _adopt_architecture(config: Config, trained: Callable[[str], FirstStageConfig | None]) -> None:
    """Fill what a file leaves out about its autoencoder's architecture from its own run, else from the checkpoint it names."""
    ours, trainer = config.first_stage_config, config.trainer
    own = trainer.results_folder or STAGES["ldm"] if trainer.enable_resume else None
    places = [place for place in (own, ours.ckpt_path, trainer.init_from) if place]
    theirs = next((found for place in places if (found := trained(place)) is not None), None)
    if theirs is None:
        return
    if "embed_dim" not in ours.model_fields_set:
        ours.embed_dim = theirs.embed_dim
    left_out = DDConfig.model_fields.keys() - ours.ddconfig.model_fields_set - {"z_channels"}  # follows from embed_dim
    ours.ddconfig = ours.ddconfig.model_copy(update={name: getattr(theirs.ddconfig, name) for name in left_out})


def _read_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: impossible dates, deep nesting
        raise ConfigError(f"is not valid YAML ({' '.join(str(error).split())})") from error


def _override_tree(override: str) -> dict[str, Any]:
    """`a.b=1` -> {a: {b: 1}}."""
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+){0,20}", key, re.ASCII):
        raise ConfigError(f"{reprlib.repr(override)} on the command line is not key=value, e.g. trainer.batch_size=4")
    if not text:
        raise ConfigError(f"{key}= on the command line has no value; write {key}=null for the default")
    try:
        tree = _read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{key}={text} on the command line: {error}; quote the value as YAML does") from error
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _superseded(settings: dict[str, Setting], changes: dict[str, Setting]) -> list[str]:
    """Settings of the file that must follow what the command line changes.

    These are the minimum learning rate, which has two forms, and a validation source equal to the training source.
    """
    dropped = []
    if _MIN_LR in changes and _RATIO not in changes:
        dropped.append(_RATIO)
    elif _RATIO in changes or (_LR in changes and _RATIO in settings and settings[_RATIO].value is not None):
        dropped.append(_MIN_LR)
    for train, setting in changes.items():
        validation = train.replace("data.train.", "data.validation.")
        if train in settings and settings[train].value == settings.get(validation, setting).value:
            dropped.append(validation)
    return [path for path in dropped if path not in changes]


def _validated(cls: type[Section], settings: Mapping[str, Setting], prefix: str = "") -> Any:
    """A checked section from its settings; `prefix`: its dotted name and a dot, with which their paths begin."""
    tree: dict[str, Any] = {}
    for path, setting in settings.items():
        *parents, name = path.removeprefix(prefix).split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = setting.value
    try:
        return cls.model_validate(tree)
    except ValidationError as errors:
        first = errors.errors()[0]
        path = prefix + ".".join(map(str, first["loc"]))
        known = next(known for known in settings if f"{path}.".startswith(f"{known}."))
        given = reprlib.repr(first["input"])
        raise ConfigError(f"{settings[known].source}: {first['msg']}, not {given}") from errors


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted path: value}; lists count as values."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Begin the message of every ConfigError with `name`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
