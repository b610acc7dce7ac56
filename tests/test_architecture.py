"""The structure itself: who may import whom."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = "denoising_diffusion_pytorch"
TRAINING = {f"{MODEL}/training"}
EVALUATION = {"evaluation"}

# A room (a folder, or a file of a folder's top level) and the rooms that it may import; everything else is refused, and
# rooms are listed from the bottom up, so that no circle can be written down.
ALLOWED: dict[str, set[str]] = {}
