"""Stage 2: train the conditional latent diffusion on a trained autoencoder.

accelerate launch train_cond_ldm.py --cfg ./configs/radio_train_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

from denoising_diffusion_pytorch.config.describe import help_config

if __name__ == "__main__":
    help_config()  # before torch, which is slow to import

from functools import partial
from itertools import islice

from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

import train_vae
from denoising_diffusion_pytorch.build import build_loss, build_model
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.errors import ConfigError
from denoising_diffusion_pytorch.latent_diffusion import LatentDiffusion
from denoising_diffusion_pytorch.training.checkpoint import is_continued
from denoising_diffusion_pytorch.training.data import TrainingData
from denoising_diffusion_pytorch.training.objectives import (
    JointObjective,
    LatentObjective,
)
from denoising_diffusion_pytorch.training.setup import make_accelerator, read_command
from denoising_diffusion_pytorch.training.trainer import Trainer
from denoising_diffusion_pytorch.training.validation import make_validation
from denoising_diffusion_pytorch.weights import load_first_stage, load_starting_weights

SCALE_BATCHES = 32  # micro-batches over which each process measures the latents' standard deviation


def make_objectives(config: Config, model: LatentDiffusion) -> list[nn.Module]:
    """The latent loss alone, or with `trainable: true` the joint objective and the discriminator's."""
    first_stage = config.first_stage_config
    if not first_stage.trainable:
        end_to_end = config.diffusion_config.end_to_end
        loss = build_loss(first_stage) if end_to_end.start_step is not None else None  # LPIPS may need weights
        return [LatentObjective(model, loss, end_to_end)]
    pixel, adversary = train_vae.make_objectives(config, model.first_stage_model)
    return [JointObjective(model, pixel), adversary]


def require_autoencoder(config: Config) -> None:
    """Raises ConfigError where the autoencoder would stay untrained."""
    first_stage = config.first_stage_config
    known = first_stage.ckpt_path or first_stage.trainable or config.trainer.init_from
    if not known and not is_continued(config, "ldm"):
        raise ConfigError(
            "first_stage_config.ckpt_path: stage 2 needs a trained autoencoder; train one with train_vae.py and name its results "
            "folder here, or set first_stage_config.trainable: true to train both together"
        )


def measure_latent_scale(model: LatentDiffusion, data: TrainingData) -> None:
    """Set the model's scale factor from the first batches of all processes."""
    batches = islice(data.batches(0), SCALE_BATCHES)
    posteriors = (model.posterior(batch["images"], batch["moments"]) for batch in batches)
    scale = model.set_scale(posteriors, lambda total: sum(gather_object([total])))
    data.accelerator.print(f"latent scale factor {scale:.5f}")


def train(config: Config, dataset: Dataset | None = None) -> None:
    """Train U-Net and condition encoder to the end, or go on with a run that was interrupted.

    Args:
        config: resolved for stage `ldm`.
        dataset: one of your own, see `data.loader.OwnSamples`; None for what the configuration names.
    """
    require_autoencoder(config)
    first_stage, trainer, diffusion = config.first_stage_config, config.trainer, config.diffusion_config
    # until the end-to-end phase the decoder takes no part
    accelerator = make_accelerator(trainer, some_unused=diffusion.end_to_end.start_step is not None)
    model = build_model(config, "ldm")
    load_starting_weights(model, config, "ldm", accelerator.print)
    objectives = make_objectives(config, model)
    data = TrainingData(config, accelerator, dataset)
    validation = make_validation(config, "ldm", accelerator)
    if config.data.cache_latents:
        if is_continued(config, "ldm"):  # the trainer restores the weights only later
            load_first_stage(model.first_stage_model, trainer.results_folder, config.data.cond_channels)
        data.cache_latents(model.first_stage_model)
    # another run's weights include its scale, which stays valid unless the encoder is trained
    scale_is_known = diffusion.scale_factor is not None or (trainer.init_from and not first_stage.trainable)
    Trainer(
        config,
        "ldm",
        model,
        objectives,
        data.batches,
        accelerator=accelerator,
        validation=validation,
        prepare=None if scale_is_known else partial(measure_latent_scale, model, data),
        prepare_again=first_stage.trainable,
    ).train()


def main() -> None:
    config = read_command("ldm", __doc__)
    if config is not None:
        train(config)


if __name__ == "__main__":
    run(main)
