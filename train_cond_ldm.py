"""Stage 2: train the conditional latent diffusion on a trained autoencoder.

accelerate launch train_cond_ldm.py --cfg ./configs/radio_train_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

from torch.utils.data import Dataset

from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.training.data import LatentScale, TrainingData
from denoising_diffusion_pytorch.training.objectives import make_objectives
from denoising_diffusion_pytorch.training.setup import make_accelerator, read_command
from denoising_diffusion_pytorch.training.trainer import Trainer
from denoising_diffusion_pytorch.training.validation import make_validation
from denoising_diffusion_pytorch.weights import load_starting_weights


def train(config: Config, dataset: Dataset | None = None) -> None:
    """Train U-Net and condition encoder to the end, or continue an interrupted run. `config` is resolved; `dataset` is one of
    your own, see `data.samples.dataset.OwnSamples`, or None for what the configuration names.
    """
    joint, diffusion = config.first_stage_config.trainable, config.diffusion_config
    # until the end-to-end phase the decoder takes no part
    accelerator = make_accelerator(config.trainer, some_unused=diffusion.end_to_end.start_step is not None)
    model = build_model(config, "ldm")
    load_starting_weights(model, config, "ldm", accelerator.print)
    objectives = make_objectives(config, "ldm", model)
    data = TrainingData(config, accelerator, dataset)
    validation = make_validation(config, "ldm", accelerator)
    if config.data.cache_latents:
        data.cache_latents(model.first_stage_model)
    # another run's weights include its scale, which stays valid unless the encoder is trained
    scale_is_known = diffusion.scale_factor is not None or (config.trainer.init_from and not joint)
    latent_scale = None if scale_is_known else LatentScale(model, data, changes=joint)
    Trainer(config, "ldm", model, objectives, data.batches, accelerator, validation, latent_scale).train()


def main() -> None:
    config = read_command("ldm", __doc__)
    if config is not None:
        train(config)


if __name__ == "__main__":
    run(main)
