"""Train a regression baseline: a network that predicts the map directly from the same condition, with the same loop.

accelerate launch scripts/train_baseline.py --cfg configs/tiny_baseline.yaml [--dry_run] [key=value ...]
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.training.setup import read_command, train_stage

train = partial(train_stage, "baseline")


def main() -> None:
    train(read_command("baseline", __doc__))


if __name__ == "__main__":
    run(main)
