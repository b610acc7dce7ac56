"""Derives what a configuration leaves open, and checks that its sections fit together."""

import math
from typing import Any

from ..errors import ConfigError
from ..processes import PROCESSES
from .schema import Config, SourceConfig

STAGES = {
    "vae": "./radiodiff_results_VAE",
    "ldm": "./radiodiff_results_LDM",
    "baseline": "./radiodiff_results_baseline",
}
MEASURED = ("measured_gain", "measured")  # channels of data/incomplete.py
DOCUMENT_CHANNELS = ("buildings", "transmitter", "cars")
BASE_CHANNEL = "simulated"  # what a residual decoder's output is added to
_RESOLUTION = "first_stage_config.ddconfig.resolution"


def derive(config: Config, stage: str) -> None:
    """Fill in every field that can be derived, and check what involves several sections.

    Args:
        config: valid in each field; filled in place.
        stage: `vae` (checks only what the autoencoder needs), `ldm`, or `baseline` (whose side is data.image_size).

    Raises:
        ConfigError: naming the keys that contradict each other, with their values.
    """
    if stage == "baseline":
        _derive_baseline(config)
    side = _derive_first_stage(config)
    _derive_condition(config, side)
    _derive_trainer(config, stage)
    unet, embed_dim = config.unet_config, config.first_stage_config.embed_dim
    _agree(unet, "unet_config.image_size", side, _RESOLUTION)
    for key in ("in_channels", "out_channels"):
        _agree(unet, f"unet_config.{key}", embed_dim, "first_stage_config.embed_dim")
    if config.diffusion_config.sampler is None:
        config.diffusion_config.sampler = PROCESSES[config.diffusion_config.model_type].samplers[0]
    if stage == "ldm":
        _check_networks(config, side)
        _check_diffusion(config)


def _agree(owner: Any, key: str, derived: Any, reason: str) -> None:
    """Set the last part of the dotted `key` on its section to `derived`, or check that it already has this value."""
    name = key.rsplit(".", 1)[-1]
    given = getattr(owner, name)
    if given is not None and given != derived:
        raise ConfigError(f"{key} is {given}, but {reason} makes it {derived}; leave it out or make them agree")
    setattr(owner, name, derived)


def _derive_baseline(config: Config) -> None:
    """The condition has the image's side, which no autoencoder determines here."""
    data, dd = config.data, config.first_stage_config.ddconfig
    data.image_size = dd.resolution = data.image_size or dd.resolution
    _agree(data, "data.cond_size", data.image_size, "data.image_size")
    _must_divide("data.image_size", data.image_size, {"radiounet": 64, "pmnet": 8}[config.baseline_config.architecture])


def _derive_first_stage(config: Config) -> int:
    """Returns the side of the latent, px."""
    dd = config.first_stage_config.ddconfig
    embed_dim = config.first_stage_config.embed_dim
    _agree(dd, "first_stage_config.ddconfig.z_channels", embed_dim, "first_stage_config.embed_dim")
    for key in ("in_channels", "out_ch"):
        if getattr(dd, key) != 1:
            raise ConfigError(f"first_stage_config.ddconfig.{key} is {getattr(dd, key)}; a radio map has 1 channel")
    sides = [dd.resolution // (dd.patch_size * 2**level) for level in range(len(dd.ch_mult))]
    _must_divide(_RESOLUTION, dd.resolution, dd.patch_size * 2 ** (len(dd.ch_mult) - 1))
    _known_levels("first_stage_config.ddconfig.attn_resolutions", dd.attn_resolutions, sides)
    return sides[-1]


def _must_divide(key: str, size: int, factor: int) -> None:
    if size % factor:
        raise ConfigError(f"{key} is {size}, which the networks' levels do not divide; choose a multiple of {factor}")


def _known_levels(key: str, wanted: list[int], levels: list[int]) -> None:
    """Refuse attention at a level that does not exist, which would be ignored silently."""
    unknown = [value for value in wanted if value not in levels]
    if unknown:
        raise ConfigError(f"{key} names {unknown[0]}, which no level has; there are {', '.join(map(str, levels))}")


def _derive_condition(config: Config, side: int) -> None:
    data, dd, cond = config.data, config.first_stage_config.ddconfig, config.cond_stage_config
    _agree(data, "data.image_size", dd.resolution, _RESOLUTION)
    if data.cond_size is None:
        data.cond_size = cond.size or (dd.resolution if dd.decoder_cond else side)
    if dd.decoder_cond and data.cond_size != dd.resolution:
        raise ConfigError(
            f"data.cond_size is {data.cond_size}, but first_stage_config.ddconfig.decoder_cond needs the whole "
            f"condition; set data.cond_size: {dd.resolution}"
        )
    if data.cond_channels is None and cond.in_channels in (None, len(DOCUMENT_CHANNELS)):
        data.cond_channels = [*DOCUMENT_CHANNELS]
    if data.cond_channels is not None:  # None: a model without data, whose channels have no names
        _agree(cond, "cond_stage_config.in_channels", len(data.cond_channels), "the number of data.cond_channels")
    if dd.decoder_residual and not (dd.decoder_cond and BASE_CHANNEL in (data.cond_channels or ())):
        raise ConfigError(
            f"first_stage_config.ddconfig.decoder_residual needs decoder_cond: true and {BASE_CHANNEL} among "
            "data.cond_channels, from which the decoder predicts the difference"
        )
    _check_measurements(config)
    _agree(cond, "cond_stage_config.size", data.cond_size, "data.cond_size")
    cond.depths = cond.depths or [2] * len(config.unet_config.channel_mult)
    for source, split in ((data.train, "train"), (data.validation, "val"), (config.sample.source, "test")):
        source.split = source.split or split
    _inherit(data.validation, data.train)


def _check_measurements(config: Config) -> None:
    """The channels of measured points go together, and with a number of points; a simulation is corrected by them."""
    points, channels = config.data.incomplete.points, config.data.cond_channels or ()
    named = [name for name in MEASURED if name in channels]
    if len(named) == 1 or (named and not points) or (points and not named and BASE_CHANNEL not in channels):
        raise ConfigError(
            f"data.incomplete.points is {points}, and data.cond_channels has {' and '.join(named) or 'no measured points'}; "
            f"measured points need a number and both of {', '.join(MEASURED)}, or {BASE_CHANNEL}, which they correct"
        )


def _inherit(validation: SourceConfig, train: SourceConfig) -> None:
    """Settings of the validation data default to those of the training data."""
    for name in ("data_root", "simulation_type", "missing_buildings"):
        if name not in validation.model_fields_set:
            setattr(validation, name, getattr(train, name))


def _derive_trainer(config: Config, stage: str) -> None:
    trainer, schedule = config.trainer, config.trainer.lr_scheduler
    if trainer.min_learning_rate is None or schedule.min_lr_ratio is not None:
        ratio = 0.1 if schedule.min_lr_ratio is None else schedule.min_lr_ratio  # 5e-5 -> 5e-6
        floor = float(f"{ratio * trainer.learning_rate:.12g}")  # 5e-06 rather than 5.000000000000001e-06
        if trainer.min_learning_rate is None or not math.isclose(trainer.min_learning_rate, floor, rel_tol=1e-6):
            _agree(trainer, "trainer.min_learning_rate", floor, "trainer.lr_scheduler.min_lr_ratio")
        schedule.min_lr_ratio = None  # stated only once from here on
    if trainer.min_learning_rate > trainer.learning_rate:
        raise ConfigError(
            f"trainer.min_learning_rate is {trainer.min_learning_rate}, "
            f"above trainer.learning_rate {trainer.learning_rate}"
        )
    trainer.sample_interval = trainer.sample_interval or trainer.save_interval
    trainer.results_folder = trainer.results_folder or STAGES[stage]
    if trainer.init_from and config.first_stage_config.ckpt_path:
        raise ConfigError(
            "trainer.init_from and first_stage_config.ckpt_path exclude each other: "
            "a checkpoint of either stage holds the autoencoder"
        )


def _check_networks(config: Config, side: int) -> None:
    unet, cond = config.unet_config, config.cond_stage_config
    levels = len(unet.channel_mult)
    _must_divide(f"the latent's side, from {_RESOLUTION},", side, 2 ** (levels - 1))
    if cond.size % side:
        raise ConfigError(f"data.cond_size is {cond.size}, no multiple of the latent's side; choose one of {side}")
    if len(cond.depths) != levels:
        raise ConfigError(
            f"cond_stage_config.depths has {len(cond.depths)} numbers, unet_config.channel_mult {levels}; "
            "give one per level"
        )
    _known_levels(
        "unet_config.attention_resolutions", unet.attention_resolutions, [2**level for level in range(levels)]
    )
    for key, width, heads in (
        ("unet_config.model_channels", unet.model_channels, unet.num_heads),
        ("unet_config.context_dim", unet.context_dim, cond.num_heads),
    ):
        if any(width * mult % heads for mult in unet.channel_mult):
            raise ConfigError(f"{key} is {width}, which num_heads {heads} does not divide at every level")


def _check_diffusion(config: Config) -> None:
    diffusion, first = config.diffusion_config, config.first_stage_config
    process = PROCESSES[diffusion.model_type]
    for key, fitting in (("objective", process.objectives), ("sampler", process.samplers)):
        given = getattr(diffusion, key)
        if given not in fitting:
            raise ConfigError(
                f"diffusion_config.{key} is {given}, which does not fit "
                f"diffusion_config.model_type {diffusion.model_type}; choose {' or '.join(fitting)}"
            )
    if process.discrete and diffusion.sampling_timesteps > diffusion.timesteps:
        raise ConfigError(
            f"diffusion_config.sampling_timesteps is {diffusion.sampling_timesteps}, "
            f"more than diffusion_config.timesteps {diffusion.timesteps}"
        )
    if first.trainable and diffusion.end_to_end.start_step is not None:
        raise ConfigError(
            "diffusion_config.end_to_end.start_step and first_stage_config.trainable: true exclude each other; "
            "joint training trains the decoder from the first step"
        )
    if config.data.cache_latents:  # valid only while neither the encoder nor the images change
        if first.trainable:
            raise ConfigError(
                "data.cache_latents needs an encoder that stays; first_stage_config.trainable: true trains it"
            )
        for key in ("rotation", "translation", "color_jitter"):
            if getattr(config.data.augmentation, key):
                raise ConfigError(
                    "data.cache_latents allows the eight symmetries only; "
                    f"set data.augmentation.{key}: 0, or cache_latents: false"
                )
