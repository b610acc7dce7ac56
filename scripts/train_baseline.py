"""Train the yardstick: a U-Net that regresses the map from the same condition, by the same loop.

accelerate launch scripts/train_baseline.py --cfg configs/tiny_baseline.yaml [--dry_run] [key=value ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoising_diffusion_pytorch.build import build_loss
from denoising_diffusion_pytorch.checkpoint import build_model
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.launch import (
    TrainingData,
    dry_run,
    make_validation,
    read_arguments,
    require_no_placeholders,
    set_up_logging,
)
from denoising_diffusion_pytorch.objectives import RegressionObjective
from denoising_diffusion_pytorch.processes import make_accelerator
from denoising_diffusion_pytorch.trainer import Trainer


def main() -> None:
    config, only_check = read_arguments("baseline", __doc__)
    if only_check:
        dry_run(config, "baseline")
        return
    require_no_placeholders(config)
    accelerator = make_accelerator(config.trainer)
    set_up_logging(accelerator)
    data = TrainingData(config)
    model = build_model(config, "baseline")
    Trainer(
        config,
        "baseline",
        model,
        [RegressionObjective(model, build_loss(config.first_stage_config))],
        data.batches,
        accelerator=accelerator,
        validation=make_validation(config, "baseline", accelerator),
    ).train()


if __name__ == "__main__":
    run(main)
