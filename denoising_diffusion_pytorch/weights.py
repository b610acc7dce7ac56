"""Loads networks' weights from checkpoints and files, written by this code or by others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .build import build_model
from .checkpoint import checkpoint_to_continue, load_tensors, open_checkpoint
from .config.schema import Config
from .errors import CheckpointError, ConfigError
from .networks.autoencoder import AutoencoderKL
from .networks.blocks import zero_init


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load every tensor of a module or raise CheckpointError that names some that do not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        wrong = "; ".join(line.strip()[:200] for line in str(error).splitlines()[1:5])
        raise CheckpointError(f"{source}: weights of a different architecture: {wrong}") from error


def load_model(path: str | Path, *, use_ema: bool = True, device: str | torch.device = "cpu"):
    """Rebuild the trained model from a checkpoint folder or a results folder alone, in eval mode, with its averaged weights or
    the last ones. Returns (what `build_model` builds, Config, Checkpoint).
    """
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    model = build_model(config, checkpoint.stage)
    load_strictly(model, checkpoint.weights("averaged" if use_ema else "model"), checkpoint.path)
    return model.to(device).to(memory_format=torch.channels_last).eval(), config, checkpoint


def load_starting_weights(model: Any, config: Config, stage: str, say: Callable[[str], None] = print) -> None:
    """Fill what `build_model` builds with the weights that its run starts from: those of the checkpoint that it continues, of
    `trainer.init_from`, or of `first_stage_config.ckpt_path`; `say` is called with a line about them. Raises CheckpointError,
    or ConfigError for stage 2 with an autoencoder that is neither trained nor trainable.
    """
    first_stage = config.first_stage_config
    # the trainer, which restores the rest, warns about damaged checkpoints
    continued = checkpoint_to_continue(config, stage, warn=lambda line: None)
    if continued is not None:
        load_strictly(model, continued.weights("model"), continued.path)
    elif config.trainer.init_from:
        say(load_initial(model, config, stage))
    elif first_stage.ckpt_path and stage != "baseline":
        autoencoder = model.first_stage_model if stage == "ldm" else model
        say(load_first_stage(autoencoder, first_stage.ckpt_path, config.data.cond_channels))
    elif stage == "ldm" and not first_stage.trainable:
        needs = "stage 2 needs a trained autoencoder; set it to the results folder of train_vae.py"
        raise ConfigError(f"first_stage_config.ckpt_path: {needs}, or set first_stage_config.trainable: true")


def load_initial(model: Any, config: Config, stage: str) -> str:
    """Fill a new run's model with the averaged weights of the run that `trainer.init_from` names; returns a line that says so.

    Channels that `data.cond_channels` appends to the other run's are new inputs. Their weights start at zero, so that the
    model's predictions are unchanged at first; a decoder that becomes residual starts from the simulated map instead.
    Raises CheckpointError where the weights do not fit.
    """
    checkpoint = open_checkpoint(config.trainer.init_from)

    def refuse(misfit: bool, reason: str) -> None:
        if misfit:
            raise CheckpointError(f"{checkpoint.path}: {reason} (trainer.init_from)")

    theirs, ours = checkpoint.config, config
    known, channels = theirs.data.cond_channels, ours.data.cond_channels
    refuse(checkpoint.stage != stage, f"is of stage {checkpoint.stage}, not {stage}")
    refuse(channels[: len(known)] != known, f"data.cond_channels {channels} must begin with its {known}")
    before, now = ((c.diffusion_config.model_type, c.diffusion_config.objective) for c in (theirs, ours))
    refuse(stage == "ldm" and before != now, f"was trained for {' '.join(before)}, not {' '.join(now)}")
    was_residual, residual = (c.first_stage_config.ddconfig.decoder_residual for c in (theirs, ours))
    end_to_end = ours.diffusion_config.end_to_end.start_step is not None
    decoder_trains = stage == "vae" or ours.first_stage_config.trainable or end_to_end
    becomes_residual = stage != "baseline" and residual and not was_residual
    only = "only a decoder that is trained, as with diffusion_config.end_to_end.start_step, can become residual"
    refuse(becomes_residual and not decoder_trains, f"has ddconfig.decoder_residual: false; {only}")
    refuse(stage != "baseline" and was_residual and not residual, "has ddconfig.decoder_residual: true; keep it")
    state, fitting = checkpoint.weights("averaged"), model.state_dict()
    if stage == "ldm" and ours.diffusion_config.scale_factor is not None:
        state["scale_factor"] = fitting["scale_factor"]
    for name, weight in state.items():
        more = fitting[name].shape[1] - weight.shape[1] if name in fitting and weight.ndim == 4 else 0
        if more > 0 and len(channels) > len(known):  # the condition comes last in every layer
            state[name] = nn.functional.pad(weight, (0, 0, 0, 0, 0, more))  # (out, in, h, w)
    load_strictly(model, state, checkpoint.path)
    if becomes_residual:
        zero_init((model.first_stage_model if stage == "ldm" else model).decoder.last_layer)
    return f"initial weights from {checkpoint.path} (step {checkpoint.step:,})"


def load_first_stage(autoencoder: AutoencoderKL, path: str | Path, cond_channels: Sequence[str] = ()) -> str:
    """Fill an autoencoder from a trained one, averaged weights where there are any; returns a line that says so.

    Args:
        path: a checkpoint or results folder of either stage, a .safetensors file of an autoencoder, or a .pt / .ckpt
            of the original RadioDiff, DDM or latent-diffusion code (`ema`, `model` or `state_dict` inside).
        cond_channels: names of the condition's channels, which a decoder that sees them must have been trained with.
    """
    source, decoder = Path(path), autoencoder.decoder
    if source.is_dir():
        checkpoint = open_checkpoint(path)
        source, theirs = checkpoint.path, checkpoint.config
        if theirs.first_stage_config.ddconfig.decoder_residual != (decoder.base_channel is not None):
            raise CheckpointError(f"{source}: was trained with another first_stage_config.ddconfig.decoder_residual")
        if decoder.cond_channels and theirs.data.cond_channels != list(cond_channels):
            both = f"{theirs.data.cond_channels}, not with {list(cond_channels)}"
            raise CheckpointError(f"{source}: its decoder was trained with data.cond_channels {both}")
        state = checkpoint.weights("averaged")
    elif not source.exists():
        raise CheckpointError(f"{source}: no such file or folder (first_stage_config.ckpt_path)")
    else:
        content = load_tensors(source)
        nested = ("ema", "model", "state_dict") if isinstance(content, dict) else ()
        state = next((content[key] for key in nested if content.get(key)), content)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(f"{source}: no weights under `ema`, `model` or `state_dict`")
    for prefix in ("ema_model.", "first_stage_model."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state = {k: v for k, v in state.items() if not k.startswith("loss.")}  # the original's discriminator and LPIPS
    load_strictly(autoencoder, state, source)
    return f"first stage from {source} ({len(state)} tensors)"
