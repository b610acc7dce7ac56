"""Stage 1: train the autoencoder.

accelerate launch train_vae.py --cfg configs/first_radio_m.yaml [--dry_run] [key=value ...]
"""

from torch import nn

from denoising_diffusion_pytorch.autoencoder import AutoencoderKL
from denoising_diffusion_pytorch.build import build_autoencoder, build_discriminator, build_loss
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.launch import Start, begin
from denoising_diffusion_pytorch.loading import load_first_stage, load_initial
from denoising_diffusion_pytorch.objectives import AutoencoderObjective, DiscriminatorObjective


def make_objectives(config: Config, autoencoder: AutoencoderKL) -> list[nn.Module]:
    """The autoencoder's and the discriminator's objectives."""
    first_stage = config.first_stage_config
    discriminator, first_step = build_discriminator(first_stage), first_stage.lossconfig.discr_start
    generator = AutoencoderObjective(autoencoder, build_loss(first_stage), discriminator, first_step)
    return [generator, DiscriminatorObjective(discriminator, first_step)]


def train(start: Start) -> None:
    """Build the autoencoder and train it to the end."""
    first_stage = start.config.first_stage_config
    autoencoder = build_autoencoder(first_stage, start.config.cond_stage_config.in_channels)
    if start.starts_from_weights:
        start.accelerator.print(load_initial(autoencoder, start.config, "vae"))
    elif first_stage.ckpt_path:
        start.accelerator.print(load_first_stage(autoencoder, first_stage.ckpt_path, start.config.data.cond_channels))
    start.train(autoencoder, make_objectives(start.config, autoencoder))


def main() -> None:
    start = begin("vae", __doc__)
    if start is not None:
        train(start)


if __name__ == "__main__":
    run(main)
