"""Reading files from untrusted sources."""

from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError


def load_plain(path: Path) -> Any:
    """The tensors and plain containers of a torch file, on the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: the file is damaged, not a torch file, or needs code to be unpickled.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean that the file cannot be trusted
        reason = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"{path}: cannot be loaded as plain tensors ({type(error).__name__}: {reason})"
        ) from error
