"""Fill what a configuration leaves to be derived, and check that its sections fit together."""

import math
from typing import Any

from .config_schema import OBJECTIVES, SAMPLERS, Config, SourceConfig
from .config_values import checked_copy
from .config_yaml import show
from .errors import ConfigError

STAGES = {
    "vae": "./radiodiff_results_VAE",
    "ldm": "./radiodiff_results_LDM",
    "baseline": "./radiodiff_results_baseline",
}
MIN_LR_RATIO = 0.1  # 5e-5 -> 5e-6, as in the document

_RESOLUTION = "first_stage_config.ddconfig.resolution"


def resolve(config: Config, stage: str) -> Config:
    """A complete copy of `config`: no field that can be derived is None any more.

    Args:
        config: sections as read or made; not changed.
        stage: `vae` (checks only what the autoencoder needs), `ldm`, or `baseline` (whose side is data.image_size).

    Raises:
        ConfigError: naming the keys that contradict each other, with their values.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage must be one of {', '.join(STAGES)}, not {show(stage)}")
    config = checked_copy(config)
    if stage == "baseline":
        _resolve_baseline(config)
    side = _resolve_first_stage(config)
    _resolve_unet(config, side)
    _resolve_data(config, side)
    _resolve_cond_stage(config)
    _resolve_diffusion(config)
    _resolve_trainer(config, stage)
    if stage == "ldm":
        _check_networks(config, side)
        _check_diffusion(config)
    return config


def _agree(owner: Any, key: str, derived: Any, reason: str) -> None:
    """Set the last part of the dotted `key` on its section to `derived`, or check that it is that already."""
    name = key.rsplit(".", 1)[-1]
    given = getattr(owner, name)
    if given is not None and given != derived:
        raise ConfigError(
            f"{key} is {show(given)} but {reason} makes it {show(derived)}; leave it out or make them agree"
        )
    setattr(owner, name, derived)


def _resolve_baseline(config: Config) -> None:
    """The condition has the image's side, and there is no autoencoder to set it."""
    data, dd = config.data, config.first_stage_config.ddconfig
    data.image_size = dd.resolution = data.image_size or dd.resolution
    _agree(data, "data.cond_size", data.image_size, "data.image_size")
    factor = 2 ** (len(config.baseline_config.channel_mult) - 1)
    if data.image_size % factor:
        raise ConfigError(
            f"data.image_size is {data.image_size}, which the levels of baseline_config.channel_mult do not divide; choose a "
            f"multiple of {factor}"
        )


def _resolve_first_stage(config: Config) -> int:
    """-> side of the latent, px."""
    first = config.first_stage_config
    dd = first.ddconfig
    _agree(dd, "first_stage_config.ddconfig.z_channels", first.embed_dim, "first_stage_config.embed_dim")
    for key in ("in_channels", "out_ch"):
        if getattr(dd, key) != 1:
            raise ConfigError(f"first_stage_config.ddconfig.{key} is {getattr(dd, key)}; a radio map has 1 channel")
    factor = dd.patch_size * 2 ** (len(dd.ch_mult) - 1)
    if dd.resolution % factor:
        raise ConfigError(
            f"{_RESOLUTION} is {dd.resolution}, which the autoencoder's factor {factor} (patch_size {dd.patch_size} x "
            f"2^(len(ch_mult) - 1)) does not divide; choose a multiple of {factor}"
        )
    sides = [dd.resolution // (dd.patch_size * 2**level) for level in range(len(dd.ch_mult))]
    _known_levels("first_stage_config.ddconfig.attn_resolutions", dd.attn_resolutions, sides, "feature maps' sides")
    return sides[-1]


def _known_levels(key: str, wanted: list[int], levels: list[int], what: str) -> None:
    """Attention asked for at a level that does not exist would be left out without a word."""
    for value in wanted:
        if value not in levels:
            raise ConfigError(f"{key} names {value}, which no level has; the {what} are {', '.join(map(str, levels))}")


def _resolve_unet(config: Config, side: int) -> None:
    unet, embed_dim = config.unet_config, config.first_stage_config.embed_dim
    resolution = config.first_stage_config.ddconfig.resolution
    _agree(unet, "unet_config.image_size", side, f"{_RESOLUTION} ({resolution} / {resolution // side})")
    _agree(unet, "unet_config.in_channels", embed_dim, "first_stage_config.embed_dim")
    _agree(unet, "unet_config.out_channels", embed_dim, "first_stage_config.embed_dim")


def _resolve_data(config: Config, side: int) -> None:
    data, dd = config.data, config.first_stage_config.ddconfig
    _agree(data, "data.image_size", dd.resolution, _RESOLUTION)
    if data.cond_size is None:
        data.cond_size = config.cond_stage_config.size or (dd.resolution if dd.decoder_cond else side)
    if dd.decoder_cond and data.cond_size != dd.resolution:
        raise ConfigError(
            f"data.cond_size is {data.cond_size}, but first_stage_config.ddconfig.decoder_cond needs the condition "
            f"at the full {_RESOLUTION} of {dd.resolution}; set data.cond_size: {dd.resolution}"
        )
    _derive(data.train, split="train")
    _derive(data.validation, split="val", data_root=data.train.data_root)
    _derive(config.sample.source, split="test")


def _derive(source: SourceConfig, **derived: Any) -> None:
    for name, value in derived.items():
        if getattr(source, name) is None:
            setattr(source, name, value)


def _resolve_cond_stage(config: Config) -> None:
    cond, data = config.cond_stage_config, config.data
    _agree(cond, "cond_stage_config.in_channels", len(data.cond_channels), "the number of data.cond_channels")
    _agree(cond, "cond_stage_config.size", data.cond_size, "data.cond_size")
    if cond.depths is None:
        cond.depths = [2] * len(config.unet_config.channel_mult)


def _resolve_diffusion(config: Config) -> None:
    diffusion = config.diffusion_config
    if diffusion.sampler is None:
        diffusion.sampler = SAMPLERS[diffusion.model_type][0]


def _resolve_trainer(config: Config, stage: str) -> None:
    trainer, schedule = config.trainer, config.trainer.lr_scheduler
    if trainer.min_learning_rate is None:
        if schedule.min_lr_ratio is None:
            schedule.min_lr_ratio = MIN_LR_RATIO
        floor = schedule.min_lr_ratio * trainer.learning_rate
        trainer.min_learning_rate = float(f"{floor:.12g}")  # 5e-06 rather than 5.000000000000001e-06
    elif schedule.min_lr_ratio is None:
        schedule.min_lr_ratio = trainer.min_learning_rate / trainer.learning_rate
    implied = schedule.min_lr_ratio * trainer.learning_rate
    if not math.isclose(trainer.min_learning_rate, implied, rel_tol=1e-6):
        raise ConfigError(
            f"trainer.min_learning_rate is {trainer.min_learning_rate} but trainer.lr_scheduler.min_lr_ratio is "
            f"{schedule.min_lr_ratio}, which makes it {implied:.6g} with trainer.learning_rate "
            f"{trainer.learning_rate}; keep one"
        )
    if trainer.min_learning_rate > trainer.learning_rate:
        raise ConfigError(
            f"trainer.min_learning_rate is {trainer.min_learning_rate}, above trainer.learning_rate "
            f"{trainer.learning_rate}"
        )
    if trainer.sample_interval is None:
        trainer.sample_interval = trainer.save_interval
    if trainer.init_from and config.first_stage_config.ckpt_path:
        raise ConfigError(
            "trainer.init_from and first_stage_config.ckpt_path exclude each other: a checkpoint of either stage holds the autoencoder"
        )
    if trainer.results_folder is None:
        trainer.results_folder = STAGES[stage]


def _check_networks(config: Config, side: int) -> None:
    unet, cond = config.unet_config, config.cond_stage_config
    levels = len(unet.channel_mult)
    if side % 2 ** (levels - 1):
        raise ConfigError(
            f"{_RESOLUTION} gives latents of {side} px, which the {levels} levels of unet_config.channel_mult "
            f"cannot halve {levels - 1} times; they need a multiple of {2 ** (levels - 1)}"
        )
    if cond.size % side:
        raise ConfigError(
            f"data.cond_size is {cond.size}, which is no multiple of the latent's side; choose one of {side}"
        )
    if len(cond.depths) != levels:
        raise ConfigError(
            f"cond_stage_config.depths has {len(cond.depths)} numbers but unet_config.channel_mult has {levels}; "
            "give one a level"
        )
    factors = [2**level for level in range(levels)]
    _known_levels("unet_config.attention_resolutions", unet.attention_resolutions, factors, "downsampling factors")
    for width_key, width, section in (
        ("unet_config.model_channels", unet.model_channels, "unet_config"),
        ("unet_config.context_dim", unet.context_dim, "cond_stage_config"),
    ):
        heads = getattr(config, section).num_heads
        if any(width * mult % heads for mult in unet.channel_mult):
            raise ConfigError(
                f"{width_key} is {width}, which {section}.num_heads {heads} does not divide at every level; "
                f"choose a multiple of {heads}"
            )


def _check_diffusion(config: Config) -> None:
    diffusion = config.diffusion_config
    for key, choices in (("objective", OBJECTIVES), ("sampler", SAMPLERS)):
        fitting = choices[diffusion.model_type]
        if getattr(diffusion, key) not in fitting:
            raise ConfigError(
                f"diffusion_config.{key} is {getattr(diffusion, key)}, which does not fit diffusion_config.model_type "
                f"{diffusion.model_type}; choose {' or '.join(fitting)}"
            )
    if diffusion.sampling_timesteps > diffusion.timesteps:
        raise ConfigError(
            f"diffusion_config.sampling_timesteps is {diffusion.sampling_timesteps}, more than "
            f"diffusion_config.timesteps {diffusion.timesteps}"
        )
    if config.data.cache_latents:
        _check_cached_latents(config)
    if diffusion.end_to_end.start_step is not None and config.first_stage_config.trainable:
        raise ConfigError(
            "diffusion_config.end_to_end.start_step and first_stage_config.trainable: true exclude each other; joint training "
            "trains the decoder from the first step"
        )


def _check_cached_latents(config: Config) -> None:
    """Latents are worth keeping only where neither the encoder nor the images can become others."""
    if config.first_stage_config.trainable:
        raise ConfigError(
            "data.cache_latents: true needs an encoder that stays as it is; with first_stage_config.trainable: true it is trained"
        )
    for key in ("rotation", "translation", "color_jitter"):
        if getattr(config.data.augmentation, key):
            raise ConfigError(
                f"data.cache_latents: true allows the eight symmetries only; set data.augmentation.{key}: 0, or cache_latents: false"
            )
