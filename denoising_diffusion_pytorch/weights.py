"""Networks with the weights that a file or a checkpoint holds, ours or of other code."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .build import build_model
from .checkpoint import Checkpoint, checkpoint_to_continue, open_checkpoint
from .config.schema import Config
from .errors import CheckpointError, ConfigError
from .networks.autoencoder import AutoencoderKL
from .serialization import load_plain, load_safetensors


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load every tensor of a module or raise CheckpointError that names what does not fit."""
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(
        f"{name} is {theirs.get(name, 'missing')}, not {ours.get(name, 'in the model')}"
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    )
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(f"{source}: weights of another architecture: {'; '.join(wrong[:4])}{more}")
    module.load_state_dict(state)


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
    `trainer.init_from`, or of `first_stage_config.ckpt_path`; `say` is called with a line about them.

    Raises:
        CheckpointError: the weights are not there, or do not fit.
        ConfigError: stage 2 with an autoencoder that nothing has trained or trains.
    """
    first_stage = config.first_stage_config
    # without a word about damaged ones: the trainer, which restores the rest, says it
    continued = checkpoint_to_continue(config, stage, warn=lambda line: None)
    if continued is not None:
        load_strictly(model, continued.weights("model"), continued.path)
    elif config.trainer.init_from:
        say(load_initial(model, config, stage))
    elif first_stage.ckpt_path and stage != "baseline":
        autoencoder = model.first_stage_model if stage == "ldm" else model
        say(load_first_stage(autoencoder, first_stage.ckpt_path, config.data.cond_channels))
    elif stage == "ldm" and not first_stage.trainable:
        raise ConfigError(
            "first_stage_config.ckpt_path: stage 2 needs a trained autoencoder; train one with train_vae.py and name its results "
            "folder here, or set first_stage_config.trainable: true to train both together"
        )


def load_initial(model: nn.Module, config: Config, stage: str) -> str:
    """Fill a new run's model with the weights of the run that `trainer.init_from` names, averaged ones where there are any;
    returns a line that says so.

    Channels that `data.cond_channels` appends to the other run's are new inputs. Their weights start at zero, so that the
    model's predictions are unchanged at first; a decoder that becomes residual starts from the simulated map instead.

    Raises:
        CheckpointError: not there, of another stage, of other channels, of another objective, or of another architecture.
    """
    checkpoint = open_checkpoint(config.trainer.init_from)
    if checkpoint.stage != stage:
        raise CheckpointError(f"{checkpoint.path}: is of stage {checkpoint.stage}, not {stage} (trainer.init_from)")
    theirs, trained = checkpoint.config, f"{checkpoint.path}: was trained with"
    before, now = theirs.data.cond_channels, config.data.cond_channels
    if now[: len(before)] != before:
        begin = f"[{', '.join(before)}]; [{', '.join(now)}] must begin with them"
        raise CheckpointError(f"{trained} data.cond_channels {begin}")
    for name in ("model_type", "objective") if stage == "ldm" else ():
        given, ours = getattr(theirs.diffusion_config, name), getattr(config.diffusion_config, name)
        if given != ours:
            raise CheckpointError(f"{trained} diffusion_config.{name} {given}, not {ours}")
    state, fitting = checkpoint.weights("averaged"), model.state_dict()
    if stage == "ldm" and config.diffusion_config.scale_factor is not None:
        state["scale_factor"] = fitting["scale_factor"]
    if len(now) > len(before):
        state = {name: _with_new_inputs(value, fitting.get(name)) for name, value in state.items()}
    load_strictly(model, state, checkpoint.path)
    if stage != "baseline":
        end_to_end = config.diffusion_config.end_to_end.start_step is not None
        frozen = stage == "ldm" and not (config.first_stage_config.trainable or end_to_end)
        _start_residual_decoder(model.first_stage_model if stage == "ldm" else model, config, checkpoint, frozen)
    return f"initial weights from {checkpoint.path} (step {checkpoint.step:,})"


def _with_new_inputs(weight: Tensor, fitting: Tensor | None) -> Tensor:
    """A convolution's weight (out, in, h, w) with zeros for further inputs: the condition's channels come last in every layer."""
    if fitting is None or weight.ndim != 4 or fitting.shape[1] <= weight.shape[1]:
        return weight
    return nn.functional.pad(weight, (0, 0, 0, 0, 0, fitting.shape[1] - weight.shape[1]))


def _start_residual_decoder(autoencoder: Any, config: Config, checkpoint: Checkpoint, frozen: bool) -> None:
    """Let a decoder that becomes residual start from the condition; refuse what would change a residual one's base."""
    ours, theirs = (c.first_stage_config.ddconfig.decoder_residual for c in (config, checkpoint.config))
    if theirs and not ours:
        said = "its decoder is residual; keep first_stage_config.ddconfig.decoder_residual: true"
        raise CheckpointError(f"{checkpoint.path}: {said}")
    if ours and not theirs:
        if frozen:
            said = "decoder_residual starts the decoder's last layer anew, which nothing trains"
            raise CheckpointError(f"{checkpoint.path}: {said}; set diffusion_config.end_to_end.start_step")
        autoencoder.decoder.start_from_condition()


def load_first_stage(autoencoder: AutoencoderKL, path: str | Path, cond_channels: Sequence[str] = ()) -> str:
    """Fill an autoencoder from a trained one, averaged weights where there are any; returns a line that says so.

    Args:
        path: a checkpoint or results folder of either stage, a .safetensors file of an autoencoder, or a .pt / .ckpt
            of the original RadioDiff, DDM or latent-diffusion code (`ema`, `model` or `state_dict` inside).
        cond_channels: names of the condition's channels, which a decoder that sees them must have been trained with.

    Raises:
        CheckpointError: not there, not readable without running code, of another architecture, or of other channels.
    """
    source = path = Path(path)
    if path.is_dir():
        checkpoint = open_checkpoint(path)
        source, theirs = checkpoint.path, checkpoint.config.data.cond_channels
        is_residual = autoencoder.decoder.base_channel is not None
        if checkpoint.config.first_stage_config.ddconfig.decoder_residual != is_residual:
            raise CheckpointError(f"{source}: was trained with another first_stage_config.ddconfig.decoder_residual")
        if autoencoder.decoder.cond_channels and theirs != list(cond_channels):
            both = f"[{', '.join(theirs)}], not with [{', '.join(cond_channels)}]"
            raise CheckpointError(f"{source}: its decoder was trained with data.cond_channels {both}")
        state = checkpoint.weights("averaged")
    elif not path.exists():
        raise CheckpointError(f"{path}: no such file or folder (first_stage_config.ckpt_path)")
    else:
        state = load_safetensors(path) if path.suffix == ".safetensors" else _load_foreign(path)
    prefix = "first_stage_model."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state = {k: v for k, v in state.items() if not k.startswith("loss.")}  # the original's discriminator and LPIPS
    load_strictly(autoencoder, state, source)
    return f"first stage from {source} ({len(state)} tensors)"


def _load_foreign(path: Path) -> dict[str, Tensor]:
    """The autoencoder's tensors in a .pt of the original code; nothing in the file is executed."""
    content = load_plain(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    averaged = content.get("ema")
    if isinstance(averaged, dict) and any(str(key).startswith("ema_model.") for key in averaged):
        content = {k.removeprefix("ema_model."): v for k, v in averaged.items() if k.startswith("ema_model.")}
    else:
        content = content.get("model", content.get("state_dict", content))
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: no weights under `ema`, `model` or `state_dict`")
    return content
