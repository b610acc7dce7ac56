"""A trained model applied to scenes: condition -> network -> radio map at the scene's own resolution."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from data import Scene, prepare
from data.resize import to_native

from .checkpoint import load_model
from .errors import CheckpointError, ConfigError
from .latent_diffusion import LatentDiffusion


@dataclass
class Prediction:
    """What a model says of one scene, as grey levels in [0, 1].

    Attributes:
        scene: the input.
        gain: (H, W) float32 at the scene's resolution.
        model_gain: (h, w) float32 at the network's resolution.
        truth: (h, w) float32, the scene's map brought to the network's resolution; None without one.
        reconstruction: (H, W) float32, the truth through the autoencoder and back: the best that the U-Net could do.
    """

    scene: Scene
    gain: np.ndarray
    model_gain: np.ndarray
    truth: np.ndarray | None = None
    reconstruction: np.ndarray | None = None


class Predictor:
    """Samples radio maps from a stage-2 checkpoint.

    Args:
        path: checkpoint folder or results folder.
        use_ema: the averaged weights.
        steps, sampler: as in `LatentDiffusion.sample`.
        seed: with a scene's name it decides the noise, whatever the batch size and the order.
        device: None for the GPU if there is one.

    Raises:
        CheckpointError: not a stage-2 checkpoint.
        ConfigError: a sampler or a number of steps that does not fit it.
    """

    def __init__(
        self,
        path: str,
        *,
        use_ema: bool = True,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        device: str | None = None,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, self.config, self.checkpoint = load_model(path, use_ema=use_ema, device=self.device)
        if not isinstance(model, LatentDiffusion):
            raise CheckpointError(f"{self.checkpoint.path}: is an autoencoder; name a checkpoint of train_cond_ldm.py")
        self.model: LatentDiffusion = model
        self.seed = seed
        try:
            self.sampler, self.steps = model.sampling(sampler, steps)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def predict(self, scenes: Iterable[Scene], batch_size: int = 16) -> Iterator[Prediction]:
        """One prediction a scene, in order; scenes are read as they are needed."""
        scenes = iter(scenes)
        while batch := list(islice(scenes, batch_size)):
            yield from self._predict_batch(batch)

    def _predict_batch(self, scenes: list[Scene]) -> list[Prediction]:
        data = self.config.data
        samples = [prepare(scene, data.image_size, data.cond_size, data.cond_channels) for scene in scenes]
        conditions, masks = (
            torch.from_numpy(np.stack([sample[key] for sample in samples])).to(self.device)
            for key in ("cond", "ori_mask")
        )
        keys = [zlib.crc32(scene.name.encode()) + (self.seed << 32) for scene in scenes]
        maps = (
            self.model.sample(conditions, masks, steps=self.steps, sampler=self.sampler, keys=keys)[:, 0].cpu().numpy()
        )
        predictions = []
        for scene, sample, gain in zip(scenes, samples, maps, strict=True):  # gain (h, w)
            native = to_native(gain, sample["ori_mask"][0], scene.buildings)
            predictions.append(Prediction(scene, native, gain))
        if all("image" in sample for sample in samples):
            images = torch.from_numpy(np.stack([sample["image"] for sample in samples])).to(self.device)
            ceilings = self.model.reconstruct(images, conditions, masks)[:, 0].cpu().numpy()
            for prediction, sample, ceiling in zip(predictions, samples, ceilings, strict=True):
                prediction.truth = (sample["image"][0] + 1) / 2
                prediction.reconstruction = to_native(ceiling, sample["ori_mask"][0], prediction.scene.buildings)
        return predictions
