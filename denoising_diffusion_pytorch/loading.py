"""Networks with the weights that a file or a checkpoint holds, ours or of other code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .build import build_autoencoder, build_baseline
from .checkpoint import load_safetensors, open_checkpoint
from .config_schema import Config
from .errors import CheckpointError
from .latent_diffusion import LatentDiffusion
from .serialization import load_plain


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load every tensor of a module or raise CheckpointError that names what does not fit."""
    ours = module.state_dict()
    wrong = [f"{k} is missing" for k in ours.keys() - state.keys()] + [
        f"{k} is unknown" for k in state.keys() - ours.keys()
    ]
    wrong += [
        f"{k} is {tuple(state[k].shape)}, not {tuple(ours[k].shape)}"
        for k in ours.keys() & state.keys()
        if state[k].shape != ours[k].shape
    ]
    if wrong:
        wrong = sorted(wrong)
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(f"{source}: weights of another geometry: {'; '.join(wrong[:4])}{more}")
    module.load_state_dict(state)


def load_model(path: str | Path, *, use_ema: bool = True, device: str | torch.device = "cpu"):
    """Rebuild the trained model from a checkpoint alone, in eval mode.

    Args:
        path: a checkpoint folder or a results folder.
        use_ema: the averaged weights instead of the last ones.

    Returns:
        (what `build_model` builds, Config, Checkpoint).
    """
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    state = checkpoint.weights("model")
    if use_ema:
        state |= checkpoint.weights("ema")
    model = build_model(config, checkpoint.stage)
    load_strictly(model, state, checkpoint.path)
    return model.to(device).to(memory_format=torch.channels_last).eval(), config, checkpoint


def build_model(config: Config, stage: str) -> Any:
    """The network of a stage from its resolved configuration: AutoencoderKL (`vae`), LatentDiffusion (`ldm`) or
    RegressionUnet (`baseline`).
    """
    if stage == "baseline":
        return build_baseline(config.baseline_config, config.cond_stage_config.in_channels)
    if stage == "vae":
        return build_autoencoder(config.first_stage_config, config.cond_stage_config.in_channels)
    return LatentDiffusion(
        config.first_stage_config, config.cond_stage_config, config.unet_config, config.diffusion_config
    )


def load_first_stage(autoencoder: nn.Module, path: str | Path) -> str:
    """Fill an autoencoder from a trained one, averaged weights where there are any.

    Args:
        path: a checkpoint or results folder of either stage, a .safetensors file of an autoencoder, or a .pt / .ckpt
            of the original RadioDiff, DDM or latent-diffusion code (`ema`, `model` or `state_dict` inside).

    Returns:
        a line saying what was loaded.

    Raises:
        CheckpointError: not there, not readable without running code, or of another geometry.
    """
    path = Path(path)
    if path.is_dir():
        checkpoint = open_checkpoint(path)
        state, source = checkpoint.weights("model") | checkpoint.weights("ema"), checkpoint.path
    elif not path.exists():
        raise CheckpointError(f"{path}: no such file or folder (first_stage_config.ckpt_path)")
    elif path.suffix == ".safetensors":
        state, source = load_safetensors(path), path
    else:
        state, source = _load_foreign(path), path
    prefix = "first_stage_model."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state = {
        key: value for key, value in state.items() if not key.startswith("loss.")
    }  # the original's discriminator, LPIPS
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
