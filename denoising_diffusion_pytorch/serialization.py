"""Reading files of tensors, which may come from anywhere: nothing in them is executed."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from .errors import CheckpointError


def load_tensors(path: Path) -> Any:
    """What a .safetensors file or a torch file of tensors and plain containers holds, on the CPU; raises CheckpointError where
    it is damaged, of another kind, or needs code to be unpickled.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds; all mean that the file cannot be trusted
        reason = (str(error).splitlines() or [""])[0][:200]
        said = f"cannot be loaded as plain tensors ({type(error).__name__}: {reason})"
        raise CheckpointError(f"{path}: {said}") from error
