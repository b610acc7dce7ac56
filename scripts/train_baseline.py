"""Train the yardstick: a U-Net that regresses the map from the same condition, by the same loop.

accelerate launch scripts/train_baseline.py --cfg configs/tiny_baseline.yaml [--dry_run] [key=value ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoising_diffusion_pytorch.build import build_loss
from denoising_diffusion_pytorch.cli import run
from denoising_diffusion_pytorch.launch import begin
from denoising_diffusion_pytorch.loading import build_model, load_initial
from denoising_diffusion_pytorch.objectives import RegressionObjective


def main() -> None:
    start = begin("baseline", __doc__)
    if start is not None:
        model = build_model(start.config, "baseline")
        if start.starts_from_weights:
            start.accelerator.print(load_initial(model, start.config, "baseline"))
        start.train(model, [RegressionObjective(model, build_loss(start.config.first_stage_config))])


if __name__ == "__main__":
    run(main)
