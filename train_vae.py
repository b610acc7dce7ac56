"""Stage 1: train the autoencoder.

accelerate launch train_vae.py --cfg configs/first_radio_m.yaml [--dry_run] [--help_config] [key=value ...]
"""

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
    accelerator = make_accelerator(config.trainer)
    model = build_model(config, "vae")
    load_starting_weights(model, config, "vae", accelerator.print)
    objectives = make_objectives(config, "vae", model)
    validation = make_validation(config, "vae", accelerator)
    data = TrainingData(config, accelerator, dataset)
    Trainer(config, "vae", model, objectives, data.batches, accelerator, validation).train()


def main() -> None:
    train(read_command("vae", __doc__))
    end_processes()


if __name__ == "__main__":
    run(main)
