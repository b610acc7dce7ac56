"""Derives settings that follow from other settings, and finds contradictions."""

import math
import re
from collections.abc import Iterator
from typing import Any

from data.conditions import DOCUMENT_CHANNELS
from data.measurements import MEASURED
from data.measurements import SIMULATED as BASE_CHANNEL  # what a residual decoder's output is added to

from ..processes import PROCESSES
from .schema import Config, get

STAGES = {"vae": "VAE", "ldm": "LDM", "baseline": "baseline"}  # stage: suffix of its results folder's name
DD, DIFFUSION = "first_stage_config.ddconfig", "diffusion_config"


def derive(config: Config, stage: str) -> Iterator[str]:
    """Fill in every field that can be derived, and yield a sentence that names the keys for each contradiction.

    Args:
        config: valid in each field; filled in place.
        stage: `vae` (checks only what the autoencoder needs), `ldm`, or `baseline` (its image side is data.image_size).
    """
    data, dd = config.data, config.first_stage_config.ddconfig
    if stage == "baseline":  # no autoencoder determines the sides
        data.image_size = dd.resolution = data.image_size or dd.resolution
        yield from _agree(config, "data.cond_size", data.image_size, "data.image_size")
        multiple = {"radiounet": 64, "pmnet": 8}[config.baseline_config.architecture]
        yield from _must_divide("data.image_size", data.image_size, multiple)
    factor, embed_dim = dd.patch_size * 2 ** (len(dd.ch_mult) - 1), config.first_stage_config.embed_dim
    side = dd.resolution // factor
    yield from _must_divide(f"{DD}.resolution", dd.resolution, factor)
    yield from _agree(config, "data.image_size", dd.resolution, f"{DD}.resolution")
    yield from _agree(config, "unet_config.image_size", side, f"{DD}.resolution")
    for key in (f"{DD}.z_channels", "unet_config.in_channels", "unet_config.out_channels"):
        yield from _agree(config, key, embed_dim, "first_stage_config.embed_dim")
    yield from _check_discriminator(config, stage)
    yield from _fill_condition(config, side)
    yield from _fill_trainer(config, stage)
    diffusion, process = config.diffusion_config, PROCESSES[config.diffusion_config.model_type]
    diffusion.objective = diffusion.objective or process.objectives[0]
    diffusion.sampler = diffusion.sampler or process.samplers[0]
    if process.discrete:
        diffusion.timesteps = diffusion.timesteps or 1000
        diffusion.beta_schedule = diffusion.beta_schedule or "scaled_linear"
    elif diffusion.timesteps or diffusion.beta_schedule:
        yield f"{DIFFUSION}.timesteps and beta_schedule are only for model_type ddpm; set them to null"
    if stage == "ldm":
        yield from _check_networks(config, side)
        yield from _check_second_stage(config)


def is_placeholder(value: Any) -> bool:
    """Whether a value is still a placeholder: `path/to/...`, `specific_type`."""
    return re.search("(^|/)path/to(/|$)|^specific_type$", str(value)) is not None


def _agree(config: Config, key: str, derived: Any, reason: str) -> Iterator[str]:
    """Set the dotted `key` to `derived`, or check that it already has this value."""
    section, _, name = key.rpartition(".")
    if get(config, key) not in (None, derived):
        yield f"{key} is {get(config, key)}, but {reason} makes it {derived}; leave it out or make them agree"
    setattr(get(config, section), name, derived)


def _must_divide(key: str, size: int, factor: int) -> Iterator[str]:
    if size % factor:
        yield f"{key} is {size}, but the networks need a multiple of {factor}"


def _fill_condition(config: Config, side: int) -> Iterator[str]:
    data, dd, cond = config.data, config.first_stage_config.ddconfig, config.cond_stage_config
    data.cond_size = data.cond_size or cond.size or (dd.resolution if dd.decoder_cond else side)
    yield from _agree(config, "cond_stage_config.size", data.cond_size, "data.cond_size")
    if dd.decoder_cond:
        yield from _agree(config, "data.cond_size", dd.resolution, f"{DD}.decoder_cond")
    if data.cond_channels is None and cond.in_channels in (None, len(DOCUMENT_CHANNELS)):
        data.cond_channels = [*DOCUMENT_CHANNELS]
    channels = data.cond_channels or ()
    if channels:  # none: a model without data, whose channels have no names
        yield from _agree(config, "cond_stage_config.in_channels", len(channels), "the number of data.cond_channels")
    if dd.decoder_residual and not (dd.decoder_cond and BASE_CHANNEL in channels):
        yield f"{DD}.decoder_residual needs decoder_cond: true and {BASE_CHANNEL} among data.cond_channels, which it corrects"
    points, measured = data.incomplete.points, [name for name in MEASURED if name in channels]
    if len(measured) == 1 or (measured and not points) or (points and not measured and BASE_CHANNEL not in channels):
        shown = f"data.incomplete.points is {points}, and data.cond_channels has {' and '.join(measured) or 'no measured points'}"
        yield f"{shown}; give points above 0, and {BASE_CHANNEL} or both of {', '.join(MEASURED)}"
    cond.depths = cond.depths or [2] * len(config.unet_config.channel_mult)
    data.train.split, data.validation.split = data.train.split or "train", data.validation.split or "val"
    given = {name for name in data.validation.model_fields_set if not is_placeholder(getattr(data.validation, name))}
    for name in {"data_root", "simulation_type", "missing_buildings"} - given:
        setattr(data.validation, name, getattr(data.train, name))


def _fill_trainer(config: Config, stage: str) -> Iterator[str]:
    trainer, schedule = config.trainer, config.trainer.lr_scheduler
    if trainer.min_learning_rate is None or schedule.min_lr_ratio is not None:
        ratio = 0.1 if schedule.min_lr_ratio is None else schedule.min_lr_ratio  # 5e-5 -> 5e-6
        floor = float(f"{ratio * trainer.learning_rate:.12g}")  # 5e-06 rather than 5.000000000000001e-06
        if trainer.min_learning_rate is None or not math.isclose(trainer.min_learning_rate, floor, rel_tol=1e-6):
            yield from _agree(config, "trainer.min_learning_rate", floor, "trainer.lr_scheduler.min_lr_ratio")
        schedule.min_lr_ratio = None  # stated only once from here on
    if trainer.min_learning_rate > trainer.learning_rate:
        yield f"trainer.min_learning_rate is {trainer.min_learning_rate}, above trainer.learning_rate {trainer.learning_rate}"
    trainer.sample_interval = trainer.sample_interval or trainer.save_interval
    trainer.results_folder = trainer.results_folder or f"./radiodiff_results_{STAGES[stage]}"
    if trainer.init_from and config.first_stage_config.ckpt_path:
        yield "trainer.init_from and first_stage_config.ckpt_path exclude each other: both load an autoencoder"


def _check_discriminator(config: Config, stage: str) -> Iterator[str]:
    first_stage, losses = config.first_stage_config, config.first_stage_config.lossconfig
    takes_part = stage == "vae" or (stage == "ldm" and first_stage.trainable)
    side, layers = first_stage.ddconfig.resolution, losses.discr_layers
    if takes_part and losses.discr_weight and side < 3 * 2**layers:
        key = "first_stage_config.lossconfig.discr_layers"
        yield f"{key} is {layers}, too many for a {DD}.resolution of {side}; give fewer, or discr_weight: 0"


def _check_networks(config: Config, side: int) -> Iterator[str]:
    unet, cond = config.unet_config, config.cond_stage_config
    factors = [2**level for level in range(len(unet.channel_mult))]
    yield from _must_divide(f"the latent's side, from {DD}.resolution,", side, factors[-1])
    yield from _must_divide("data.cond_size", cond.size, side)
    if len(cond.depths) != len(factors):
        yield f"cond_stage_config.depths has {len(cond.depths)} numbers, unet_config.channel_mult {len(factors)}; give one per level"
    for value in set(unet.attention_resolutions) - set(factors):  # else it would be ignored silently
        yield f"unet_config.attention_resolutions has {value}, but the levels have {', '.join(map(str, factors))}"
    for name, heads in (("model_channels", unet.num_heads), ("context_dim", cond.num_heads)):
        if any(getattr(unet, name) * mult % heads for mult in unet.channel_mult):
            yield f"unet_config.{name} is {getattr(unet, name)}, which num_heads {heads} does not divide at every level"


def _check_second_stage(config: Config) -> Iterator[str]:
    diffusion, trainable = config.diffusion_config, config.first_stage_config.trainable
    process = PROCESSES[diffusion.model_type]
    for name, fitting in (("objective", process.objectives), ("sampler", process.samplers)):
        if (given := getattr(diffusion, name)) not in fitting:
            misfit = f"{DIFFUSION}.{name} is {given}, which does not fit {DIFFUSION}.model_type {diffusion.model_type}"
            yield f"{misfit}; choose {' or '.join(fitting)}"
    if process.discrete and diffusion.sampling_timesteps > diffusion.timesteps:
        yield f"{DIFFUSION}.sampling_timesteps is {diffusion.sampling_timesteps}, more than timesteps {diffusion.timesteps}"
    if trainable and diffusion.end_to_end.start_step is not None:
        yield f"{DIFFUSION}.end_to_end.start_step and first_stage_config.trainable: true exclude each other"
    augmentation = config.data.augmentation
    free = augmentation.rotation or augmentation.translation or augmentation.color_jitter
    if config.data.cache_latents and (trainable or free):  # valid only while neither the encoder nor the images change
        yield "data.cache_latents needs first_stage_config.trainable: false, no rotation, translation or color_jitter"
