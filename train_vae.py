"""Stage 1: train the autoencoder.

accelerate launch train_vae.py --cfg configs/first_radio_m.yaml [--dry_run] [key=value ...]
"""

from denoising_diffusion_pytorch.build import build_autoencoder, build_discriminator, build_loss
from denoising_diffusion_pytorch.checkpoint import load_first_stage
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.launch import (
    TrainingData,
    dry_run,
    make_validation,
    read_arguments,
    require_no_placeholders,
    set_up_logging,
)
from denoising_diffusion_pytorch.objectives import AutoencoderObjective, DiscriminatorObjective
from denoising_diffusion_pytorch.processes import make_accelerator
from denoising_diffusion_pytorch.trainer import Trainer


def main() -> None:
    config, only_check = read_arguments("vae", __doc__)
    if only_check:
        dry_run(config, "vae")
        return
    require_no_placeholders(config)
    accelerator = make_accelerator(config.trainer)
    set_up_logging(accelerator)
    data = TrainingData(config)

    first_stage = config.first_stage_config
    autoencoder = build_autoencoder(first_stage, config.cond_stage_config.in_channels)
    if first_stage.ckpt_path:
        accelerator.print(load_first_stage(autoencoder, first_stage.ckpt_path))
    start = first_stage.lossconfig.discr_start
    discriminator = build_discriminator(first_stage)

    Trainer(
        config,
        "vae",
        autoencoder,
        [
            AutoencoderObjective(autoencoder, build_loss(first_stage), discriminator, start),
            DiscriminatorObjective(discriminator, start),
        ],
        data.batches,
        accelerator=accelerator,
        validation=make_validation(config, "vae", accelerator),
    ).train()


if __name__ == "__main__":
    run(main)
