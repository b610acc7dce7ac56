"""Tiny runs that several tests make."""

import numpy as np
import torch

from data import Scene
from data.geometry.layout import Layout
from denoising_diffusion_pytorch import checkpoint as ck
from denoising_diffusion_pytorch.build import build_model
from denoising_diffusion_pytorch.predictor import Prediction
from denoising_diffusion_pytorch.training.objectives import make_objectives
from denoising_diffusion_pytorch.training.setup import make_accelerator
from denoising_diffusion_pytorch.training.trainer import Trainer
from denoising_diffusion_pytorch.training.validation import scores_of
from tests.conftest import save_grey
from tests.tiny import tiny_batches, tiny_config


def make_trainer(folder, stage="ldm", batches=tiny_batches, validation=None, **changes):
    trainer = {"results_folder": str(folder)} | changes.pop("trainer", {})
    config = tiny_config(stage, trainer=trainer, **changes)
    accelerator = make_accelerator(config.trainer)  # seeds torch
    model = build_model(config, stage)
    if stage == "ldm":
        model.scale_factor.fill_(1.0)
    objectives = make_objectives(config, stage, model)
    return Trainer(config, stage, model, objectives, batches, accelerator=accelerator, validation=validation)


def after_each_step(trainer, look):
    """Let a trainer collect what `look(logs)` gives after every step; returns the list."""
    seen, step = [], trainer.train_step

    def watched(batches):
        logs = step(batches)
        seen.append(look(logs))
        return logs

    trainer.train_step = watched
    return seen


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
        scene = Scene("s", Layout([], (16, 16)), (3, 3), truth)
        gain = truth + self.errors.pop(0)
        prediction = Prediction(scene, gain, reconstruction=truth + 0.001)
        return {0: (prediction, scores_of(prediction))}

    def draw(self, found, path):
        save_grey(path, found[0][0].gain * 255)
