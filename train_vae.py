"""Stage 1: train the autoencoder.

accelerate launch train_vae.py --cfg configs/first_radio_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

from functools import partial

from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.training.setup import read_command, train_stage

train = partial(train_stage, "vae")


def main() -> None:
    train(read_command("vae", __doc__))


if __name__ == "__main__":
    run(main)
