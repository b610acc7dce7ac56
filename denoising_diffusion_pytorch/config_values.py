"""Which values a setting may have: its annotated type in config_schema.py and the ranges and choices below."""

import dataclasses
import math
import re
import types
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from . import config_schema as schema
from .config_yaml import ForeignText, show
from .errors import ConfigError

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # in no path or name; half a character cannot be written


class Setting(NamedTuple):
    """A value and the dotted key under which the user gave it."""

    value: Any
    source: str


class Rule(NamedTuple):
    """A condition on a value of the right type, and how a message words it."""

    holds: Callable[[Any], bool]
    words: str


MAX_LENGTH = 12  # levels of a network: 2^11 halvings are beyond any image


def at_least(low: float) -> Rule:
    """value >= low."""
    return Rule(lambda value: value >= low, f"at least {low}")


def between(low: float, high: float) -> Rule:
    """low <= value <= high."""
    return Rule(lambda value: low <= value <= high, f"between {low} and {high}")


def one_of(*choices: str) -> Rule:
    """One of these words."""
    return Rule(lambda value: value in choices, f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])


def each(rule: Rule, shortest: int = 1, longest: int = MAX_LENGTH) -> Rule:
    """`rule` for every element of a list of a length in this range."""
    length = str(longest) if shortest == longest else f"{shortest} to {longest}"
    return Rule(
        lambda values: shortest <= len(values) <= longest and all(map(rule.holds, values)),
        f"a list of {length} numbers, each {rule.words}",
    )


POSITIVE = Rule(lambda value: value > 0, "greater than 0")
COUNT = at_least(1)
NOT_NEGATIVE = at_least(0)
SHARE = between(0, 1)
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")
SAMPLERS = one_of(*dict.fromkeys(name for names in schema.SAMPLERS.values() for name in names))

RULES: dict[type, dict[str, Rule]] = {
    schema.DDConfig: {
        "double_z": Rule(lambda value: value, "true: the encoder must predict mean and log-variance of its posterior"),
        "ch_mult": each(COUNT),
        "attn_resolutions": each(COUNT, 0),
        "dropout": BELOW_ONE,
    }
    | dict.fromkeys(("resolution", "in_channels", "out_ch", "ch", "num_res_blocks", "z_channels", "patch_size"), COUNT),
    schema.LossConfig: {
        "discr_layers": COUNT,
        "discr_channels": Rule(lambda value: value > 0 and value % 8 == 0, "a multiple of 8"),
    }
    | dict.fromkeys(
        ("l1_weight", "l2_weight", "kl_weight", "discr_weight", "discr_start", "perceptual_weight"), NOT_NEGATIVE
    ),
    schema.FirstStageConfig: {"embed_dim": COUNT},
    schema.CondStageConfig: {"depths": each(COUNT), "fourier_scale": NOT_NEGATIVE}
    | dict.fromkeys(("in_channels", "size", "num_heads", "window_size"), COUNT),
    schema.UnetConfig: {
        "model_channels": Rule(lambda value: value > 0 and value % 2 == 0, "an even number greater than 0"),
        "channel_mult": each(COUNT),
        "attention_resolutions": each(COUNT, 0),
        "fourier_scale": NOT_NEGATIVE,
        "dropout": BELOW_ONE,
    }
    | dict.fromkeys(
        (
            "image_size",
            "in_channels",
            "out_channels",
            "num_res_blocks",
            "num_heads",
            "transformer_depth",
            "context_dim",
            "window_size",
        ),
        COUNT,
    ),
    schema.DiffusionConfig: {
        "model_type": one_of(*schema.OBJECTIVES),
        "objective": one_of(*(name for names in schema.OBJECTIVES.values() for name in names)),
        "timesteps": COUNT,
        "beta_schedule": one_of("scaled_linear", "linear", "cosine"),
        "loss_type": one_of("l2", "l1", "l1_l2"),
        "final_step_share": SHARE,
        "scale_factor": POSITIVE,
        "sampler": SAMPLERS,
        "sampling_timesteps": COUNT,
        "ddim_eta": SHARE,
    },
    schema.SourceConfig: {"missing_buildings": between(0, 4), "max_samples": COUNT},
    schema.AugmentConfig: {
        "p": SHARE,
        "rotation": between(0, 180),
        "translation": BELOW_ONE,
        "color_jitter": BELOW_ONE,
    },
    schema.DataConfig: {
        "image_size": COUNT,
        "cond_size": COUNT,
        "cond_channels": Rule(bool, "a list that is not empty"),
        "num_workers": NOT_NEGATIVE,
    },
    schema.EMAConfig: {"start_step": NOT_NEGATIVE, "update_interval": COUNT, "beta": BELOW_ONE},
    schema.OptimizerConfig: {
        "type": one_of("adamw"),
        "betas": each(BELOW_ONE, 2, 2),
        "eps": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
    },
    schema.LRConfig: {
        "type": one_of("cosine"),
        "power": NOT_NEGATIVE,
        "min_lr_ratio": SHARE,
        "warmup_steps": NOT_NEGATIVE,
    },
    schema.TrainerConfig: {
        "learning_rate": POSITIVE,
        "min_learning_rate": NOT_NEGATIVE,
        "gradient_clip": POSITIVE,
        "mixed_precision": one_of("no", "fp16", "bf16", "auto"),
        "resume_milestone": Rule(
            lambda value: value == "latest" or (type(value) is int and value >= 0), "a step or latest"
        ),
    }
    | dict.fromkeys(("num_samples", "validate_every", "keep_every", "max_bad_samples", "seed"), NOT_NEGATIVE)
    | dict.fromkeys(
        (
            "batch_size",
            "gradient_accumulation",
            "training_steps",
            "save_interval",
            "sample_interval",
            "validation_samples",
            "log_interval",
            "keep_last",
        ),
        COUNT,
    ),
    schema.SampleConfig: {"sampler": SAMPLERS, "seed": NOT_NEGATIVE}
    | dict.fromkeys(("batch_size", "steps", "num_samples"), COUNT),
}

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURALS = {int: "whole numbers", float: "numbers", bool: "truth values", str: "texts"}


@cache
def type_hints(cls: type) -> dict[str, Any]:
    """The annotations of a section, by field."""
    return get_type_hints(cls)


def apply(config: Any, settings: dict[str, Setting]) -> Any:
    """Set fields of a dataclass by dotted path, checking type, range and choice of each.

    Raises:
        ConfigError: naming the key as the user spelled it.
    """
    for path, setting in settings.items():
        *parents, name = path.split(".")
        owner = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, _checked(type(owner), name, setting))
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A dataclass as {dotted path: value}, lists being values."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = list(value) if isinstance(value, list | tuple) else value
    return flat


def checked_copy(config: Any, prefix: str = "") -> Any:
    """A deep copy of a section or Config whose every field has been checked; `prefix`: its dotted name and a dot."""
    return apply(type(config)(), {path: Setting(value, prefix + path) for path, value in flatten(config).items()})


def _checked(cls: type, name: str, setting: Setting) -> Any:
    annotation = type_hints(cls)[name]
    options = list(get_args(annotation)) if get_origin(annotation) in (types.UnionType, Union) else [annotation]
    if type(None) in options and (setting.value is None or setting.value == "None"):
        return None  # the text None too: nothing is called so, and PyYAML reads the word as text
    options = [option for option in options if option is not type(None)]
    value = next((value for option in options for value in _as(option, setting.value)), None)
    if value is None:
        words = " or ".join(_words(option) for option in options)
        remedy = _remedy(options[0], setting.value)
        raise ConfigError(f"{setting.source} must be {words}, not {show(setting.value)}{remedy}")
    rule = RULES.get(cls, {}).get(name)
    if rule is not None and not rule.holds(value):
        raise ConfigError(f"{setting.source} must be {rule.words}; it is {show(setting.value)}")
    return value


def _as(option: Any, value: Any) -> list:
    """[value as `option`], or [] if it is of another type. A whole number is a number; true is neither."""
    if get_origin(option) is list:
        if not isinstance(value, list):
            return []
        elements = [found for item in value for found in _as(get_args(option)[0], item)]
        return [elements] if len(elements) == len(value) else []
    if option is float:
        if isinstance(value, ForeignText):
            value = value.number()
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return [float(value)] if number else []
    if option is str:
        return [str(value)] if isinstance(value, str) and not _CONTROL.search(value) else []
    return [value] if type(value) is option else []


def _words(option: Any) -> str:
    return f"a list of {_PLURALS[get_args(option)[0]]}" if get_origin(option) is list else _WORDS[option]


def _remedy(option: Any, value: Any) -> str:
    """What a likely slip calls for, as the end of a message."""
    if option is bool and isinstance(value, str):
        return "; YAML's yes, no, on and off are plain words here"
    if option is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}" if abs(value) < 1e15 else ""
    if option is str and isinstance(value, int | float):
        return "; put it in quotes"
    if option is str and isinstance(value, str):
        return "; it has a control character in it"
    return ""
