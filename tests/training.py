"""Tiny runs that several tests make."""

import numpy as np
import torch

from data import Scene
from data.geometry.layout import Layout
from denoising_diffusion_pytorch.build import build_autoencoder, build_discriminator, build_loss, build_model
from denoising_diffusion_pytorch.predictor import Prediction
from denoising_diffusion_pytorch.training import checkpoint as ck
from denoising_diffusion_pytorch.training.objectives import (
    AutoencoderObjective,
    DiscriminatorObjective,
    LatentObjective,
)
from denoising_diffusion_pytorch.training.setup import make_accelerator
from denoising_diffusion_pytorch.training.trainer import Trainer
from tests.conftest import save_grey
from tests.tiny import tiny_batches, tiny_config


def make_trainer(folder, stage="ldm", batches=tiny_batches, **changes):
    trainer = {"results_folder": str(folder)} | changes.pop("trainer", {})
    config = tiny_config(stage, trainer=trainer, **changes)
    accelerator = make_accelerator(config.trainer)  # seeds torch
    first = config.first_stage_config
    if stage == "ldm":
        model = build_model(config, "ldm")
        model.scale_factor.fill_(1.0)
        objectives = [LatentObjective(model, build_loss(config.first_stage_config), config.diffusion_config.end_to_end)]
    else:
        model, start = build_autoencoder(config), first.lossconfig.discr_start
        discriminator = build_discriminator(first)
        objectives = [
            AutoencoderObjective(model, build_loss(first), discriminator, start),
            DiscriminatorObjective(discriminator, start),
        ]
    return Trainer(config, stage, model, objectives, batches, accelerator=accelerator)


def weights(folder, step, name="model"):
    return ck.find_checkpoint(folder, step).weights(name)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class OneScene:
    """Stands in for Validation: a scene whose prediction is as good as `errors` says, validation by validation."""

    def __init__(self, errors):
        self.errors, self.asked, self.models = list(errors), [], []

    def predict(self, model, only_drawn=False):
        self.asked.append("drawn" if only_drawn else "all")
        self.models.append(model)
        truth = np.full((16, 16), 0.5, np.float32)
        truth[3, 3] = 0.501  # a flat map has no detail
        scene = Scene("s", Layout([], (16, 16)), (3, 3), truth)
        gain = truth + self.errors.pop(0)
        return {0: Prediction(scene, gain, gain, truth, reconstruction=truth + 0.001)}

    def draw(self, predictions, path):
        save_grey(path, predictions[0].gain * 255)
