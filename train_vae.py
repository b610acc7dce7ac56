"""Stage 1: train the autoencoder.

accelerate launch train_vae.py --cfg configs/first_radio_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

from torch.utils.data import Dataset

from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.training.setup import read_command, train_stage


def train(config: Config, dataset: Dataset | None = None) -> None:
    """Train the autoencoder to the end, or continue an interrupted run. `config` is resolved; `dataset` is one of
    your own, see `data.samples.dataset.OwnSamples`, or None for what the configuration names.
    """
    train_stage(config, "vae", dataset)


def main() -> None:
    train(read_command("vae", __doc__))


if __name__ == "__main__":
    run(main)
