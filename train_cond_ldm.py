"""Stage 2: train the conditional latent diffusion on a trained autoencoder.

accelerate launch train_cond_ldm.py --cfg ./configs/radio_train_m.yaml [--dry_run] [key=value ...]
"""

from itertools import islice
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor, nn

from denoising_diffusion_pytorch.build import build_discriminator, build_loss
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.latent_diffusion import LatentDiffusion
from denoising_diffusion_pytorch.latents import encode_dataset
from denoising_diffusion_pytorch.launch import Start, begin, is_continued
from denoising_diffusion_pytorch.loading import build_model, load_first_stage, load_initial
from denoising_diffusion_pytorch.objectives import (
    AutoencoderObjective,
    DiscriminatorObjective,
    JointObjective,
    LatentObjective,
)

SCALE_BATCHES = 32  # micro-batches over which each process measures the latents' standard deviation


def make_objectives(config: Config, model: LatentDiffusion) -> list[nn.Module]:
    """The latent loss alone, or with `trainable: true` the joint objective and the discriminator's."""
    first_stage = config.first_stage_config
    if not first_stage.trainable:
        end_to_end = config.diffusion_config.end_to_end
        loss = build_loss(first_stage) if end_to_end.start_step is not None else None  # LPIPS may need weights
        return [LatentObjective(model, loss, end_to_end)]
    start = first_stage.lossconfig.discr_start
    discriminator = build_discriminator(first_stage)
    pixel = AutoencoderObjective(model.first_stage_model, build_loss(first_stage), discriminator, start)
    return [JointObjective(model, pixel), DiscriminatorObjective(discriminator, start)]


def require_autoencoder(config: Config) -> None:
    """Raises ConfigError where the autoencoder would stay untrained."""
    first_stage = config.first_stage_config
    known = first_stage.ckpt_path or first_stage.trainable or config.trainer.init_from
    if not known and not is_continued(config):
        raise ConfigError(
            "first_stage_config.ckpt_path: stage 2 needs a trained autoencoder; train one with train_vae.py and name its results "
            "folder here, or set first_stage_config.trainable: true to train both together"
        )


def train(start: Start) -> None:
    """Build the latent diffusion on its trained autoencoder and train it to the end."""
    config, first_stage = start.config, start.config.first_stage_config
    model = build_model(config, "ldm")
    continued, channels = is_continued(config), config.data.cond_channels
    if start.starts_from_weights:
        start.accelerator.print(load_initial(model, config, "ldm"))
    elif first_stage.ckpt_path and not continued:
        start.accelerator.print(load_first_stage(model.first_stage_model, first_stage.ckpt_path, channels))
    if config.data.cache_latents:
        if continued:  # the trainer loads its checkpoint later than the encoder is needed here
            load_first_stage(model.first_stage_model, config.trainer.results_folder, channels)
        start.data.dataset = encode_dataset(
            start.data.dataset,
            model.first_stage_model,
            Path(config.data.cache_folder or config.trainer.results_folder),
            start.accelerator,
            batch_size=config.trainer.batch_size,
            num_workers=config.data.num_workers,
        )

    def measure_scale(accelerator: Accelerator) -> None:
        given = config.diffusion_config.scale_factor is not None
        if not given and (first_stage.trainable or not start.starts_from_weights):  # else it came with the weights
            batches = islice(start.data.batches(accelerator, 0), SCALE_BATCHES)
            posteriors = (model.posterior(batch["images"], batch["moments"]) for batch in batches)
            several = accelerator.num_processes > 1

            def add_up(total: Tensor) -> Tensor:
                return accelerator.reduce(total.to(accelerator.device), "sum").cpu() if several else total

            scale = model.set_scale(posteriors, add_up)
            accelerator.print(f"latent scale factor {scale:.5f}")

    objectives = make_objectives(config, model)
    start.train(model, objectives, prepare=measure_scale, prepare_again=first_stage.trainable)


def main() -> None:
    start = begin("ldm", __doc__, require_autoencoder)
    if start is not None:
        train(start)


if __name__ == "__main__":
    run(main)
