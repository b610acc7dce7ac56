"""Stage 2: train the conditional latent diffusion on a trained autoencoder.

accelerate launch train_cond_ldm.py --cfg ./configs/radio_train_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

from functools import partial

from torch.utils.data import Dataset

from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.training.data import TrainingData
from denoising_diffusion_pytorch.training.objectives import make_objectives
from denoising_diffusion_pytorch.training.setup import end_processes, make_accelerator, make_validation, read_command
from denoising_diffusion_pytorch.training.trainer import Trainer
from denoising_diffusion_pytorch.weights import load_starting_weights


def train(config: Config, dataset: Dataset | None = None) -> None:
    """Train to the end, or continue an interrupted run. `config` is resolved; `dataset` is one of your own, see
    `data.samples.dataset.OwnSamples`, or None for what the configuration names.
    """
    settings = config.diffusion_config
    # until the end-to-end phase the decoder takes no part
    accelerator = make_accelerator(config.trainer, some_unused=settings.end_to_end.start_step is not None)
    model = build_model(config, "ldm")
    load_starting_weights(model, config, "ldm", accelerator.print)
    objectives = make_objectives(config, "ldm", model)
    validation = make_validation(config, "ldm", accelerator)
    data = TrainingData(config, accelerator, dataset)
    if config.data.cache_latents:
        data.cache_latents(model.first_stage_model)
    # another run's weights include its scale, which stays valid unless the encoder is trained
    has_scale = config.trainer.init_from and not config.first_stage_config.trainable
    measure = None if settings.scale_factor or has_scale else partial(data.measure_scale, model)
    Trainer(config, "ldm", model, objectives, data.batches, accelerator, validation, measure).train()


def main() -> None:
    train(read_command("ldm", __doc__))
    end_processes()


if __name__ == "__main__":
    run(main)
