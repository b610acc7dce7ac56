"""A trained model applied to scenes: condition -> network -> radio map at the scene's own resolution."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.conditions import condition
from data.resize import area_mask, to_model_image, to_native
from data.scene import Scene

from .checkpoint import load_model
from .config_schema import Config
from .errors import CheckpointError
from .latent_diffusion import LatentDiffusion
from .trainer import choose_precision


@dataclass
class Prediction:
    """What a model says of one scene, as grey levels in [0, 1].

    Attributes:
        scene: the input.
        gain: (H, W) float32 at the scene's resolution.
        model_gain: (h, w) float32 at the network's resolution.
        truth: (h, w) float32, the scene's map brought to the network's resolution; None without one.
    """

    scene: Scene
    gain: np.ndarray
    model_gain: np.ndarray
    truth: np.ndarray | None


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
        self.sampler = sampler or model.diffusion_config.sampler
        self.steps = steps or model.diffusion_config.sampling_timesteps

    def predict(self, scenes: Sequence[Scene], batch_size: int = 16) -> Iterator[Prediction]:
        """One prediction a scene, in order."""
        for start in range(0, len(scenes), batch_size):
            yield from self._predict_batch([scenes[i] for i in range(start, min(start + batch_size, len(scenes)))])

    def _predict_batch(self, scenes: list[Scene]) -> list[Prediction]:
        data = self.config.data
        conditions = np.stack([condition(scene, data.cond_channels, data.cond_size) for scene in scenes])
        masks = np.stack([area_mask(scene.buildings, data.image_size) for scene in scenes])[:, None]
        keys = [zlib.crc32(scene.name.encode()) + (self.seed << 32) for scene in scenes]
        maps = self.model.sample(
            torch.from_numpy(conditions).to(self.device),
            torch.from_numpy(masks).to(self.device),
            steps=self.steps,
            sampler=self.sampler,
            keys=keys,
        )
        maps = maps[:, 0].cpu().numpy()  # (B, h, w)
        return [
            Prediction(
                scene=scene,
                gain=to_native(gain, mask[0], scene.buildings),
                model_gain=gain,
                truth=None if scene.gain is None else to_model_image(scene.gain, data.image_size),
            )
            for scene, gain, mask in zip(scenes, maps, masks, strict=True)
        ]
