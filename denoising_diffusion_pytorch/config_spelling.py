"""The spellings of a configuration -> the names of config_schema.py.

Besides its own names a file may use CompVis' `target` / `params` wrappers around any section, a `model` section, the
`optimization` section, the data module's keys, and the keys of the original RadioDiff repository. A `target` is looked
up by its last name in a table; nothing is ever imported because of a file.
"""

import dataclasses
import difflib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from . import config_schema as schema
from .config_values import Setting, type_hints
from .config_yaml import same, show
from .errors import ConfigError

log = logging.getLogger("radiodiff")


def _sections(cls: Any, path: str) -> dict[str, type]:
    """{dotted path: dataclass} of a section and all sections inside it."""
    found = {path: cls}
    for name, kind in type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found |= _sections(kind, f"{path}.{name}".lstrip("."))
    return found


SECTIONS = _sections(schema.Config, "")
SOURCES = tuple(path for path, cls in SECTIONS.items() if cls is schema.SourceConfig)

# classes whose settings a section holds, by the last part of a `target`
TARGETS: dict[str, tuple[str, ...]] = {
    "": ("LatentDiffusion", "AutoencoderKL"),
    "first_stage_config": ("AutoencoderKL",),
    "first_stage_config.lossconfig": ("LPIPSWithDiscriminator",),
    "cond_stage_config": ("SwinConditionEncoder",),
    "unet_config": ("UNetModel", "Unet"),
    "data": ("DataModuleFromConfig",),
} | dict.fromkeys(SOURCES, ("RadioUNet_c",))

# section -> key -> the dotted paths that it spells
_OF_DIFFUSION = ("model_type", "objective", "timesteps", "sampling_timesteps", "loss_type", "scale_factor")
_TOP: dict[str, tuple[str, ...]] = {key: (f"diffusion_config.{key}",) for key in _OF_DIFFUSION}
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "": _TOP
    | {
        "optimization": ("trainer",),
        "first_stage": ("first_stage_config",),
        "unet": ("unet_config",),
        "embed_dim": ("first_stage_config.embed_dim",),
        "ckpt_path": ("first_stage_config.ckpt_path",),
        "ddconfig": ("first_stage_config.ddconfig",),
        "lossconfig": ("first_stage_config.lossconfig",),
    },
    "first_stage_config.ddconfig": {"channels": ("first_stage_config.ddconfig.in_channels",)},
    "first_stage_config.lossconfig": {
        "disc_start": ("first_stage_config.lossconfig.discr_start",),
        "disc_weight": ("first_stage_config.lossconfig.discr_weight",),
    },
    "unet_config": {
        "dim": ("unet_config.model_channels",),
        "dim_mults": ("unet_config.channel_mult",),
        "channels": ("unet_config.in_channels",),
        "cond_dim": ("unet_config.context_dim",),
    },
    "data": {
        "batch_size": ("trainer.batch_size",),
        "data_root": ("data.train.data_root", "data.validation.data_root"),
        "simulation_type": ("data.train.simulation_type", "data.validation.simulation_type"),
    },
    "trainer": {
        "lr": ("trainer.learning_rate",),
        "min_lr": ("trainer.min_learning_rate",),
        "lr_decay_power": ("trainer.lr_scheduler.power",),
        "weight_decay": ("trainer.optimizer.weight_decay",),
        "train_num_steps": ("trainer.training_steps",),
        "gradient_accumulate_every": ("trainer.gradient_accumulation",),
        "save_and_sample_every": ("trainer.save_interval",),
        "log_freq": ("trainer.log_interval",),
        "amp": ("trainer.mixed_precision",),
        "fp16": ("trainer.mixed_precision",),
        "ema_update_after_step": ("trainer.ema.start_step",),
        "ema_update_every": ("trainer.ema.update_interval",),
    },
}
ONLY_IN_MODEL = frozenset(ALIASES[""]) - {"optimization"}  # at the top level of a file these would be too vague

# sections that may also be given as the one word that names their kind
KIND_KEYS = {"trainer.optimizer": "type", "trainer.lr_scheduler": "type"}


def _side(value: Any) -> Any:
    """[320, 320] -> 320."""
    return value[0] if isinstance(value, list) and len(value) == 2 and same(value[0], value[1]) else value


def _precision(value: Any) -> Any:
    """false -> no, true -> fp16."""
    return {True: "fp16", False: "no"}[value] if isinstance(value, bool) else value


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "first_stage_config.ddconfig.resolution": _side,
    "unet_config.image_size": _side,
    "data.image_size": _side,
    "data.cond_size": _side,
    "trainer.mixed_precision": _precision,
}

RETIRED = {  # settings of earlier versions, which their files and checkpoints may still hold
    "first_stage_config.lossconfig.mask_buildings": "ori_mask is always applied, to what is certain",
}

Settings = dict[str, Setting]


def spell(tree: Any, section: str = "") -> Settings:
    """Everything a mapping says, as {dotted path of config_schema.py: Setting}.

    Args:
        tree: plain values from config_yaml.
        section: the dotted path that `tree` belongs to; "" is a whole configuration.

    Raises:
        ConfigError: an unknown key, an unknown target, or two spellings of one setting that disagree.
    """
    settings: Settings = {}
    for path, setting in _walk(tree, section, section):
        known = settings.setdefault(path, setting)
        if not same(known.value, setting.value):
            raise ConfigError(
                f"{known.source} is {show(known.value)} but {setting.source} is {show(setting.value)}, "
                f"and both mean {path}; keep one"
            )
    return settings


def _walk(tree: Any, section: str, source: str, opened: frozenset[str] = frozenset()) -> Iterator[tuple[str, Setting]]:
    """Settings below `source`, in the order of the text; `opened`: the wrappers of this section we are inside."""
    if tree is None:
        return
    if not isinstance(tree, dict):
        if section in KIND_KEYS:
            yield from _walk({KIND_KEYS[section]: tree}, section, source)
            return
        raise ConfigError(f"{source or 'a configuration'} must be a mapping (key: value lines), not {show(tree)}")
    for key, value in tree.items():
        here = _dotted(source, key)
        if _dotted(section, key) in RETIRED:
            log.warning("%s is left out: %s", here, RETIRED[_dotted(section, key)])
        elif key == "target" and (section in TARGETS or "params" in tree):
            _check_target(section, value, here)
        elif key in _wrappers(section) and key not in opened:
            yield from _walk(value, section, here, opened | {key})
        elif section == "data" and key == "wrap":
            if value is not False:
                raise ConfigError(f"{here} must be false: there is no wrapper around the datasets; leave it out")
        elif section == "first_stage_config" and key == "channels":
            yield from _widths(value, here)
        else:
            for path in _targets_of(section, key, here, "model" in opened):
                if path in SECTIONS:
                    yield from _walk(value, path, here)
                else:
                    yield path, Setting(CONVERSIONS.get(path, _same)(_flag(key, value, here)), here)


def _same(value: Any) -> Any:
    return value


def _flag(key: str, value: Any, here: str) -> Any:
    """`amp` and `fp16` are switches, unlike `mixed_precision` which they spell."""
    if key in ("amp", "fp16") and not isinstance(value, bool):
        raise ConfigError(f"{here} must be true or false, not {show(value)}")
    return value


def _wrappers(section: str) -> tuple[str, ...]:
    """Keys whose mapping is merged into the section that they stand in."""
    if section == "":
        return "params", "model"
    return ("params", "additional_params") if section in SOURCES else ("params",)


def _targets_of(section: str, key: str, here: str, in_model: bool) -> tuple[str, ...]:
    """The dotted paths that `key` sets."""
    if any(field.name == key for field in dataclasses.fields(SECTIONS[section])):
        return (_dotted(section, key),)
    if key in ALIASES.get(section, {}) and (section or in_model or key not in ONLY_IN_MODEL):
        return ALIASES[section][key]
    raise ConfigError(f"{here} is not a known key; {_suggestion(section, key, here)}")


def _suggestion(section: str, key: str, here: str) -> str:
    """The nearest known key of the section, else of the whole file, else all keys of the section."""
    fields = [field.name for field in dataclasses.fields(SECTIONS[section])]
    known = fields + [name for name in ALIASES.get(section, {}) if section or name == "optimization"]
    near = difflib.get_close_matches(key[:80], known, n=1)
    if near:
        return f"did you mean {_dotted(here.removesuffix(_word(key)).rstrip('.'), near[0])}?"
    everywhere = {
        field.name: _dotted(path, field.name)
        for path, cls in reversed(SECTIONS.items())
        for field in dataclasses.fields(cls)
    } | {name: paths[0] for names in ALIASES.values() for name, paths in names.items()}
    near = difflib.get_close_matches(key[:80], everywhere, n=1, cutoff=0.8)
    if near:
        return f"did you mean {everywhere[near[0]]}?"
    return f"known here: {', '.join(fields)}"


def _check_target(section: str, target: Any, here: str) -> None:
    known = TARGETS.get(section, ())
    if not isinstance(target, str) or target.rsplit(".", 1)[-1] not in known:
        listed = f"known here: {', '.join(known)}" if known else "this section takes none, leave it out"
        raise ConfigError(f"{here}: {show(target)} is not a known class; {listed}")


def _widths(value: Any, here: str) -> Iterator[tuple[str, Setting]]:
    """The autoencoder's widths [in, first level, second level, ...] -> in_channels, ch and ch_mult."""
    whole = isinstance(value, list) and len(value) >= 2 and all(type(item) is int and item > 0 for item in value)
    if not whole or any(width % value[1] for width in value[2:]):
        raise ConfigError(
            f"{here} must be a list [image channels, width, width, ...] whose widths are multiples of the first, "
            f"not {show(value)}"
        )
    geometry = {"in_channels": value[0], "ch": value[1], "ch_mult": [width // value[1] for width in value[1:]]}
    for name, part in geometry.items():
        yield f"first_stage_config.ddconfig.{name}", Setting(part, here)


def _word(key: str) -> str:
    """A key for a message: itself if it is an ordinary word, else quoted, short and printable."""
    return key if re.fullmatch(r"[\w-]{1,60}", key, re.ASCII) else ascii(key)[:60]


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{_word(key)}" if prefix else _word(key)
