"""Reading files of tensors, which may come from anywhere: nothing in them is executed."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import CheckpointError


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; raises CheckpointError where it is unreadable."""
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def load_plain(path: Path) -> Any:
    """The tensors and plain containers of a torch file, on the CPU; raises CheckpointError where it is damaged, not a torch file,
    or needs code to be unpickled.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean that the file cannot be trusted
        reason = (str(error).splitlines() or [""])[0][:200]
        said = f"cannot be loaded as plain tensors ({type(error).__name__}: {reason})"
        raise CheckpointError(f"{path}: {said}") from error
