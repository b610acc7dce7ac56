"""Strict YAML -> the models of schema.py, and back; an unknown, mistyped or contradictory setting is a ConfigError of one line.

A file may use the design document's other names: `target` and `params` around a section, the keys of its `optimization`
section and of its data module. A `target` is looked up by its class name; a file never causes an import.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import ConfigError
from .derive import STAGES, derive
from .schema import DEFAULTS, Config, Section, get, number

SECTIONS = {""} | {key.rpartition(".")[0] for key in DEFAULTS}
WRAPPERS = ("params", "additional_params", "model")
CLASSES = [
    "LatentDiffusion", "AutoencoderKL", "SwinConditionEncoder", "UNetModel", "DataModuleFromConfig", "RadioUNet_c",
]  # fmt: skip
ALIASES = {
    "optimization": "trainer",
    "first_stage_config.ddconfig.channels": "first_stage_config.ddconfig.in_channels",
    "data.batch_size": "trainer.batch_size",
    "trainer.lr": "trainer.learning_rate",
    "trainer.min_lr": "trainer.min_learning_rate",
    "trainer.lr_decay_power": "trainer.lr_scheduler.power",
    "trainer.weight_decay": "trainer.optimizer.weight_decay",
    "diffusion_config.final_step_share": "diffusion_config.final_step_fraction",  # of earlier checkpoints
}
# accepted if off: the document's, and of earlier checkpoints
WITHOUT_EFFECT = {"data.wrap", "diffusion_config.ddim_eta"}

SIGN = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<", "multipleOf": "multiple of"}
TYPES = {"integer": "whole number", "boolean": "true or false", "string": "text", "null": ""}


def load_config(path: str | Path, overrides: Sequence[str] = (), *, stage: str | None = "ldm") -> Config:
    """A Config from a YAML file (an empty one means the design document's values) and `key=value` overrides, resolved for a
    stage; None: nothing is derived.

    Raises:
        ConfigError: one line that begins with the file's name.
    """
    try:
        config = parse_config(read_yaml(Path(path).read_text(encoding="utf-8")), overrides)
        config = resolve(config, stage) if stage else config
        if stage and config.data.cond_channels is None:
            given = f"cond_stage_config.in_channels is {config.cond_stage_config.in_channels}"
            raise ConfigError(f"{given}; name that many data.cond_channels, or leave it out")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return config


def parse_config(mapping: Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> Config:
    """A Config from a mapping in any spelling, with nothing derived yet (see `resolve`).

    Args:
        mapping: plain values, or sections; what is left out has its default.
        overrides: `key=value` strings, dotted keys in any spelling, which win over the mapping. Values are in YAML, but
            texts as they are.

    Raises:
        ConfigError: naming the key.
    """
    settings = _flat(mapping)
    for override in overrides:
        settings |= _flat(_override_tree(override))  # the last of several wins
    return _validated(settings)


def resolve(config: Config, stage: str) -> Config:
    """A copy of `config` in which every field that can be derived is filled, for stage `vae`, `ldm` or `baseline`.

    Raises:
        ConfigError: naming the key, or the keys that contradict each other.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}")
    parse_config(config.model_dump())
    config = config.model_copy(deep=True)
    for problem in derive(config, stage):
        raise ConfigError(problem)
    return config


def to_yaml(config: Config) -> str:
    """YAML with every setting; it loads back to an equal Config, once resolved."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def differences(a: Config, b: Config) -> list[str]:
    """What differs, one line per setting: `trainer.seed: 0 -> 1`."""
    return [f"{key}: {get(a, key)!r} -> {get(b, key)!r}" for key in DEFAULTS if get(a, key) != get(b, key)]


def settings_table(word: str = "") -> str:
    """The settings whose line contains `word`: `trainer.seed=0  # meaning (type and range)`."""
    lines = [
        f"# {path}: {field['description']}"
        if "$ref" in field
        else f"{path}={_written(field['default'])}  # {field['description']} ({_kind(field)})"
        for path, field in _fields()
    ]
    return "\n".join(line for line in lines if word.lower() in line.lower())


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice with different values, of which yaml would take the last."""

    def compose_mapping_node(self, anchor):
        node, values = super().compose_mapping_node(anchor), dict[str, object]()
        for key, value in node.value:
            if values.setdefault(str(key.value), value.value) != value.value:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice; keep one", problem_mark=key.start_mark)
        return node


def read_yaml(text: str) -> Any:
    """What a text in YAML holds; ConfigError for what is not valid, or gives a key twice."""
    try:
        return yaml.load(text, StrictLoader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:  # odd tags, deep nesting
        raise ConfigError(f"is not valid YAML ({' '.join(str(error).split())})") from error


def _override_tree(override: str) -> dict[str, Any]:
    """`a.b=1` -> {a: {b: 1}}."""
    key, text = (part.strip() for part in override.partition("=")[::2])
    if not (key and text):
        message = f"{reprlib.repr(override)} on the command line is not key=value"
        raise ConfigError(f"{message}, e.g. trainer.batch_size=4")
    parts, path = key.split("."), ""
    for part in parts:
        path = path if part in WRAPPERS else _path(path, part)
    try:
        is_text = path in _texts() and not re.match("(null|Null|NULL|~)$|['\"]", text)
        tree: Any = text if is_text else read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{key}={text} on the command line {error}; quote the value as YAML does") from error
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def _path(section: str, key: Any) -> str:
    """The dotted path of a key in a section, in schema.py's spelling."""
    path = f"{section}.{key}".lstrip(".")
    return ALIASES.get(path, path)


def _flat(tree: Any) -> dict[str, Any]:
    """All settings of a configuration by their dotted path in schema.py; two spellings of one must agree."""
    settings: dict[str, Any] = {}
    for path, value in _walk(tree, ""):
        known = settings.setdefault(path, value)
        if known is not value and number(known) != number(value):
            raise ConfigError(f"{path} is given twice, as {known!r} and as {value!r}; keep one")
    return settings


def _walk(tree: Any, section: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of all settings below `section`."""
    if isinstance(tree, Section):
        tree = {name: getattr(tree, name) for name in type(tree).model_fields if name in tree.model_fields_set}
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{section or 'the file'} must be a mapping (key: value lines), not {reprlib.repr(tree)}")
    for key, value in (tree or {}).items():
        path = _path(section, key)
        if key == "target":
            if str(value).rsplit(".", 1)[-1] not in CLASSES:
                raise ConfigError(f"{path}: {reprlib.repr(value)} is not a known class; known: {', '.join(CLASSES)}")
        elif key in WRAPPERS:
            yield from _walk(value, section)
        elif path in SECTIONS:
            yield from _walk(_plain(path, value), path)
        elif path in DEFAULTS:
            yield path, _plain(path, value)
        elif path not in WITHOUT_EFFECT or value:
            raise ConfigError(f"{' '.join(path.split()):.200} is not a known key; {_suggestion(path)}")


def _plain(path: str, value: Any) -> Any:
    """Tuples -> lists, paths -> texts, the text None (which PyYAML does not convert) -> None, and the document's short forms."""
    if path in ("trainer.optimizer", "trainer.lr_scheduler") and isinstance(value, str):
        return {"type": value}
    if path == "trainer.mixed_precision" and isinstance(value, bool):
        return "fp16" if value else "no"
    value = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return None if isinstance(value, str) and value == "None" else value


def _suggestion(path: str) -> str:
    """The nearest known keys: by the whole path, else by the last name, else where to look."""
    names = {key.rpartition(".")[2]: key for key in reversed([*DEFAULTS])}
    near = difflib.get_close_matches(path[:120], [*DEFAULTS, *SECTIONS], n=1, cutoff=0.7)
    near = near or [names[name] for name in difflib.get_close_matches(path.rpartition(".")[2][:80], names, n=1)]
    return f"did you mean {near[0]}?" if near else "--help_config lists all"


def _validated(settings: Mapping[str, Any]) -> Config:
    """A checked Config from its settings by dotted path."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, name = path.split(".")
        reduce(lambda inner, parent: inner.setdefault(parent, {}), parents, tree)[name] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as errors:
        first = errors.errors()[0]
        path = ".".join(map(str, first["loc"]))
        key = next(known for known in settings if f"{path}.".startswith(f"{known}."))
        raise ConfigError(f"{key}: {first['msg']}, not {reprlib.repr(first['input'])}") from errors


@cache
def _texts() -> set[str]:
    """The settings that are texts, which the command line takes as they are: a path may have ` #` in it, a name be a number."""
    return {path for path, field in _fields() if "$ref" not in field and _kind(field) == TYPES["string"]}


def _fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted path and JSON schema of every section and setting; a section's has a `$ref`."""
    schema = Config.model_json_schema()

    def below(section: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, field in section["properties"].items():
            yield f"{path}{name}", field
            if "$ref" in field:
                yield from below(schema["$defs"][field["$ref"].rpartition("/")[2]], f"{path}{name}.")

    return below(schema, "")


def _written(value: Any) -> str:
    return json.dumps(value).replace('"', "").replace(", ", ",")  # as the command line takes it


def _kind(field: dict[str, Any]) -> str:
    """Type and range of a field of a JSON schema, in words; null is not mentioned."""
    if "anyOf" in field:
        return " or ".join(filter(None, map(_kind, field["anyOf"])))
    if "enum" in field or "const" in field:
        return " | ".join(map(_written, field.get("enum", [field.get("const")])))
    if field["type"] == "array":
        return f"list of: {_kind(field['items'])}"
    bounds = [f"{sign} {field[name]:g}" for name, sign in SIGN.items() if name in field]
    return " ".join([TYPES.get(field["type"], field["type"]), *bounds])
