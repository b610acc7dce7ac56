"""Strict YAML -> the models of schema.py, and back.

An unknown, mistyped or contradictory setting is a ConfigError of one line that names the key.
"""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ConfigError
from .derive import STAGES, derive, ignored
from .schema import DEFAULTS, Config, FirstStageConfig, get
from .spelling import Setting, spell

_LR, _RATIO, _MIN_LR = "trainer.learning_rate", "trainer.lr_scheduler.min_lr_ratio", "trainer.min_learning_rate"


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    stage: str = "ldm",
    trained: Callable[[str], FirstStageConfig | None] | None = None,
) -> Config:
    """A complete Config from a YAML file (an empty one means the design document's values) and the command line.

    Args:
        overrides, stage: see `parse_config` and `resolve`.
        trained: path of a checkpoint -> the autoencoder's settings, or None if it is not one of ours. Stage 2 takes
            from there what the file does not say about the autoencoder's architecture.

    Raises:
        ConfigError: one line that begins with the file's name.
    """
    try:
        config = parse_config(_read_yaml(Path(path).read_text(encoding="utf-8")), overrides)
        if trained is not None and stage == "ldm":
            _adopt_architecture(config, trained)
        config = resolve(config, stage)
        if config.data.cond_channels is None:
            given = f"cond_stage_config.in_channels is {config.cond_stage_config.in_channels}"
            raise ConfigError(f"{given}; name that many data.cond_channels, or leave it out")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return config


def parse_config(mapping: Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> Config:
    """A Config from a mapping in any spelling, with nothing derived yet (see `resolve`).

    Args:
        mapping: plain values, or sections; what is left out has its default.
        overrides: `key=value` strings, dotted keys in any spelling, values in YAML. They override the mapping, other
            spellings of the same setting included. What can no longer act because of them is left out; a changed
            `data.train` changes a `data.validation` that was the same, a changed `trainer.learning_rate` keeps the
            mapping's `min_lr_ratio`.

    Raises:
        ConfigError: naming the key.
    """
    settings = spell(mapping)
    changes: dict[str, Setting] = {}
    for override in overrides:
        changes |= spell(_override_tree(override))  # the last of several wins
    for path in _superseded(settings, changes):
        settings.pop(path, None)
    config = _validated(settings | changes)
    void = ignored(config).keys() - changes.keys() if changes else ()
    for path in void - ignored(_validated(settings)).keys() if void else ():  # its own mistakes are not forgiven
        settings.pop(path, None)
    return _validated(settings | changes) if void else config


def resolve(config: Config, stage: str) -> Config:
    """A copy of `config` in which every field that can be derived is filled, for stage `vae`, `ldm` or `baseline`.

    Raises:
        ConfigError: naming the key, or the keys that contradict each other.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")
    parse_config(to_dict(config))
    config = config.model_copy(deep=True)
    for problem in derive(config, stage):
        raise ConfigError(problem)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values; `parse_config` makes an equal Config from them."""
    return config.model_dump()


def to_yaml(config: Config) -> str:
    """YAML with every setting; it loads back to an equal Config, once resolved."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def differences(a: Config, b: Config) -> list[str]:
    """What differs, one line per setting: `trainer.seed: 0 -> 1`."""
    return [f"{key}: {get(a, key)!r} -> {get(b, key)!r}" for key in DEFAULTS if get(a, key) != get(b, key)]


def placeholders(config: Config) -> list[str]:
    """Dotted keys whose value is still a placeholder of a template (`path/to/...`, `specific_type`)."""
    return [key for key in DEFAULTS if re.search("(^|/)path/to(/|$)|^specific_type$", str(get(config, key)))]


def _adopt_architecture(config: Config, trained: Callable[[str], FirstStageConfig | None]) -> None:
    """Fill what a file leaves out about its autoencoder's architecture from its own run, else from the checkpoint it names."""
    ours, trainer = config.first_stage_config, config.trainer
    own = trainer.results_folder or STAGES["ldm"] if trainer.enable_resume else None
    places = [place for place in (own, ours.ckpt_path, trainer.init_from) if place]
    theirs = next((found for place in places if (found := trained(place)) is not None), ours)
    if "embed_dim" not in ours.model_fields_set:
        ours.embed_dim = theirs.embed_dim
    given = ours.ddconfig.model_fields_set | {"z_channels"}  # which follows from embed_dim
    ours.ddconfig = theirs.ddconfig.model_copy(update={name: getattr(ours.ddconfig, name) for name in given})


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
    key, _, text = override.partition("=")
    if not text or not re.fullmatch(r"\w+(\.\w+){0,20}", key, re.ASCII):
        said = f"{reprlib.repr(override)} on the command line is not key=value"
        raise ConfigError(f"{said}, e.g. trainer.batch_size=4, or trainer.batch_size=null for the default")
    try:
        tree = _read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{key}={text} on the command line: {error}; quote the value as YAML does") from error
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _superseded(settings: dict[str, Setting], changes: dict[str, Setting]) -> set[str]:
    """Settings of a file that must follow what the command line changes: the lowest learning rate, which has two forms,
    and a validation source equal to the training source.
    """
    dropped = {_RATIO} if _MIN_LR in changes else set()
    if _RATIO in changes or (_LR in changes and _RATIO in settings and settings[_RATIO].value is not None):
        dropped.add(_MIN_LR)
    for train, setting in changes.items():
        validation = train.replace("data.train.", "data.validation.")
        if train in settings and settings[train].value == settings.get(validation, setting).value:
            dropped.add(validation)
    return dropped - changes.keys()


def _validated(settings: Mapping[str, Setting]) -> Config:
    """A checked Config from its settings by dotted path."""
    tree: dict[str, Any] = {}
    for path, setting in settings.items():
        *parents, name = path.split(".")
        reduce(lambda inner, parent: inner.setdefault(parent, {}), parents, tree)[name] = setting.value
    try:
        return Config.model_validate(tree)
    except ValidationError as errors:
        first = errors.errors()[0]
        path = ".".join(map(str, first["loc"]))
        source = next(setting.source for known, setting in settings.items() if f"{path}.".startswith(f"{known}."))
        raise ConfigError(f"{source}: {first['msg']}, not {reprlib.repr(first['input'])}") from errors
