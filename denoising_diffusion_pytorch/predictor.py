"""A trained model applied to scenes: condition -> network -> radio map at the scene's own resolution."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import Scene
from data.geometry.resize import to_native
from data.hashing import random_key
from data.measurements import POINTS_IN
from data.prepare import prepare
from data.units import GAIN_SPAN_DB

from .errors import CheckpointError, ConfigError
from .latent_diffusion import LatentDiffusion
from .networks.autoencoder import AutoencoderKL
from .networks.baselines import Regression
from .weights import load_model

RELEASED = Path(__file__).resolve().parents[1] / "released"  # weights that come with the repository; see its README.md

EXPORTED = ["meta.json", "model.safetensors", "README.md"]  # the files of an exported model
SPREAD_SAMPLERS = {"ddpm": "ddpm", "const_sde": "decoupled", "flow": "euler"}  # by diffusion_config.model_type
SPREAD_CALLS = 4
MOST_NOISE = 100  # times the noise that the network has seen; there is no use for more


@dataclass
class Prediction:
    """A model's prediction for one scene, as grey levels in [0, 1].

    Attributes:
        scene: the input.
        gain: (H, W) float32 at the scene's resolution.
        model_gain: (h, w) float32 at the network's resolution.
        truth: (h, w) float32, the scene's map brought to the network's resolution; None without one.
        std: (H, W) float32, standard deviation over the draws; `gain` is their mean, or the network's own; None for a single draw.
        draws: (K, H, W) float32; None for a single draw.
        reconstruction: (H, W) float32, the truth through the autoencoder and back: the best that the U-Net could do. None
            unless `ceiling` was set.
    """

    scene: Scene
    gain: np.ndarray
    model_gain: np.ndarray
    truth: np.ndarray | None = None
    std: np.ndarray | None = None
    draws: np.ndarray | None = None
    reconstruction: np.ndarray | None = None


class Predictor:
    """Radio maps from a stage-2 checkpoint, or a baseline's.

    Args:
        path: checkpoint folder or results folder; None for the released model.
        use_ema: the averaged weights.
        steps, sampler, noise_scale: as in `LatentDiffusion.sample`.
        pixel_noise: standard deviation in dB of independent noise on every pixel of several draws, for what the decoder
            and enlarging leave out; None: `diffusion_config.pixel_noise`. Their mean is that of the draws without it.
        num_samples: draws per scene; a prediction is their mean. A baseline without a variance has one answer. Several draws with
            neither `steps` nor `sampler` given are made to differ (`use_for_spread`).
        seed: with a scene's name it decides the noise, whatever the batch size and the order.
        device: None for the GPU if there is one.

    Raises:
        CheckpointError: a checkpoint of an autoencoder, or none at all.
        ConfigError: a sampler or a number of steps that does not fit it.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        use_ema: bool = True,
        steps: int | None = None,
        sampler: str | None = None,
        noise_scale: float | None = None,
        pixel_noise: float | None = None,
        num_samples: int = 1,
        seed: int = 0,
        device: str | None = None,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, self.config, self.checkpoint = load_model(path or RELEASED, use_ema=use_ema, device=self.device)
        if isinstance(model, AutoencoderKL):
            raise CheckpointError(f"{self.checkpoint.path}: is an autoencoder; name a checkpoint of train_cond_ldm.py")
        self.model: LatentDiffusion | Regression = model
        self.seed, self.num_samples = seed, num_samples
        self.sampler, self.steps, self.noise_scale, self.pixel_noise = "none", 1, 1.0, 0.0
        if isinstance(model, LatentDiffusion):
            self.use(sampler, steps)
            self.noise_scale = model.sampling.noise_scale if noise_scale is None else noise_scale
            self.pixel_noise = self.config.diffusion_config.pixel_noise if pixel_noise is None else pixel_noise
        elif noise_scale is not None or pixel_noise is not None:
            raise ConfigError(f"{self.checkpoint.path}: is a regression baseline; noise is for samplers")
        if not 0 < self.noise_scale <= MOST_NOISE:
            raise ConfigError(f"noise_scale is {self.noise_scale:g}; it must lie above 0, up to {MOST_NOISE}")
        if not 0 <= self.pixel_noise <= GAIN_SPAN_DB:
            raise ConfigError(f"pixel_noise is {self.pixel_noise:g}; it must lie within 0 .. {GAIN_SPAN_DB:g} dB")
        if num_samples > 1 and sampler is None and steps is None:
            self.use_for_spread()

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, **how) -> "Predictor":
        """A model from its folder, or from the Hugging Face Hub under a name such as `user/model`, downloaded once.

        Args:
            name: of the folder or on the Hub.
            revision: branch, tag or commit on the Hub.
            how: as for `Predictor`.

        Raises:
            CheckpointError: neither is there, or the Hub cannot be reached.
        """
        if Path(name).exists():
            return cls(name, **how)
        from huggingface_hub import snapshot_download  # comes with accelerate; takes a second to import
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return cls(snapshot_download(str(name), revision=revision, allow_patterns=EXPORTED), **how)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"{name}: is no folder, and not to be had from the Hugging Face Hub ({reason})"
            ) from error

    @property
    def is_told_the_simulation(self) -> bool:
        """Whether the embedded simulator's map is part of the condition; scores on that simulator's own maps then say nothing."""
        return "simulated" in self.config.data.cond_channels

    @property
    def sees_measurements(self) -> bool:
        """Whether measured points change the condition."""
        return not POINTS_IN.isdisjoint(self.config.data.cond_channels)

    @property
    def draws_differ(self) -> bool:
        """Whether several draws of one scene can be different maps."""
        return isinstance(self.model, LatentDiffusion) or self.config.baseline_config.variance

    @property
    def title(self) -> str:
        """Of the model, in tables."""
        return "latent diffusion" if isinstance(self.model, LatentDiffusion) else self.model.title

    def use(self, sampler: str | None, steps: int | None) -> None:
        """Choose sampler and number of network calls, None for the configured ones.

        Raises:
            ConfigError: a sampler or a number of steps that does not fit the model.
        """
        if not isinstance(self.model, LatentDiffusion):
            raise ConfigError("a regression baseline has no sampler")
        try:
            chosen = self.model.sampling.changed(self.model.diffusion, sampler=sampler, steps=steps)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.sampler, self.steps = str(chosen.sampler), chosen.steps

    def use_for_spread(self) -> None:
        """A sampler whose draws differ, in place of one call, with which they are nearly the same map."""
        if isinstance(self.model, LatentDiffusion) and self.steps == 1:
            self.use(SPREAD_SAMPLERS[self.config.diffusion_config.model_type], SPREAD_CALLS)

    def predict(self, scenes: Iterable[Scene], batch_size: int = 16, *, ceiling: bool = False) -> Iterator[Prediction]:
        """One prediction per scene, in order; scenes are read as they are needed. `ceiling` as in `predict_batch`."""
        scenes = iter(scenes)
        while batch := list(islice(scenes, batch_size)):
            yield from self._predict_batch(batch, ceiling)

    def _predict_batch(self, scenes: list[Scene], ceiling: bool) -> list[Prediction]:
        data = self.config.data
        samples = [prepare(scene, data.image_size, data.cond_size, data.cond_channels) for scene in scenes]
        how: dict[str, Any] = {"num_samples": self.num_samples}
        if isinstance(self.model, LatentDiffusion):
            how |= {"steps": self.steps, "sampler": self.sampler, "noise_scale": self.noise_scale}
        how["pixel_noise"] = self.pixel_noise
        return predict_batch(self.model, scenes, samples, self.device, seed=self.seed, ceiling=ceiling, **how)


@torch.no_grad()
def predict_batch(
    model: LatentDiffusion | Regression | AutoencoderKL,
    scenes: Sequence[Scene],
    samples: Sequence[dict[str, np.ndarray]],
    device: torch.device,
    *,
    seed: int = 0,
    ceiling: bool = False,
    pixel_noise: float = 0.0,
    **how,
) -> list[Prediction]:
    """Predictions for several scenes, in one batch.

    Args:
        model: a LatentDiffusion samples maps, a Regression predicts them; an AutoencoderKL reconstructs the truth, which is
            then its `gain`. Their `predict(batch)` gives the draws.
        scenes: at their own resolution.
        samples: the same as `data.presentation.prepare` gives them.
        device: of the model.
        seed: with a scene's name it decides the noise.
        pixel_noise: as for `Predictor`.
        ceiling: reconstruct the truth too, where it is known and the model can: an encoder and a decoder pass more.
        how: `num_samples`, and `steps`, `sampler` and `noise_scale` of `LatentDiffusion.predict`.
    """

    def stacked(key: str) -> torch.Tensor | None:
        arrays = [sample[key] for sample in samples if key in sample]
        return torch.from_numpy(np.stack(arrays)).to(device) if len(arrays) == len(samples) else None

    batch: dict[str, Any] = {
        "images": stacked("image"),
        "conditions": stacked("cond"),
        "masks": stacked("ori_mask"),
        "keys": [random_key(seed, scene.name) for scene in scenes],
    }
    draws = [gain[:, 0].cpu().numpy() for gain in model.predict(batch, **how)]  # each (B, h, w)
    mean = np.mean(draws, axis=0)
    if len(draws) > 1 and isinstance(model, Regression):
        mean = model.predict(batch)[0][:, 0].cpu().numpy()  # it knows its mean without the draws' noise
    known = batch["images"] is not None
    ceilings = None
    if ceiling and known and isinstance(model, LatentDiffusion):
        ceilings = model.reconstruct(batch)[:, 0].cpu().numpy()
    predictions = []
    for index, (scene, sample) in enumerate(zip(scenes, samples, strict=True)):
        natives = np.stack([to_native(gain[index], scene) for gain in draws])
        prediction = Prediction(scene, to_native(mean[index], scene), mean[index])
        if len(draws) > 1:
            natives = with_pixel_noise(natives, pixel_noise, random_key(seed, scene.name))
            prediction.std, prediction.draws = natives.std(0, ddof=1), natives
        if known:
            prediction.truth = (sample["image"][0] + 1) / 2
        if ceilings is not None:
            prediction.reconstruction = to_native(ceilings[index], scene)
        predictions.append(prediction)
    return predictions


def with_pixel_noise(draws: np.ndarray, deviation: float, key: int) -> np.ndarray:
    """Draws (K, H, W) of grey levels with independent normal noise of `deviation` dB where something is received."""
    if not deviation:
        return draws
    noise = np.random.default_rng(key).standard_normal(draws.shape, np.float32) * np.float32(deviation / GAIN_SPAN_DB)
    return np.where(draws > 0, (draws + noise).clip(0, 1), 0)
