"""Stage 2: train the conditional latent diffusion on a trained autoencoder.

accelerate launch train_cond_ldm.py --cfg ./configs/radio_train_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

from functools import partial

from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.training.setup import read_command, train_stage

train = partial(train_stage, "ldm")


def main() -> None:
    train(read_command("ldm", __doc__))


if __name__ == "__main__":
    run(main)
