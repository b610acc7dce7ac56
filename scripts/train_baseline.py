"""Train a regression baseline: a network that predicts the map directly from the same condition, with the same loop.

accelerate launch scripts/train_baseline.py --cfg configs/tiny_baseline.yaml [--dry_run] [key=value ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.config.schema import Config
from denoising_diffusion_pytorch.training.data import TrainingData
from denoising_diffusion_pytorch.training.objectives import make_objectives
from denoising_diffusion_pytorch.training.setup import end_processes, make_accelerator, make_validation, read_command
from denoising_diffusion_pytorch.training.trainer import Trainer
from denoising_diffusion_pytorch.weights import load_starting_weights


def train(config: Config) -> None:
    """Train to the end, or continue an interrupted run. `config` is resolved."""
    accelerator = make_accelerator(config.trainer)
    model = build_model(config, "baseline")
    load_starting_weights(model, config, "baseline", accelerator.print)
    objectives = make_objectives(config, "baseline", model)
    validation = make_validation(config, "baseline", accelerator)
    data = TrainingData(config, accelerator)
    Trainer(config, "baseline", model, objectives, data.batches, accelerator, validation).train()


def main() -> None:
    train(read_command("baseline", __doc__))
    end_processes()


if __name__ == "__main__":
    run(main)
